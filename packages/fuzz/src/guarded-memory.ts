import type { GuestMemoryRegion } from "@virtkit/interface"
import { TestMemory } from "@virtkit/testkit"
import { must } from "./target.js"

/** Bytes around each region that nothing may write. */
const GUARD = 4096
const GUARD_BYTE = 0xa5

/** Guest memory that notices writes beyond the ends of its regions, whatever way they take. */
export class GuardedMemory extends TestMemory {
  override readonly regions: readonly GuestMemoryRegion[]
  noting = false
  readonly #all: Uint8Array
  readonly #guard: Uint8Array = new Uint8Array(GUARD).fill(GUARD_BYTE)

  /** Regions as [guest address, bytes]; bytes a multiple of 8. */
  constructor(regions: readonly (readonly [guestAddress: number, size: number])[]) {
    super({ regions: [] })
    const bytes = regions.reduce((sum, [, size]) => sum + size + GUARD, GUARD)
    const buffer = new SharedArrayBuffer(bytes)
    this.#all = new Uint8Array(buffer)
    let byteOffset = GUARD
    this.regions = regions.map(([guestAddress, size]) => {
      const region = { guestAddress, size, buffer, byteOffset, hostAddress: 0 }
      byteOffset += size + GUARD
      return region
    })
    this.reset()
  }

  /** The bytes of the first region. */
  get bytes(): Uint8Array {
    const { buffer, byteOffset, size } = this.regions[0]!
    return new Uint8Array(buffer, byteOffset, size)
  }

  /** As new. */
  reset(): void {
    this.#all.fill(GUARD_BYTE)
    for (const { byteOffset, size } of this.regions) this.#all.fill(0, byteOffset, byteOffset + size)
    this.clearWritten()
  }

  /** Throws a finding when something wrote outside of the regions. */
  check(): void {
    let at = 0
    for (const { byteOffset, size } of this.regions) {
      this.#checkGuard(at)
      at = byteOffset + size
    }
    this.#checkGuard(at)
  }

  /** Whether another memory with the same regions holds the same. */
  sameAs(other: GuardedMemory): boolean {
    return Buffer.compare(this.#all, other.#all) === 0
  }

  /** Notes what is written in `written`, as `TestMemory` does, only if it was asked to: that has no end. */
  override markDirty(address: number, length: number): void {
    if (this.noting) super.markDirty(address, length)
  }

  #checkGuard(at: number): void {
    const guard = this.#all.subarray(at, at + GUARD)
    must(Buffer.compare(guard, this.#guard) === 0, "something was written outside of guest memory")
  }
}
