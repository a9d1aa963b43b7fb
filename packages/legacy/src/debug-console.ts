import type { AccessSize, BusDevice } from "@virtkit/interface"

export interface DebugConsoleOptions {
  /** The guest wrote a byte. */
  onByte: (byte: number) => void
  /** For messages; "debug-console" unless told. */
  name?: string
}

/** Where firmware for QEMU looks for it. */
export const DEBUG_CONSOLE_PORT = 0x402

const PRESENT = 0xe9

/**
 * The port that firmware writes its log to, once a read gave 0xe9: QEMU's isa-debugcon. Each byte is an exit; without the
 * device firmware writes nothing.
 */
export class DebugConsole implements BusDevice {
  readonly name: string
  readonly #onByte: (byte: number) => void

  constructor(options: DebugConsoleOptions) {
    this.name = options.name ?? "debug-console"
    this.#onByte = options.onByte
  }

  read(offset: number, _size: AccessSize): number {
    return offset === 0 ? PRESENT : 0
  }

  write(offset: number, _size: AccessSize, value: number): void {
    if (offset === 0) this.#onByte(value & 0xff)
  }
}
