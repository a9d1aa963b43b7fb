import { TestMemory } from "../memory.js"
import type { TestRunner } from "./fixture.js"
import type { RingKind } from "./raw-ring.js"
import type { MakeQueue } from "./ring-bench.js"

/** 2.7, 2.8.10: sizes and addresses, all of them the driver's. */
export function placeTests({ it, expect }: TestRunner, kind: RingKind, make: MakeQueue): void {
  const packed = kind === "packed"
  const memory = new TestMemory({
    regions: [
      { guestAddress: 0, size: 0x10000 },
      { guestAddress: 0x10000, size: 0x10000 },
    ],
  })
  const good = {
    ...{ index: 3, size: 8, desc: 0x1000, avail: 0x2000, used: 0x3000, memory, packed },
    ...{ inOrder: false, eventIdx: true, indirect: true, onInterrupt: () => {}, onBroken: () => {} },
  }
  const outcome = (change: Partial<typeof good>): string => {
    const { queue, reason } = make({ ...good, ...change })
    return queue !== undefined && reason === undefined ? "queue" : typeof reason
  }

  it("2.7, 2.8.10.1: sizes that a queue can have", () => {
    const sizes = packed ? [1, 2, 3, 7, 100, 3840] : [1, 2, 4, 64, 2048]
    expect(sizes.map((size) => outcome({ size }))).toEqual(sizes.map(() => "queue"))
  })

  it("bad-input #11 (2.7, 2.8.10.1): sizes that it cannot have give a reason instead of a queue", () => {
    const sizes = [0, -1, 1.5, Number.NaN, 32769, 65536, ...(packed ? [] : [3, 7, 32767])]
    expect(sizes.map((size) => [size, outcome({ size })])).toEqual(sizes.map((size) => [size, "string"]))
  })

  it("bad-input #11 (2.7, 2.8.10): so do misaligned parts", () => {
    const changes = packed
      ? [{ desc: 0x1008 }, { desc: 0x1001 }, { avail: 0x2002 }, { avail: 0x2001 }, { used: 0x3002 }]
      : [{ desc: 0x1008 }, { desc: 0x1001 }, { avail: 0x2001 }, { used: 0x3002 }, { used: 0x3001 }]
    expect(changes.map(outcome)).toEqual(changes.map(() => "string"))
  })

  it("bad-input #11 and #35 (2.7, 2.8.10): and parts that do not lie whole in memory", () => {
    const ends = packed
      ? [{ desc: 0x10000 - 16 * 7 }, { avail: 0x20000 }, { used: 0x20000 }]
      : [{ desc: 0x10000 - 16 * 7 }, { avail: 0x10000 - 20 }, { used: 0x20000 - 68 }]
    const far = [2 ** 20, 2 ** 53, 2 ** 64, Number.POSITIVE_INFINITY]
    const parts = ["desc", "avail", "used"] as const
    const changes = [...ends, ...far.flatMap((address) => parts.map((part) => ({ [part]: address })))]
    expect(changes.map(outcome)).toEqual(changes.map(() => "string"))
  })

  it("2.7, 2.8.10: parts may end where their region ends", () => {
    const ends = packed
      ? { desc: 0x10000 - 16 * 8, avail: 0x1fffc, used: 0xfffc }
      : { desc: 0x10000 - 16 * 8, avail: 0xfe00, used: 0x20000 - 72 }
    expect(outcome(ends)).toBe("queue")
  })

  it("bad-input #11 (2.7, 2.8.10): a region that the VMM placed at an odd address gives no misaligned views", () => {
    const odd = new TestMemory({ regions: [{ guestAddress: 0x1002, size: 0x10000 }] })
    expect(outcome({ memory: odd, desc: 0x1010 })).toBe("string")
  })
}
