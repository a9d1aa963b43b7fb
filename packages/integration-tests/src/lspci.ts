import type { PciFunction } from "@virtkit/interface"

/** What `lspci -nn -vvv` of Debian's pciutils says of one function, as far as a VM decides it. */
export interface ListedFunction {
  /** Such as "00:03.0". */
  readonly address: string
  readonly classCode: number
  readonly vendorId: number
  readonly deviceId: number
  readonly revisionId: number
  /** As "1 Memory 32-bit, non-prefetchable 8192", by index. */
  readonly regions: readonly string[]
  /** As "count=3 table=1:0 pba=1:1000"; undefined without MSI-X. */
  readonly msix: string | undefined
  readonly msixEnabled: boolean
  /** Of the vendor-specific capabilities of virtio: "bar 4 offset 2000 size 8", in the order of the list. */
  readonly structures: readonly string[]
  readonly driver: string | undefined
}

/** A line that says that lspci does not like what it found. It has no name for virtio's configuration access. */
const UNCLEAN =
  /unknown header|!!!|<(?!unknown>$|[TM]Abort|PERR|TAbort)|\[(disabled|virtual|size=\?\?)|broken|bogus|ignored/i

/** The lines of a listing that are no clean description of a device. */
export function uncleanLines(listing: string): string[] {
  return listing.split("\n").filter((line) => UNCLEAN.test(line))
}

/** Takes a listing apart. */
export function parseLspci(listing: string): ListedFunction[] {
  return listing
    .split(/\n(?=[0-9a-f]{2}:[0-9a-f]{2}\.\d )/)
    .map((text) => text.trim())
    .filter((text) => text !== "")
    .map(parseFunction)
}

const HEAD =
  /^(\S+) .*\[([0-9a-f]{4})\]: .*\[([0-9a-f]{4}):([0-9a-f]{4})\](?: \(rev ([0-9a-f]{2})\))?(?: \(prog-if ([0-9a-f]{2}).*)?$/m

function parseFunction(text: string): ListedFunction {
  const [, address = "", classes = "", vendor = "", device = "", revision = "0", interfaceCode = "0"] =
    HEAD.exec(text) ?? []
  const msix =
    /MSI-X: Enable([+-]) Count=(\d+).*\n\s*Vector table: BAR=(\d) offset=(\w+)\n\s*PBA: BAR=(\d) offset=(\w+)/.exec(
      text,
    )
  const [, enabled, count, tableBar, table, pbaBar, pba] = msix ?? []
  return {
    address,
    classCode: Number.parseInt(classes, 16) * 256 + Number.parseInt(interfaceCode, 16),
    vendorId: Number.parseInt(vendor, 16),
    deviceId: Number.parseInt(device, 16),
    revisionId: Number.parseInt(revision, 16),
    regions: Array.from(
      text.matchAll(/Region (\d): (Memory|I\/O ports) at \w+(?: \(([^)]*)\))? \[size=(\d+)([KMG]?)\]/g),
      ([, index, kind, type = "", size, unit]) => `${index} ${kind} ${type} ${Number(size) * UNITS[unit!]!}`,
    ),
    msix: msix ? `count=${count} table=${tableBar}:${short(table)} pba=${pbaBar}:${short(pba)}` : undefined,
    msixEnabled: enabled === "+",
    structures: Array.from(
      text.matchAll(/Vendor Specific Information: VirtIO: .*\n\s*BAR=(\d) offset=(\w+) size=(\w+)/g),
      ([, bar, offset, size]) => `bar ${bar} offset ${short(offset)} size ${short(size)}`,
    ),
    driver: /Kernel driver in use: (\S+)/.exec(text)?.[1],
  }
}

const UNITS: Readonly<Record<string, number>> = { "": 1, K: 2 ** 10, M: 2 ** 20, G: 2 ** 30 }

/** Hexadecimal digits without leading zeros. */
function short(digits: string | undefined): string {
  return Number.parseInt(digits ?? "0", 16).toString(16)
}

/** What lspci should say of a function, from what it declares of itself. */
export function declared(fn: PciFunction): Omit<ListedFunction, "address" | "driver" | "msixEnabled"> {
  const { vendorId, deviceId, classCode, revisionId = 0 } = fn.identity
  const { msix } = fn
  return {
    vendorId,
    deviceId,
    classCode,
    revisionId,
    regions: fn.bars.map(({ index, kind, prefetchable, size }) => {
      if (kind === "io") return `${index} I/O ports  ${size}`
      const type = `${kind === "memory64" ? 64 : 32}-bit, ${prefetchable ? "" : "non-"}prefetchable`
      return `${index} Memory ${type} ${size}`
    }),
    msix: msix
      ? `count=${msix.vectors} table=${msix.bar}:${msix.tableOffset.toString(16)} pba=${msix.bar}:${msix.pbaOffset.toString(16)}`
      : undefined,
    structures: fn.capabilities
      .filter(({ id }) => id === VENDOR_SPECIFIC)
      .map(({ body }) => structureOf(body)),
  }
}

const VENDOR_SPECIFIC = 0x09

/** struct virtio_pci_cap (virtio 1.3, section 4.1.4) without the ID and the pointer, which the bus has. */
function structureOf(body: Uint8Array): string {
  const view = new DataView(body.buffer, body.byteOffset, body.byteLength)
  const [bar, offset, size] = [view.getUint8(2), view.getUint32(6, true), view.getUint32(10, true)]
  return `bar ${bar} offset ${offset.toString(16)} size ${size.toString(16)}`
}

/** The interrupts of /proc/interrupts: by name, how often each CPU got it. */
export function parseInterrupts(text: string): Map<string, number[]> {
  const lines = text.matchAll(/^ *\d+:((?: +\d+)+) +.* (\S+)$/gm)
  return new Map(
    Array.from(lines, ([, counts = "", name = ""]) => [name, counts.trim().split(/ +/).map(Number)]),
  )
}
