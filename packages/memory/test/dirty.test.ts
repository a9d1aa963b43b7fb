import { StateError } from "@virtkit/interface"
import { DirtyBitmap, dirtyWords, forEachDirtyRange, heapMemory } from "@virtkit/memory"
import fc from "fast-check"
import { describe, expect, it } from "vitest"

const PAGE = 4096

function ranges(words: Uint32Array): [number, number][] {
  const found: [number, number][] = []
  forEachDirtyRange(words, (offset, length) => found.push([offset / PAGE, length / PAGE]))
  return found
}

describe("dirty tracking", () => {
  it("records what each kind of write touched, and only while it is on", () => {
    const memory = heapMemory([
      { guestAddress: 0, size: 64 * PAGE },
      { guestAddress: 2 ** 32, size: 64 * PAGE },
    ])
    memory.writeUint8(0, 1)
    expect(memory.dirtyTracking).toBe(false)
    memory.startDirtyTracking()
    memory.writeUint8(PAGE, 1)
    memory.writeUint16(3 * PAGE, 1)
    memory.writeUint32(5 * PAGE - 2, 1)
    memory.writeBigUint64(7 * PAGE, 1n)
    memory.write(10 * PAGE, new Uint8Array(10))
    memory.write(12 * PAGE - 1, new Uint8Array(PAGE + 2))
    memory.fill(31 * PAGE, 2 * PAGE, 1)
    memory.markDirty(63 * PAGE, PAGE)
    memory.markDirty(40 * PAGE, 0)
    memory.markDirty(64 * PAGE, 5)
    memory.readUint32(50 * PAGE)
    memory.writeUint8(2 ** 32 + 2 * PAGE, 1)

    const words = new Uint32Array(dirtyWords(64 * PAGE))
    memory.takeDirty(0, words)
    expect(ranges(words)).toEqual([
      [1, 1],
      [3, 3],
      [7, 1],
      [10, 4],
      [31, 2],
      [63, 1],
    ])
    const high = new Uint32Array(2)
    memory.takeDirty(2 ** 32, high)
    expect(ranges(high)).toEqual([[2, 1]])
    memory.stopDirtyTracking()
    memory.writeUint8(0, 1)
    expect(() => memory.takeDirty(0, words)).toThrow(StateError)
  })

  it("clears what it hands out, and adds to a log of KVM's", () => {
    const memory = heapMemory(64 * PAGE)
    memory.startDirtyTracking()
    memory.writeUint8(2 * PAGE, 1)
    const log = new BigUint64Array([1n << 63n])
    const words = new Uint32Array(log.buffer)
    memory.takeDirty(0, words)
    expect(log[0]).toBe((1n << 63n) | (1n << 2n))
    memory.takeDirty(0, words.fill(0))
    expect(ranges(words)).toEqual([])
    expect(() => memory.takeDirty(PAGE, words)).toThrow(StateError)
    expect(() => memory.takeDirty(0, new Uint32Array(1))).toThrow(RangeError)
  })

  it("finds the same pages as a set does", () => {
    const write = fc.record({ offset: fc.nat(100 * PAGE - 1), length: fc.nat(3 * PAGE) })
    fc.assert(
      fc.property(fc.array(write), (writes) => {
        const bitmap = new DirtyBitmap(104 * PAGE)
        const pages = new Set<number>()
        for (const { offset, length } of writes) {
          bitmap.mark(offset, length)
          for (let at = offset; at < offset + length; at++) pages.add(Math.floor(at / PAGE))
        }
        const found: number[] = []
        forEachDirtyRange(bitmap.words, (offset, length) => {
          for (let at = offset; at < offset + length; at += PAGE) found.push(at / PAGE)
        })
        expect(found).toEqual([...pages].sort((a, b) => a - b))
      }),
      { numRuns: 50 },
    )
  })

  it("rounds bitmaps up to 64-bit words", () => {
    expect(dirtyWords(PAGE)).toBe(2)
    expect(dirtyWords(64 * PAGE)).toBe(2)
    expect(dirtyWords(65 * PAGE)).toBe(4)
  })
})
