import type { Chain } from "@virtkit/interface"
import { heapMemory } from "@virtkit/memory"
import { mmapMemory } from "@virtkit/memory/mmap"
import { describe, expect, it } from "vitest"
import { NearRegion } from "../src/near-region.js"

const HIGH = 2 ** 33
const LAYOUT = [
  { guestAddress: 0, size: 8192 },
  { guestAddress: HIGH, size: 8192 },
]

/** As much of a chain as is looked at: readable buffers, then writable ones. */
function chain(readable: [number, number][], writable: [number, number][] = []): Chain {
  const all = [...readable, ...writable]
  return {
    addresses: Float64Array.from(all, ([address]) => address),
    lengths: Uint32Array.from(all, ([, length]) => length),
    readable: readable.length,
    count: all.length,
    copyOut: (_: number, target: Uint8Array) => target.fill(0xcc).length,
  } as unknown as Chain
}

describe("the region that was used last", () => {
  it("gives headers, in whichever region they are", () => {
    const memory = heapMemory(LAYOUT)
    const near = new NearRegion(memory)
    const header = new DataView(new ArrayBuffer(16))
    const bytes = new Uint8Array(header.buffer)
    for (const at of [16, HIGH + 8176, HIGH, 8176]) {
      memory.write(
        at,
        Uint8Array.from({ length: 16 }, (_, i) => (at + 3 * i) & 0xff),
      )
      near.readHeader(chain([[at, 16]]), header, bytes)
      expect([...bytes]).toEqual(Array.from({ length: 16 }, (_, i) => (at + 3 * i) & 0xff))
    }
    // bad-input #21: one that is split is put together by the chain.
    near.readHeader(chain([[0, 15]]), header, bytes)
    expect(bytes.every((byte) => byte === 0xcc)).toBe(true)
  })

  it("writes the last byte, which may be before empty buffers, and tells dirty tracking", () => {
    const memory = heapMemory(LAYOUT)
    const near = new NearRegion(memory)
    const write = (...writable: [number, number][]) => near.writeLast(chain([[0, 16]], writable), 7)
    write([HIGH + 100, 10])
    expect([memory.readUint8(HIGH + 109), memory.readUint8(HIGH + 110)]).toEqual([7, 0])
    memory.startDirtyTracking()
    write([HIGH + 4096, 1], [200, 3], [HIGH, 0], [HIGH + 5, 0])
    expect(memory.readUint8(202)).toBe(7)
    const words = new Uint32Array(2)
    memory.takeDirty(0, words)
    expect(words[0]).toBe(1)
    words.fill(0)
    memory.takeDirty(HIGH, words)
    expect(words[0]).toBe(0)
  })

  it("bad-input #11: gives host addresses of what is whole in a region, and of nothing else", () => {
    const memory = mmapMemory(LAYOUT)
    const near = new NearRegion(memory)
    const target = new Float64Array(4)
    const give = (...ranges: [number, number][]) => {
      const { addresses, lengths, count } = chain(ranges)
      return near.hostAddresses(addresses, lengths, count, target, 1)
    }
    expect(give([16, 8176], [HIGH + 4096, 4096], [0, 1])).toBe(true)
    const at = (address: number) => memory.hostAddress(address, 1)
    expect([...target]).toEqual([0, at(16), at(HIGH + 4096), at(0)])
    expect(give([17, 8176])).toBe(false)
    expect(give([0, 1], [8192, 1])).toBe(false)
    expect(give([HIGH - 1, 2])).toBe(false)
    memory.close()
    expect(() => give([16, 16])).toThrow("closed")
    const heap = heapMemory(LAYOUT)
    expect(new NearRegion(heap).hostAddresses(Float64Array.of(0), Uint32Array.of(1), 1, target, 0)).toBe(
      false,
    )
  })
})
