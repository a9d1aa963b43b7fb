import type { AcceleratedBusDevice, BusDevice } from "./bus.js"
import type { Interrupt } from "./interrupt.js"
import type { GuestMemory } from "./memory.js"
import type { Stateful } from "./state.js"

/**
 * One function on a PCI bus, virtio or not. It says what it is as data; the bus builds its configuration space, places
 * its BARs where the guest wants them, and carries its interrupts.
 *
 * The bus calls it on the VM's thread, never re-entrantly. Order: construction, `attach`, any number of accesses of its
 * BARs and capabilities, `commandChanged` and `reset`, at the end `close`. Nothing that a guest does may make a method
 * throw.
 */
export interface PciFunction extends Stateful {
  /** For messages, such as "blk0". */
  readonly name: string
  readonly identity: PciIdentity
  /** At most one for each index; the one after a "memory64" stays free. */
  readonly bars: readonly PciBar[]
  /** The bus puts table and pending bits into that BAR, and the capability into the list. Absent: no MSI-X. */
  readonly msix?: PciMsixLayout
  /** Whether it has INTA#. */
  readonly hasIntx: boolean
  /** In the order of the list, after those that the bus adds by itself (PCI Express, MSI-X). */
  readonly capabilities: readonly PciCapability[]
  /** Comes before anything else, once. */
  attach(slot: PciSlot): void
  /** The guest changed the command register: `slot.busMaster` may have. */
  commandChanged?(): void
  /**
   * Function-level reset, or reset of the bus: the state after construction. The bus has put configuration space and
   * MSI-X back already. The vCPU that asked stays stopped until a promise settles; it must not reject.
   */
  reset(): void | Promise<void>
  /** Releases host resources. Idempotent. No other call follows. */
  close(): Promise<void>
}

/** The read-only head of configuration space (PCI 3.0, section 6.2.1 and 6.2.4). */
export interface PciIdentity {
  readonly vendorId: number
  readonly deviceId: number
  /** 24 bits: base class, sub-class, programming interface. */
  readonly classCode: number
  /** 8 bits; 0 if absent. */
  readonly revisionId?: number
  readonly subsystemVendorId?: number
  readonly subsystemId?: number
}

/** A base address register and what answers behind it. */
export interface PciBar {
  /** 0 to 5. */
  readonly index: number
  readonly kind: "io" | "memory32" | "memory64"
  /** Reads have no side effects and writes may merge. */
  readonly prefetchable?: boolean
  /** Bytes, a power of two: at least 4 for "io" (and at most 256), 16 for memory. */
  readonly size: number
  /** In order of their offsets, without overlap. What lies between them reads as 0 and loses writes. */
  readonly windows: readonly PciBarWindow[]
}

/** A part of a BAR. With a register page or doorbells it is the VMM's to do without exits what can be. */
export interface PciBarWindow {
  /** From the start of the BAR. */
  readonly offset: number
  /** Bytes. A window with a register page is 4096 bytes at a multiple of 4096. */
  readonly size: number
  readonly device: BusDevice | AcceleratedBusDevice
}

/** Where the MSI-X structures of a function lie (PCI 3.0, section 6.8.2). */
export interface PciMsixLayout {
  /** 1 to 2048. */
  readonly vectors: number
  /** Index of a memory BAR of the function; its windows leave the two ranges free. */
  readonly bar: number
  /** A multiple of 8: 16 bytes a vector. */
  readonly tableOffset: number
  /** A multiple of 8: a bit a vector, in whole 64-bit words. */
  readonly pbaOffset: number
}

/** An entry of the capability list (PCI 3.0, section 6.7). */
export interface PciCapability {
  /** Capability ID, 0x09 for a vendor-specific one. */
  readonly id: number
  /** The body: what follows the ID and the pointer to the next. */
  readonly body: Uint8Array
  /** By byte of `body`, the bits that the guest may write. Absent: it is read-only. */
  readonly writable?: Uint8Array
  /** The guest wrote something within the body; `body` has the new bytes already. Offset within `body`, in bytes. */
  written?(offset: number, size: number): void | Promise<void>
  /** Called before a read of the body that exits, to bring `body` up to date: see `PciSlot.setLiveReads`. */
  beforeRead?(offset: number, size: number): void
}

/** What a function gets from the bus that it sits on. */
export interface PciSlot {
  /** As lspci writes it, such as "00:03.0"; it changes when the guest renumbers buses. */
  readonly address: string
  /** Guest memory for the function's DMA, which it may do only while `busMaster`. */
  readonly memory: GuestMemory
  /** Bus Master Enable of the command register: neither DMA nor message-signalled interrupts without. */
  readonly busMaster: boolean
  /** Whether the guest enabled MSI-X. Then INTx is silent. */
  readonly msixEnabled: boolean
  /**
   * The interrupt of a vector, the same object each time; while it is masked a signal sets its pending bit. Undefined for
   * vectors that the table does not have (bad-input #6).
   */
  msix(vector: number): Interrupt | undefined
  /** Level of INTA#. The bus sees to Interrupt Disable, Interrupt Status and MSI-X. */
  setIntx(asserted: boolean): void
  /**
   * While on, reads of configuration space exit, so that `PciCapability.beforeRead` is called for them. While off they may
   * be served from memory. Off at the start and after a reset.
   */
  setLiveReads(on: boolean): void
}
