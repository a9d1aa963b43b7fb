/**
 * Guest physical memory as devices and loaders see it.
 *
 * Addresses are guest physical addresses as Numbers, lengths are bytes, multi-byte values are little-endian. Every
 * access checks that the whole range lies within one region (two adjacent regions are two regions) and otherwise throws
 * {@link GuestAddressError}; a range that wraps, is negative, is not an integer or exceeds 2^53 is never in memory.
 * Device code that handles guest-given addresses asks {@link GuestMemory.contains} or
 * {@link GuestMemory.hostAddress} first, so that a hostile guest costs no exception.
 *
 * Implementations record written ranges for dirty tracking when that is on.
 */
export interface GuestMemory {
  readonly regions: readonly GuestMemoryRegion[]

  /** Whether `[address, address + length)` lies whole within one region. A length of 0 needs a mapped address. */
  contains(address: number, length: number): boolean

  readUint8(address: number): number
  readUint16(address: number): number
  readUint32(address: number): number
  readBigUint64(address: number): bigint
  writeUint8(address: number, value: number): void
  writeUint16(address: number, value: number): void
  writeUint32(address: number, value: number): void
  writeBigUint64(address: number, value: bigint): void

  /** Copies `target.length` bytes out of guest memory. */
  read(address: number, target: Uint8Array): void
  /** Copies `source` into guest memory. */
  write(address: number, source: Uint8Array): void
  /** Sets `length` bytes to `value`. */
  fill(address: number, length: number, value: number): void

  /** The region that holds the whole range, or undefined. For code that keeps views of its own, such as rings. */
  regionOf(address: number, length: number): GuestMemoryRegion | undefined

  /**
   * The address of the range in this process, for system calls that go straight to guest memory; 0 when the range is
   * not whole within one region or the region has no stable host address (heap backing).
   */
  hostAddress(address: number, length: number): number

  /** False while nobody needs {@link markDirty}: hot paths look here first. Absent where that is not known. */
  readonly dirtyTracking?: boolean

  /** Tells dirty tracking that `[address, address + length)` was written by other means than this object. */
  markDirty(address: number, length: number): void
}

export interface GuestMemoryRegion {
  readonly guestAddress: number
  /** Bytes. */
  readonly size: number
  /**
   * The bytes of the region start at `byteOffset` of `buffer`. Regions may exceed 4 GiB: use DataView or typed arrays
   * over windows of it, a Uint8Array of the whole cannot exist on Node.js 20.
   */
  readonly buffer: ArrayBufferLike
  readonly byteOffset: number
  /** Address of the first byte in this process, or 0 when it has no stable one. */
  readonly hostAddress: number
  /**
   * Descriptor and offset in bytes by which another process can map the same memory; undefined for memory of this
   * process alone. It belongs to the region.
   */
  readonly file?: { readonly fd: number; readonly offset: number } | undefined
}
