import type { GuestMemoryRegion } from "@virtkit/interface"
import { TestMemory } from "@virtkit/testkit"
import { NearRegion } from "@virtkit/virtqueue"
import { describe, expect, it } from "vitest"

const HIGH = 2 ** 33
const REGIONS = [
  { guestAddress: 0, size: 8192 },
  { guestAddress: HIGH, size: 8192 },
]
const HOST = 2 ** 46

/** Memory that says whether writes are tracked, counts what goes through it, and may have an address for system calls. */
class CountingMemory extends TestMemory {
  dirtyTracking = false
  /** Calls of `read` and `write`. */
  calls = 0
  readonly #host: number

  constructor(host = 0) {
    super({ regions: REGIONS })
    this.#host = host
  }

  override hostAddress(address: number, length: number): number {
    return this.#host === 0 || this.regionOf(address, length) === undefined ? 0 : this.#host + address
  }

  override read(address: number, target: Uint8Array): void {
    this.calls++
    super.read(address, target)
  }

  override write(address: number, source: Uint8Array): void {
    this.calls++
    super.write(address, source)
  }
}

const buffers = (...ranges: [number, number][]): [Float64Array, Uint32Array] => [
  Float64Array.from(ranges, ([address]) => address),
  Uint32Array.from(ranges, ([, length]) => length),
]
const pattern = (length: number, seed: number) => Uint8Array.from({ length }, (_, i) => (seed + 3 * i) & 0xff)

describe("the region that was used last", () => {
  it("is read and written without a call of the memory, in whichever region it is", () => {
    const memory = new CountingMemory()
    const near = new NearRegion(memory)
    for (const [round, address] of [16, HIGH + 8160, HIGH, 8160].entries()) {
      const [addresses, lengths] = buffers([1, 1], [address, 32])
      near.write(addresses, lengths, 1, 16, pattern(16, round))
      const target = new Uint8Array(16)
      near.read(addresses, lengths, 1, 16, target)
      expect(target).toEqual(pattern(16, round))
      expect(memory.calls).toBe(0)
      memory.read(address + 16, target)
      expect(target).toEqual(pattern(16, round))
      memory.calls = 0
    }
  })

  it("leaves to the memory what is long, and what is to be tracked", () => {
    const memory = new CountingMemory()
    const near = new NearRegion(memory)
    const [addresses, lengths] = buffers([HIGH, 100])
    near.write(addresses, lengths, 0, 0, pattern(49, 1))
    const target = new Uint8Array(49)
    near.read(addresses, lengths, 0, 0, target)
    expect(target).toEqual(pattern(49, 1))
    expect(memory.calls).toBe(2)
    memory.clearWritten()
    memory.dirtyTracking = true
    near.write(addresses, lengths, 0, 99, Uint8Array.of(7))
    expect(memory.written).toEqual([{ address: HIGH + 99, length: 1 }])
    expect(memory.readUint8(HIGH + 99)).toBe(7)
  })

  it("bad-input #11: leaves to the memory what is not whole in a region, which refuses it", () => {
    const near = new NearRegion(new CountingMemory())
    const [addresses, lengths] = buffers([8191, 2], [8192, 1])
    expect(() => near.read(addresses, lengths, 0, 0, new Uint8Array(2))).toThrow("guest")
    expect(() => near.write(addresses, lengths, 1, 0, new Uint8Array(1))).toThrow("guest")
  })

  it("is another when the memory has others", () => {
    const memory = new CountingMemory()
    const near = new NearRegion(memory)
    const [addresses, lengths] = buffers([0, 1])
    near.write(addresses, lengths, 0, 0, Uint8Array.of(1))
    const changed = memory as { regions: readonly GuestMemoryRegion[] }
    changed.regions = []
    expect(() => near.read(addresses, lengths, 0, 0, new Uint8Array(1))).toThrow("guest")
    changed.regions = new TestMemory({ regions: REGIONS }).regions
    const target = Uint8Array.of(9)
    near.read(addresses, lengths, 0, 0, target)
    expect(target[0]).toBe(0)
  })

  it("bad-input #11: gives host addresses of what is whole in a region, and of nothing else", () => {
    const near = new NearRegion(new CountingMemory(HOST))
    const target = new Float64Array(4)
    const give = (...ranges: [number, number][]) =>
      near.hostAddresses(...buffers(...ranges), ranges.length, target, 1)
    expect(give([16, 8176], [HIGH + 4096, 4096], [0, 1])).toBe(true)
    expect([...target]).toEqual([0, HOST + 16, HOST + HIGH + 4096, HOST])
    expect(give([17, 8176])).toBe(false)
    expect(give([0, 1], [8192, 1])).toBe(false)
    expect(give([HIGH - 1, 2])).toBe(false)
    expect(near.hostAddress(...buffers([0, 1], [HIGH + 4096, 4096]), 1, 96, target, 3)).toBe(true)
    expect(target[3]).toBe(HOST + HIGH + 4192)
    const none = new NearRegion(new CountingMemory())
    expect(none.hostAddresses(...buffers([0, 1]), 1, target, 0)).toBe(false)
  })
})
