import type { AcceleratedBusDevice, BusDevice, GuestMemory, Interrupt } from "@virtkit/interface"

/** What the PCI bus needs of the machine around it. The VMM implements it with its two buses and KVM; a test with less. */
export interface PciHost {
  /** What functions do DMA to. */
  readonly memory: GuestMemory
  /**
   * Lets `device` answer at `[address, address + size)`, with its doorbells and its register page served without exits
   * where the machine can. Undefined when any of the range is taken: the BAR then answers nowhere. Must not throw.
   *
   * A register page is possible for 4096 bytes of memory at a multiple of 4096: `setRegisterPage(page)`, then
   * `page.show()`; before the mapping is gone `page.hide()` and `setRegisterPage(undefined)`.
   */
  map(
    space: "memory" | "io",
    address: number,
    size: number,
    device: BusDevice | AcceleratedBusDevice,
  ): PciMapping | undefined
  /** A message-signalled interrupt that is routed nowhere yet. Throws `SystemError` when there are no more. */
  createMsi(): PciMsi
  /**
   * Runs `change`, which routes or closes many messages (a guest can have 2048 of them unmasked by one write) and signals
   * none. For hosts that apply all routes at once: they can do it at the end. Absent: there is nothing to be gained.
   */
  routeTogether?(change: () => void): void
  /**
   * Drives one of the four interrupt lines of the root bus, level-triggered. The bus has joined the functions that share
   * it: this is called for changes of the line only. INTA# of device d is line d modulo 4.
   */
  setLine(line: 0 | 1 | 2 | 3, asserted: boolean): void
}

/** A range that answers. */
export interface PciMapping {
  /** Called once. Must not throw. */
  remove(): void
}

/** A vector between the function and the guest's local APICs. */
export interface PciMsi extends Interrupt {
  /**
   * Where `signal` sends what from now on: address (below 2^53) and data of the guest's MSI-X entry. Comes before the first
   * `signal`. Must not throw.
   */
  route(address: number, data: number): void
  /**
   * Has the kernel send the message whenever the eventfd `fd` is signalled, also for a signal that is in `fd` already. Returns
   * what ends that, which comes before `close`; undefined when the kernel refuses. Absent where it never can.
   */
  connectFd?(fd: number): (() => void) | undefined
  close(): void
}
