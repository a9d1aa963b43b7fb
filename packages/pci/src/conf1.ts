import type { AccessSize, BusDevice } from "@virtkit/interface"

/** What has a configuration space. */
export interface ConfigTarget {
  readonly config: { read(offset: number, size: AccessSize): number }
  write(offset: number, size: AccessSize, value: number): void | Promise<void>
}

/** Enable, bus, device, function and 32-bit register (PCI 3.0, 3.2.2.3.2). The rest of CONFIG_ADDRESS reads as 0. */
const ADDRESS_BITS = 0x80ff_fffc
const ENABLE = 0x8000_0000

/**
 * Configuration mechanism #1: CONFIG_ADDRESS at port 0xCF8 and CONFIG_DATA at 0xCFC, 8 ports. The address takes whole
 * 32-bit accesses only; to others there is nothing there, as on a PC that does not have configuration mechanism #2 or the
 * reset register of some chipsets at 0xCF9.
 */
export class Conf1 implements BusDevice {
  readonly name = "PCI configuration ports"
  /** Bits that cannot be set are 0. */
  #address = 0
  readonly #find: (bus: number, device: number, fn: number) => ConfigTarget | undefined

  constructor(find: (bus: number, device: number, fn: number) => ConfigTarget | undefined) {
    this.#find = find
  }

  get address(): number {
    return this.#address
  }

  set address(value: number) {
    this.#address = (value & ADDRESS_BITS) >>> 0
  }

  read(offset: number, size: AccessSize): number {
    if (offset === 0 && size === 4) return this.#address
    const target = offset >= 4 ? this.#target() : undefined
    if (target === undefined) return size === 4 ? 0xffff_ffff : 2 ** (8 * size) - 1
    return target.config.read(this.#register + (offset & 3), size)
  }

  write(offset: number, size: AccessSize, value: number): void | Promise<void> {
    if (offset === 0 && size === 4) this.address = value
    if (offset < 4) return undefined
    return this.#target()?.write(this.#register + (offset & 3), size, value)
  }

  get #register(): number {
    return this.#address & 0xfc
  }

  #target(): ConfigTarget | undefined {
    const address = this.#address
    if ((address & ENABLE) === 0) return undefined
    return this.#find((address >>> 16) & 0xff, (address >>> 11) & 0x1f, (address >>> 8) & 7)
  }
}
