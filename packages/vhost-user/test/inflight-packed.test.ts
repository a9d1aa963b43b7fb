import fc from "fast-check"
import { describe, expect, it } from "vitest"
import { PackedInflight, packedRegionBytes } from "../src/inflight-packed.js"
import { advance } from "../src/recover-packed.js"

const SIZE = 8
const START = 0x8000
const fresh = () => new Uint8Array(packedRegionBytes(SIZE))
const never = () => false

/** Descriptors of a chain that is known by `id`: the last one has it. */
function chainOf(id: number, count: number): Uint8Array {
  const bytes = new Uint8Array(16 * count)
  const view = new DataView(bytes.buffer)
  for (let index = 0; index < count; index++) {
    view.setUint32(16 * index, 0x1000 * id + index, true)
    view.setUint32(16 * index + 4, 1, true)
    view.setUint32(16 * index + 8, 100 + index, true)
    view.setUint16(16 * index + 12, index + 1 === count ? id : 0xffff, true)
    view.setUint16(16 * index + 14, index + 1 === count ? 0x82 : 0x81, true)
  }
  return bytes
}

describe("what is in flight on a packed ring", () => {
  it("lies where the document says", () => {
    expect(packedRegionBytes(SIZE)).toBe(320)
    const memory = fresh()
    const inflight = new PackedInflight(memory, SIZE)
    expect(inflight.begin(0x8003, never)).toEqual({ position: 0x8003, taken: [] })
    const view = new DataView(memory.buffer)
    const header = (at: number) => view.getUint16(at, true)
    // Version, entries, free and old free entry, used and old used index, both wrap counters.
    expect([8, 10, 12, 14, 16, 18].map(header)).toEqual([1, 8, 0, 0, 3, 3])
    expect([view.getUint8(20), view.getUint8(21)]).toEqual([1, 1])
    const [first, second] = [inflight.took(chainOf(5, 2)), inflight.took(chainOf(6, 1))]
    expect([first, second, header(12), header(14)]).toEqual([0, 2, 3, 3])
    // In flight, next, last, count, order; id, flags, length, address.
    expect([view.getUint8(32), header(34), header(36), header(38)]).toEqual([1, 1, 1, 2])
    expect(view.getBigUint64(40, true)).toBeLessThan(view.getBigUint64(32 + 64 + 8, true))
    expect([header(64 + 16), header(64 + 18), view.getUint32(64 + 20, true)]).toEqual([5, 0x82, 101])
    expect(view.getBigUint64(64 + 24, true)).toBe(0x1_0000_5001n)
    inflight.gives(first)
    inflight.given(0x8005)
    expect([header(12), header(14), header(16), header(18)]).toEqual([0, 3, 5, 3])
    // The entry behind those that come back is the first that is free.
    expect([view.getUint8(32), header(64 + 2)]).toEqual([1, 3])
    inflight.gave(0x8005)
    expect([header(12), header(14), header(16), header(18), view.getUint8(32)]).toEqual([0, 0, 5, 5, 0])
    expect(inflight.took(chainOf(7, 8))).toBe(-1)
    inflight.clear()
    expect(new PackedInflight(memory, SIZE).begin(1, never)).toEqual({ position: 1, taken: [] })
  })

  it("is found again, in order and whole, wherever the process was killed", () => {
    const step = fc.oneof(
      { weight: 4, arbitrary: fc.record({ take: fc.integer({ min: 1, max: 3 }) }) },
      { weight: 3, arbitrary: fc.record({ give: fc.nat(7) }) },
      { weight: 2, arbitrary: fc.constant("show" as const) },
      { weight: 1, arbitrary: fc.constant("kill" as const) },
      { weight: 1, arbitrary: fc.constant("kill after showing" as const) },
    )
    fc.assert(
      fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
        const memory = fresh()
        let inflight = new PackedInflight(memory, SIZE)
        inflight.begin(START, never)
        /** Not shown as given, oldest first: which chain, at which entry, of how many slots. */
        let held: { id: number; entry: number; slots: number; given: boolean }[] = []
        let shown = START
        let position = START
        let nextId = 0
        const show = () => {
          held = held.filter(({ given }) => !given)
          shown = position
        }
        const kill = () => {
          inflight = new PackedInflight(memory, SIZE)
          const before = position
          const { position: found, taken } = inflight.begin(START, (at) => at !== shown && before === shown)
          expect(found).toBe(shown)
          const chains = held.map(({ id, slots }) => chainOf(id, slots))
          expect(taken.map(({ descriptors }) => descriptors)).toEqual(chains)
          position = shown
          held = held.map((one, index) => ({ ...one, entry: taken[index]!.entry, given: false }))
        }
        for (const what of steps) {
          if (what === "show") {
            show()
            inflight.gave(position)
          } else if (what === "kill") kill()
          else if (what === "kill after showing") {
            show()
            kill()
          } else if ("take" in what) {
            if (held.reduce((sum, { slots }) => sum + slots, what.take) > SIZE) continue
            const entry = inflight.took(chainOf(nextId, what.take))
            expect(entry).toBeGreaterThanOrEqual(0)
            held.push({ id: nextId++, entry, slots: what.take, given: false })
          } else {
            const here = held.filter(({ given }) => !given)
            const one = here[what.give % Math.max(1, here.length)]
            if (one === undefined) continue
            inflight.gives(one.entry)
            one.given = true
            const moved = [{ id: 0, slots: one.slots, readable: 0, buffers: [], written: null, whole: false }]
            position = advance(position, moved, SIZE)
            inflight.given(position)
          }
        }
        kill()
      }),
      { numRuns: 300 },
    )
  })

  it("is bounded whatever the memory says", () => {
    const length = packedRegionBytes(SIZE)
    let begun = 0
    fc.assert(
      fc.property(fc.uint8Array({ minLength: length, maxLength: length }), fc.boolean(), (bytes, isShown) => {
        bytes[8] = 1
        bytes[9] = 0
        const inflight = new PackedInflight(bytes, SIZE)
        try {
          const { taken } = inflight.begin(START, () => isShown)
          const slots = taken.reduce((sum, { descriptors }) => sum + descriptors.length / 16, 0)
          expect(slots).toBeLessThanOrEqual(SIZE)
          begun++
        } catch (error) {
          expect((error as Error).message).toMatch(/chains share an entry/)
        }
        inflight.took(chainOf(1, 1))
        for (let i = 0; i < 20; i++) inflight.gives(7)
        inflight.gave(0)
      }),
    )
    expect(begun).toBeGreaterThan(0)
  })
})
