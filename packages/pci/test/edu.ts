import type { AccessSize, BusDevice, PciBar, PciFunction, PciSlot } from "@virtkit/interface"

/** A device to learn from: 4 KiB of its own that DMA fills and empties, and an interrupt when that is done. */
export class Edu implements PciFunction, BusDevice {
  readonly name = "edu0"
  readonly identity = { vendorId: 0x1234, deviceId: 0x11e8, classCode: 0xff0000, revisionId: 0x10 }
  readonly hasIntx = true
  readonly capabilities = []
  readonly msix = { vectors: 1, bar: 1, tableOffset: 0, pbaOffset: 0x800 }
  readonly bars: readonly PciBar[] = [
    { index: 0, kind: "memory32", size: 0x1000, windows: [{ offset: 0, size: 0x40, device: this }] },
    { index: 1, kind: "memory32", size: 0x1000, windows: [] },
  ]
  readonly #buffer = new Uint8Array(4096)
  /** Identification, address in guest memory, bytes, command, interrupt status. */
  readonly #registers = new Uint32Array(5)
  #slot!: PciSlot

  attach(slot: PciSlot): void {
    this.#slot = slot
    this.reset()
  }
  read(offset: number, size: AccessSize): number {
    return size === 4 ? (this.#registers[offset / 4] ?? 0) : 0
  }
  write(offset: number, size: AccessSize, value: number): void {
    if (size !== 4) return
    if (offset === 4 || offset === 8) this.#registers[offset / 4] = value
    if (offset === 12) this.#transfer(value)
    if (offset === 16) this.#interrupt(0)
  }
  /** Command 1 takes bytes from guest memory, command 2 gives them back. */
  #transfer(command: number): void {
    const [, address = 0, length = 0] = this.#registers
    const { memory, busMaster } = this.#slot
    if (!busMaster || length > this.#buffer.length || !memory.contains(address, length)) return
    if (command === 1) memory.read(address, this.#buffer.subarray(0, length))
    if (command === 2) memory.write(address, this.#buffer.subarray(0, length))
    this.#interrupt(command)
  }
  #interrupt(status: number): void {
    this.#registers[4] = status
    if (!this.#slot.msixEnabled) this.#slot.setIntx(status !== 0)
    else if (status !== 0) this.#slot.msix(0)?.signal()
  }
  reset(): void {
    this.#registers.set([0x0100_00ed, 0, 0, 0, 0])
    this.#slot.setIntx(false)
  }
  state(): unknown {
    return { registers: [...this.#registers], buffer: this.#buffer.slice() }
  }
  restore(state: unknown): void {
    const { registers, buffer } = state as { registers: number[]; buffer: Uint8Array }
    this.#registers.set(registers)
    this.#buffer.set(buffer)
  }
  async close(): Promise<void> {}
}
