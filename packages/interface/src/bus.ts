/** The widths in bytes that a bus hands to a device. Wider accesses reach it as several of these, lowest address first. */
export type AccessSize = 1 | 2 | 4

/**
 * A device that occupies a range of ports or of guest physical addresses.
 *
 * The bus calls `read` and `write` on the VM's thread, one at a time, with `offset` relative to the range's start and
 * `offset + size` within the range. Neither may throw whatever the guest does. Registers that do not exist read as the
 * device's specification says, or 0.
 */
export interface BusDevice {
  /** For messages, such as "serial0". */
  readonly name: string
  /** The unsigned value, at most `size` bytes of it are used. */
  read(offset: number, size: AccessSize): number
  /**
   * `value` is unsigned. When it returns a promise the vCPU that wrote stays stopped until it settles: that is how a
   * device reset is complete when the guest's write is. The promise must not reject.
   */
  write(offset: number, size: AccessSize, value: number): void | Promise<void>
}

/** A register whose write is a notification only: the VMM may have the kernel signal it without an exit (ioeventfd). */
export interface Doorbell {
  /** Within the device's range. */
  readonly offset: number
  /** Width of the write in bytes; 0 matches any width. */
  readonly length: 0 | 1 | 2 | 4 | 8
  /** Only writes of this value ring it; undefined matches any. Needs `length` other than 0. */
  readonly datamatch?: number
  /**
   * An eventfd that the kernel is to signal, instead of one whose signals become calls of `ring`: somebody else waits for
   * them. It stays open while the doorbell is in use.
   */
  readonly fd?: number
  /** Called on the VM's thread some time after one or more such writes that the kernel did not signal `fd` for. */
  ring(): void
}

/**
 * A page of registers whose reads have no side effects, so that a guest may read it without an exit (a KVM read-only
 * memory slot). The device keeps the bytes current at all times; guest writes still reach `BusDevice.write`.
 */
export interface RegisterPage {
  /** 4096 bytes, page-aligned in the guest. */
  readonly view: DataView
  /**
   * Takes the page out of the guest, so that reads exit and wait, and puts it back: around an update of several fields
   * that the guest must never see half done.
   */
  hide(): void
  show(): void
}

/** Implemented by bus devices that have doorbells or a register page; the VMM uses what it can of it. */
export interface AcceleratedBusDevice extends BusDevice {
  readonly doorbells: readonly Doorbell[]
  /**
   * From now on keep the registers in `page` (copying the present ones), which is the first page of the range; undefined:
   * keep them privately again. Absent when reads of its registers have side effects.
   */
  setRegisterPage?(page: RegisterPage | undefined): void
}
