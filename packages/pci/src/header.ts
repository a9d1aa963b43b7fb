import type { PciBar, PciIdentity } from "@virtkit/interface"
import { type ConfigSpace, le } from "./config-space.js"
import * as reg from "./constants.js"

/** What the registers that both header types have depend on. */
export interface HeaderOptions {
  readonly identity: PciIdentity
  readonly headerType: 0 | typeof reg.PCI_HEADER_TYPE_BRIDGE
  /** Bits of the command register that can be set. */
  readonly command: number
  readonly hasCapabilities: boolean
  /** Whether it uses INTA#. */
  readonly hasIntx: boolean
  /** The command register was written. */
  readonly commandWritten: () => void
}

/** Declares the registers that every function has (PCI 3.0, 6.2). */
export function declareHeader(space: ConfigSpace, options: HeaderOptions): void {
  const { identity } = options
  space.declare({ offset: reg.PCI_VENDOR_ID, value: le(2, identity.vendorId) })
  space.declare({ offset: reg.PCI_DEVICE_ID, value: le(2, identity.deviceId) })
  space.declare({
    offset: reg.PCI_COMMAND,
    value: le(2, 0),
    writable: le(2, options.command),
    written: options.commandWritten,
  })
  space.declare({
    offset: reg.PCI_STATUS,
    value: le(2, options.hasCapabilities ? reg.PCI_STATUS_CAP_LIST : 0),
    clear: le(2, reg.PCI_STATUS_ERRORS),
    volatile: le(2, reg.PCI_STATUS_INTERRUPT),
  })
  space.declare({ offset: reg.PCI_REVISION_ID, value: le(1, identity.revisionId ?? 0) })
  space.declare({ offset: reg.PCI_CLASS_PROG, value: le(3, identity.classCode) })
  // Both are without effect in PCI Express; the first can be written all the same.
  space.declare({ offset: reg.PCI_CACHE_LINE_SIZE, value: le(1, 0), writable: le(1, 0xff) })
  space.declare({ offset: reg.PCI_HEADER_TYPE, value: le(1, options.headerType) })
  space.declare({ offset: reg.PCI_INTERRUPT_LINE, value: le(1, 0), writable: le(1, 0xff) })
  space.declare({ offset: reg.PCI_INTERRUPT_PIN, value: le(1, options.hasIntx ? 1 : 0) })
}

/** Declares the rest of a type 0 header: BARs and subsystem. There is no expansion ROM: its register reads 0. */
export function declareType0(
  space: ConfigSpace,
  identity: PciIdentity,
  bars: readonly PciBar[],
  barWritten: () => void,
): void {
  for (const bar of bars) declareBar(space, bar, barWritten)
  space.declare({ offset: reg.PCI_SUBSYSTEM_VENDOR_ID, value: le(2, identity.subsystemVendorId ?? 0) })
  space.declare({ offset: reg.PCI_SUBSYSTEM_ID, value: le(2, identity.subsystemId ?? 0) })
}

/** Sizing works by what cannot be written (PCI 3.0, 6.2.5.1): the bits below the size, the lowest of which are the type. */
function declareBar(space: ConfigSpace, bar: PciBar, written: () => void): void {
  const offset = reg.PCI_BASE_ADDRESS_0 + 4 * bar.index
  const low = bar.size >= 2 ** 32 ? 0 : ~(bar.size - 1)
  const writable = le(4, low & (bar.kind === "io" ? ~0x3 : ~0xf))
  space.declare({ offset, value: le(4, barType(bar)), writable, written })
  if (bar.kind !== "memory64") return
  const high = bar.size > 2 ** 32 ? ~(bar.size / 2 ** 32 - 1) : 0xffff_ffff
  space.declare({ offset: offset + 4, value: le(4, 0), writable: le(4, high), written })
}

function barType(bar: PciBar): number {
  if (bar.kind === "io") return reg.PCI_BASE_ADDRESS_SPACE_IO
  const width = bar.kind === "memory64" ? reg.PCI_BASE_ADDRESS_MEM_TYPE_64 : 0
  return width | (bar.prefetchable ? reg.PCI_BASE_ADDRESS_MEM_PREFETCH : 0)
}

/** Where the guest put the BAR; 64-bit values beyond 2^53 lose low bits, but those are in no window either. */
export function barAddress(space: ConfigSpace, bar: PciBar): number {
  const offset = reg.PCI_BASE_ADDRESS_0 + 4 * bar.index
  const low = space.get32(offset)
  if (bar.kind === "io") return (low & ~0x3) >>> 0
  const high = bar.kind === "memory64" ? space.get32(offset + 4) : 0
  return high * 2 ** 32 + ((low & ~0xf) >>> 0)
}

/** Puts the BAR somewhere from the host's side, keeping its type bits. */
export function setBarAddress(space: ConfigSpace, bar: PciBar, address: number): void {
  const offset = reg.PCI_BASE_ADDRESS_0 + 4 * bar.index
  space.set(offset, le(4, (address | barType(bar)) >>> 0))
  if (bar.kind === "memory64") space.set(offset + 4, le(4, Math.floor(address / 2 ** 32)))
}
