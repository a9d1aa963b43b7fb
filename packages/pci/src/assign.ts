import { ConfigError, type PciBar } from "@virtkit/interface"
import { BRIDGE_GRANULE, type BridgeWindow, setWindow } from "./bridge-windows.js"
import { PCI_COMMAND_IO, PCI_COMMAND_MASTER, PCI_COMMAND_MEMORY } from "./constants.js"
import { setBarAddress } from "./header.js"
import type { Port } from "./root-port.js"
import type { FunctionSlot } from "./slot.js"

/** An address range, in bytes. */
export interface AddressRange {
  readonly address: number
  readonly size: number
}

/** The ranges that the host bridge forwards to the root bus. One of size 0 is not there. */
export interface PciWindows {
  readonly io: AddressRange
  readonly memory32: AddressRange
  readonly memory64: AddressRange
}

/** What is given to both memory windows of a port at least, so that there is room for what will be plugged in. */
const PORT_RESERVE = 2 * 1024 * 1024

/** Something that wants an address. */
interface Wish {
  readonly what: string
  readonly size: number
  readonly align: number
  readonly place: (address: number) => void
}

type Wishes = Record<keyof PciWindows, Wish[]>

/** Gives every BAR and bridge window an address and, if so wanted, enables decoding. Throws {@link ConfigError}. */
export function assignResources(
  windows: PciWindows,
  buses: number,
  functions: readonly FunctionSlot[],
  ports: readonly Port[],
  interruptLines: readonly number[] | undefined,
  decode: boolean,
): void {
  const wishes: Wishes = { io: [], memory32: [], memory64: [] }
  for (const slot of functions) {
    for (const bar of slot.function.bars) wishes[windowFor(windows, bar)].push(barWish(slot, bar))
  }
  for (const port of ports) addPortWishes(windows, port, wishes)
  for (const kind of ["io", "memory32", "memory64"] as const) place(kind, windows[kind], wishes[kind])
  for (const slot of functions) enableFunction(slot, interruptLines?.[slot.device & 3], decode)
  for (const [index, port] of ports.entries()) {
    if (index + 1 >= buses) throw new ConfigError(`${ports.length} root ports need more than ${buses} buses`)
    port.setBusNumber(index + 1)
    port.enable(PCI_COMMAND_IO | PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER)
    if (port.child !== undefined) enableFunction(port.child, interruptLines?.[port.line], decode)
  }
}

function enableFunction(slot: FunctionSlot, interruptLine: number | undefined, decode: boolean): void {
  const { bars } = slot.function
  const io = bars.some(({ kind }) => kind === "io") ? PCI_COMMAND_IO : 0
  const memory = bars.some(({ kind }) => kind !== "io") ? PCI_COMMAND_MEMORY : 0
  slot.enable(decode ? io | memory : 0, interruptLine)
}

function windowFor(windows: PciWindows, bar: PciBar): keyof PciWindows {
  return bar.kind === "memory64" && windows.memory64.size === 0 ? "memory32" : bar.kind
}

function barWish(slot: FunctionSlot, bar: PciBar): Wish {
  return {
    what: `BAR ${bar.index} of ${slot.function.name}`,
    size: bar.size,
    align: bar.size,
    place: (address) => setBarAddress(slot.config, bar, address),
  }
}

/** A bridge forwards prefetchable memory beyond 4 GiB, and everything else below. */
function addPortWishes(windows: PciWindows, port: Port, wishes: Wishes): void {
  const { child } = port
  const has64 = windows.memory64.size > 0
  const inside: Record<BridgeWindow, Wish[]> = { io: [], memory: [], prefetchable: [] }
  if (child !== undefined) {
    for (const bar of child.function.bars) inside[bridgeWindowFor(bar, has64)].push(barWish(child, bar))
  }
  wishes.memory32.push(windowWish(port, "memory", inside.memory, PORT_RESERVE))
  if (has64) wishes.memory64.push(windowWish(port, "prefetchable", inside.prefetchable, PORT_RESERVE))
  if (inside.io.length > 0) wishes.io.push(windowWish(port, "io", inside.io, 0))
}

function bridgeWindowFor(bar: PciBar, has64: boolean): BridgeWindow {
  if (bar.kind === "io") return "io"
  return bar.kind === "memory64" && bar.prefetchable && has64 ? "prefetchable" : "memory"
}

function windowWish(port: Port, window: BridgeWindow, inside: readonly Wish[], reserve: number): Wish {
  const granule = BRIDGE_GRANULE[window]
  const sorted = largestFirst(inside)
  const used = sorted.reduce((sum, { size }) => sum + size, 0)
  const size = Math.ceil(Math.max(used, reserve) / granule) * granule
  return {
    what: `${window} window of root port ${port.device}`,
    size,
    align: Math.max(granule, sorted[0]?.align ?? 0),
    place: (address) => {
      setWindow(port.config, window, address, size)
      // Powers of two, the largest first: each is aligned where the one before it ends.
      let next = address
      for (const wish of sorted) {
        wish.place(next)
        next += wish.size
      }
    },
  }
}

function place(kind: keyof PciWindows, window: AddressRange, wishes: readonly Wish[]): void {
  let next = window.address
  for (const wish of largestFirst(wishes)) {
    // 0 is what an unassigned BAR has.
    const address = Math.ceil(Math.max(next, 1) / wish.align) * wish.align
    next = address + wish.size
    if (next > window.address + window.size) {
      throw new ConfigError(`the ${kind} window of the PCI bus is too small for the ${wish.what}`)
    }
    wish.place(address)
  }
}

function largestFirst(wishes: readonly Wish[]): Wish[] {
  return [...wishes].sort((a, b) => b.align - a.align || b.size - a.size)
}
