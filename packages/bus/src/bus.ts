import { type AccessSize, type BusDevice, ConfigError, StateError } from "@virtkit/interface"

/** A range that a device occupies on a {@link Bus}. */
export interface BusClaim {
  /** First port or guest physical address. */
  readonly start: number
  /** Number of ports or bytes. */
  readonly length: number
  readonly device: BusDevice
  /** For messages; the device's name unless it was claimed under another. */
  readonly name: string
}

export interface BusOptions {
  /** For messages, such as "port" or "MMIO". */
  readonly name: string
  /** Addresses are below this: 0x10000 for ports. Default 2^53. */
  readonly limit?: number
}

/**
 * Hands accesses to ports or to guest physical addresses to the devices there.
 *
 * Reads where no device is give all ones, as on a PC; writes there are lost. Both are counted. An access that lies only
 * in part in a device's range is split into bytes. Devices promise not to throw: if one does, that is a bug of the
 * VMM, and the error goes through to the caller, who ends this VM and leaves the process alone.
 */
export class Bus {
  readonly name: string
  /** Accesses that no device answered, those split into bytes counted by the byte. */
  unclaimedReads = 0
  unclaimedWrites = 0
  readonly #limit: number
  /** Sorted by start; ranges do not overlap. */
  readonly #claims: BusClaim[] = []
  /** The claim of the last access: guests mostly stay with a device for a while. */
  #last: BusClaim | undefined

  constructor(options: BusOptions) {
    this.name = options.name
    this.#limit = options.limit ?? Number.MAX_SAFE_INTEGER
  }

  /** The claims in order of their addresses. */
  get claims(): readonly BusClaim[] {
    return this.#claims
  }

  /** Gives `[start, start + length)` to `device`. Throws {@link ConfigError} if any of it is taken. */
  claim(start: number, length: number, device: BusDevice, name: string = device.name): BusClaim {
    if (!Number.isSafeInteger(start) || !Number.isSafeInteger(length) || start < 0 || length < 1) {
      throw new ConfigError(`${name} cannot have ${length} addresses from ${start} on the ${this.name} bus`)
    }
    const claim: BusClaim = { start, length, device, name }
    if (start + length > this.#limit) {
      throw new ConfigError(`${describe(claim)} reaches past the end of the ${this.name} bus`)
    }
    const position = this.#firstEndingAfter(start)
    const other = this.#claims[position]
    if (other !== undefined && other.start < start + length) {
      throw new ConfigError(`${describe(claim)} overlaps ${describe(other)} on the ${this.name} bus`)
    }
    this.#claims.splice(position, 0, claim)
    return claim
  }

  /** Whether `claim` would find nobody in `[start, start + length)`. */
  isFree(start: number, length: number): boolean {
    const next = this.#claims[this.#firstEndingAfter(start)]
    return next === undefined || next.start >= start + length
  }

  /** Takes the range back. Throws {@link StateError} if `claim` is not (or no longer) on this bus. */
  release(claim: BusClaim): void {
    const position = this.#claims.indexOf(claim)
    if (position < 0) throw new StateError(`${describe(claim)} is not on the ${this.name} bus`)
    this.#claims.splice(position, 1)
    if (this.#last === claim) this.#last = undefined
  }

  /** The claim that holds `address`, or undefined. */
  lookup(address: number): BusClaim | undefined {
    const last = this.#last
    if (last !== undefined && address >= last.start && address - last.start < last.length) return last
    const claim = this.#claims[this.#firstEndingAfter(address)]
    if (claim === undefined || claim.start > address) return undefined
    this.#last = claim
    return claim
  }

  /** The unsigned value of `size` bytes at `address`. */
  read(address: number, size: AccessSize): number {
    const claim = this.lookup(address)
    if (claim !== undefined) {
      const offset = address - claim.start
      if (offset + size <= claim.length) return unsigned(claim.device.read(offset, size), size)
    } else if (this.#isRestFree(address, size)) {
      this.unclaimedReads++
      return unsigned(-1, size)
    }
    return this.#readBytes(address, size)
  }

  /**
   * Writes the low `size` bytes of `value`. When a device answers with a promise the result is one that settles with it:
   * the vCPU that wrote stays stopped until then.
   */
  write(address: number, size: AccessSize, value: number): void | Promise<void> {
    const claim = this.lookup(address)
    if (claim !== undefined) {
      const offset = address - claim.start
      if (offset + size <= claim.length) return claim.device.write(offset, size, unsigned(value, size))
    } else if (this.#isRestFree(address, size)) {
      this.unclaimedWrites++
      return undefined
    }
    return this.#writeBytes(address, size, value)
  }

  #readBytes(address: number, size: AccessSize): number {
    let value = 0
    for (let byte = 0; byte < size; byte++) {
      const claim = this.lookup(address + byte)
      if (claim === undefined) this.unclaimedReads++
      const part = claim === undefined ? 0xff : claim.device.read(address + byte - claim.start, 1) & 0xff
      value |= part << (8 * byte)
    }
    return value >>> 0
  }

  #writeBytes(address: number, size: AccessSize, value: number): void | Promise<void> {
    let pending: Promise<void>[] | undefined
    for (let byte = 0; byte < size; byte++) {
      const claim = this.lookup(address + byte)
      if (claim === undefined) {
        this.unclaimedWrites++
        continue
      }
      const result = claim.device.write(address + byte - claim.start, 1, (value >>> (8 * byte)) & 0xff)
      if (result === undefined) continue
      pending ??= []
      pending.push(result)
    }
    return pending === undefined ? undefined : Promise.all(pending).then(() => undefined)
  }

  /** Whether no claim begins within the access; its first address is known to be free. */
  #isRestFree(address: number, size: AccessSize): boolean {
    return size === 1 || this.isFree(address, size)
  }

  /** Position of the first claim whose end lies behind `address`: the one that holds it, or the next one after it. */
  #firstEndingAfter(address: number): number {
    const claims = this.#claims
    let low = 0
    let high = claims.length
    while (low < high) {
      const middle = (low + high) >>> 1
      const claim = claims[middle]!
      if (claim.start + claim.length > address) high = middle
      else low = middle + 1
    }
    return low
  }
}

/** JavaScript's bit operators give signed results (bad-input #35); guests see none of that. */
function unsigned(value: number, size: AccessSize): number {
  return size === 4 ? value >>> 0 : size === 2 ? value & 0xffff : value & 0xff
}

function describe(claim: BusClaim): string {
  const last = claim.start + claim.length - 1
  return `${claim.name} (0x${claim.start.toString(16)} to 0x${last.toString(16)})`
}
