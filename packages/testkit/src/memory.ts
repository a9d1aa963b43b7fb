import { GuestAddressError, type GuestMemory, type GuestMemoryRegion } from "@virtkit/interface"

/** Where a region of a {@link TestMemory} lies and how many bytes it has. */
export interface TestRegion {
  readonly guestAddress: number
  readonly size: number
}

export interface TestMemoryOptions {
  /** Default: one region of 1 MiB at address 0. */
  readonly regions?: readonly TestRegion[]
  /** Back it with SharedArrayBuffers, as guest RAM that vCPU threads write is. Default false. */
  readonly shared?: boolean
}

/** Guest memory on the JavaScript heap, simple and slow. Keeps a list of the ranges written, for dirty tracking tests. */
export class TestMemory implements GuestMemory {
  readonly regions: readonly GuestMemoryRegion[]
  /** Every range that was written or marked since {@link clearWritten}, in order. */
  written: { address: number; length: number }[] = []

  constructor(options: TestMemoryOptions = {}) {
    const wanted = options.regions ?? [{ guestAddress: 0, size: 1 << 20 }]
    this.regions = wanted.map(({ guestAddress, size }) => ({
      guestAddress,
      size,
      buffer: options.shared ? new SharedArrayBuffer(size) : new ArrayBuffer(size),
      byteOffset: 0,
      hostAddress: 0,
    }))
  }

  clearWritten(): void {
    this.written = []
  }

  contains(address: number, length: number): boolean {
    return this.regionOf(address, length) !== undefined
  }

  regionOf(address: number, length: number): GuestMemoryRegion | undefined {
    if (!Number.isSafeInteger(address) || !Number.isSafeInteger(length) || address < 0 || length < 0) {
      return undefined
    }
    for (const region of this.regions) {
      const offset = address - region.guestAddress
      if (offset >= 0 && offset < region.size && length <= region.size - offset) return region
    }
    return undefined
  }

  hostAddress(_address: number, _length: number): number {
    return 0
  }

  markDirty(address: number, length: number): void {
    this.written.push({ address, length })
  }

  readUint8(address: number): number {
    return this.#view(address, 1).getUint8(0)
  }

  readUint16(address: number): number {
    return this.#view(address, 2).getUint16(0, true)
  }

  readUint32(address: number): number {
    return this.#view(address, 4).getUint32(0, true)
  }

  readBigUint64(address: number): bigint {
    return this.#view(address, 8).getBigUint64(0, true)
  }

  writeUint8(address: number, value: number): void {
    this.#view(address, 1).setUint8(0, value)
    this.markDirty(address, 1)
  }

  writeUint16(address: number, value: number): void {
    this.#view(address, 2).setUint16(0, value, true)
    this.markDirty(address, 2)
  }

  writeUint32(address: number, value: number): void {
    this.#view(address, 4).setUint32(0, value, true)
    this.markDirty(address, 4)
  }

  writeBigUint64(address: number, value: bigint): void {
    this.#view(address, 8).setBigUint64(0, value, true)
    this.markDirty(address, 8)
  }

  read(address: number, target: Uint8Array): void {
    target.set(this.#bytes(address, target.length))
  }

  write(address: number, source: Uint8Array): void {
    this.#bytes(address, source.length).set(source)
    this.markDirty(address, source.length)
  }

  fill(address: number, length: number, value: number): void {
    this.#bytes(address, length).fill(value)
    this.markDirty(address, length)
  }

  #region(address: number, length: number): GuestMemoryRegion {
    const region = this.regionOf(address, length)
    if (region === undefined) throw new GuestAddressError(address, length)
    return region
  }

  #view(address: number, length: number): DataView {
    const region = this.#region(address, length)
    return new DataView(region.buffer, region.byteOffset + address - region.guestAddress, length)
  }

  #bytes(address: number, length: number): Uint8Array {
    const region = this.#region(address, length)
    return new Uint8Array(region.buffer, region.byteOffset + address - region.guestAddress, length)
  }
}
