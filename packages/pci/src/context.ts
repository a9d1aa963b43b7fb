import type { PciBar } from "@virtkit/interface"
import type { PciHost } from "./host.js"
import type { InterruptLines } from "./intx.js"

export type InterruptLine = 0 | 1 | 2 | 3

/** What everything on a bus shares. */
export interface BusContext {
  readonly host: PciHost
  readonly lines: InterruptLines
  /** Whether the host bridge forwards the range to the root bus as `kind` of access. */
  inWindow(kind: PciBar["kind"], address: number, size: number): boolean
  /** Address of a function's configuration space; undefined for buses that the ECAM does not reach. */
  ecamAddress(bus: number, device: number): number | undefined
  /** Something that decides who answers where has changed. */
  decodeChanged(): void
}

/** The bus that a function sits on: the root bus, or the one behind a root port. */
export interface SlotParent {
  readonly context: BusContext
  readonly behindPort: boolean
  /** The number of the bus, 0 for the root bus; undefined while the guest has given it none. */
  readonly number: number | undefined
  /** Which of the host's interrupt lines INTA# of the function is (PCI-to-PCI bridge 1.2, 9.1). */
  readonly line: InterruptLine
  /** Whether DMA and messages get through to the host. */
  readonly forwardsUp: boolean
  /** Whether accesses by the CPU get through to the function. */
  forwardsDown(kind: PciBar["kind"], address: number, size: number): boolean
}
