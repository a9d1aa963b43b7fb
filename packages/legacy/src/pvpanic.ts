import type { AccessSize, BusDevice } from "@virtkit/interface"

/** Event bits of the pvpanic device. */
export const PVPANIC_PANICKED = 0x01
/** The guest panicked and its crash kernel takes over: it goes on running. */
export const PVPANIC_CRASH_LOADED = 0x02

/** Where PC guests look for it unless ACPI says otherwise. */
export const PVPANIC_PORT = 0x505

export interface PvPanicOptions {
  /** The guest reported `event`, one or both of the PVPANIC bits. May be called any number of times. */
  onPanic: (event: number) => void
  /** For messages; "pvpanic" unless told. */
  name?: string
}

/**
 * The one-port device by which Linux (ACPI device QEMU0001) reports a panic: reading gives the events that it
 * understands, writing reports some of them. Bits that are not among those are ignored.
 */
export class PvPanic implements BusDevice {
  readonly name: string
  readonly #onPanic: (event: number) => void

  constructor(options: PvPanicOptions) {
    this.name = options.name ?? "pvpanic"
    this.#onPanic = options.onPanic
  }

  read(offset: number, _size: AccessSize): number {
    return offset === 0 ? PVPANIC_PANICKED | PVPANIC_CRASH_LOADED : 0
  }

  write(offset: number, _size: AccessSize, value: number): void {
    const event = value & (PVPANIC_PANICKED | PVPANIC_CRASH_LOADED)
    if (offset === 0 && event !== 0) this.#onPanic(event)
  }
}
