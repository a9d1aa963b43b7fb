import type { AccessSize, BusDevice } from "@virtkit/interface"

export interface DebugExitOptions {
  /** The guest wrote `value`, unsigned and at most `size` bytes of it. */
  onExit: (value: number, size: AccessSize) => void
  /** For messages; "debug-exit" unless told. */
  name?: string
}

/**
 * A port by which a test guest says how it ended: the write of a value is a callback. Claim as many ports as the widest
 * write has bytes, such as 4 from 0xf4. Reads give 0.
 */
export class DebugExit implements BusDevice {
  readonly name: string
  readonly #onExit: (value: number, size: AccessSize) => void

  constructor(options: DebugExitOptions) {
    this.name = options.name ?? "debug-exit"
    this.#onExit = options.onExit
  }

  read(_offset: number, _size: AccessSize): number {
    return 0
  }

  write(_offset: number, size: AccessSize, value: number): void {
    this.#onExit(value, size)
  }
}
