import type { Chain } from "@virtkit/interface"
import { DESCRIPTOR, PACKED_EVENT, RING_FLAG } from "../spec.js"
import { type AtomicAccess, covers, watchAtomics } from "./atomics.js"
import { type TestRunner, turn } from "./fixture.js"
import { packedTrustTests } from "./packed-rules.js"
import { packedDriver, type RawRing, splitDriver } from "./raw-ring.js"
import type { BenchOptions, MakeBench } from "./ring-bench.js"
import { BAD, chainChecks, GOOD } from "./ring-checks.js"
import { splitTrustTests } from "./split-rules.js"

const { NEXT } = DESCRIPTOR

/** Rings that cannot be trusted any more, drivers that never stop, and the order of accesses. */
export function trustTests(runner: TestRunner, bench: MakeBench, common: BenchOptions): void {
  const { it, expect } = runner
  const { make, works, breaks } = chainChecks(runner, bench, common)

  it("bad-input #15 and #17 (2.7.6, 2.8.1): more chains than the driver has got back", async () => {
    for (const given of ["nothing", "one of two", "all"] as const) {
      const test = await make({ size: 4 })
      for (let slot = 0; slot < 4; slot++) test.ring.offer([GOOD])
      test.ring.publish()
      const chains = test.take()
      expect(chains.length).toBe(4)
      if (given === "one of two") test.give(chains.slice(0, 2), 1)
      if (given === "all") test.give(chains, 1)
      const back = given === "nothing" ? 0 : given === "all" ? 4 : 2
      expect(test.ring.takeUsed().length).toBe(back)
      for (let slot = 0; slot < back; slot++) test.ring.offer([GOOD])
      test.ring.publish()
      expect(test.take().length).toBe(back)
      test.ring.offer([GOOD])
      test.ring.publish()
      breaks(test)
    }
  })

  it("bad-input #15 and #17 (2.7.6, 2.8.1): some that there is room for, and with them one that there is not", async () => {
    const test = await make({ size: 4 })
    for (let slot = 0; slot < 4; slot++) test.ring.offer([GOOD])
    test.ring.publish()
    test.give(test.take().slice(0, 2), 1)
    for (let slot = 0; slot < 3; slot++) test.ring.offer([GOOD])
    test.ring.publish()
    expect([test.take().length <= 2, test.broken]).toEqual([true, true])
  })

  it("bad-input #15 and #17 (2.7.6, 2.8.1): chains that the device is done with count until the driver knows", async () => {
    for (const done of [1, 4]) {
      const test = await make({ size: 4 })
      for (let slot = 0; slot < 4; slot++) test.ring.offer([GOOD])
      test.ring.publish()
      test.give(test.take().slice(0, done), 1, false)
      expect(test.ring.takeUsed()).toEqual([])
      test.ring.offer([GOOD])
      test.ring.publish()
      breaks(test)
    }
  })

  it("bad-input #15 (2.7.6, 2.8.1): a full ring is no jump", async () => {
    for (const size of [1, 2, 8, 64]) {
      const test = await make({ size })
      for (let lap = 0; lap < 3; lap++) {
        const ids = Array.from({ length: size }, () => test.ring.offer([GOOD]))
        test.ring.publish()
        const chains = test.take()
        expect(chains.map(({ head }) => head)).toEqual(ids)
        expect(test.broken).toBe(false)
        test.give(chains, 1)
        expect(test.ring.takeUsed().map(({ id }) => id)).toEqual(ids)
      }
      works(test)
    }
  })

  it("bad-input #20 (2.1.2): what the device had when the ring broke can still be given back", async () => {
    const test = await make()
    const id = test.ring.offer([GOOD])
    test.ring.publish()
    const chains = test.take()
    breakRing(test.ring)
    breaks(test)
    test.give(chains, 1)
    expect(test.ring.takeUsed()).toEqual([{ id, length: 1 }])
  })

  it("bad-input #16 (2.7.13, 2.8.21): a driver that refills with malformed chains does not keep the device", async () => {
    const test = await make()
    let offered = 0
    let back = 0
    const refill = (): void => {
      back += test.ring.takeUsed().length
      for (; offered - back < test.ring.size; offered++) test.ring.offer([BAD])
      test.ring.publish()
    }
    refill()
    // A driver on another vCPU that does so whenever the ring is looked at.
    watchAtomics(test.memory, () => expect(test.take().length).toBe(0), refill)
    expect([test.broken, offered <= test.ring.size * (test.ring.size + 2)]).toEqual([false, true])
  })

  it("bad-input #19 (2.7.6.1, 2.8.21.1): what says that a chain is available is one atomic access, before the chain is read", async () => {
    for (const count of [1, 2]) {
      const test = await make()
      for (let slot = 0; slot < count; slot++) test.ring.offer([GOOD])
      test.ring.publish()
      let taken: Chain[] = []
      const accesses = watchAtomics(test.memory, () => {
        taken = test.take()
      })
      expect(taken.length).toBe(count)
      // Up to where it asks for notifications, after which it looks again.
      const event = test.ring.deviceEvent(false)
      const asked = accesses.map((access) => access.kind === "store" && covers(access, event))
      const before = accesses.slice(0, asked.lastIndexOf(true))
      for (let nth = 0; nth < count; nth++) {
        // Of that slot, or of a later one that is available too.
        const places = [nth, count - 1].map((slot) => test.ring.availability(slot))
        expect(before.some((access) => isLoadOf(access, places))).toBe(true)
      }
    }
  })

  it("bad-input #19 (2.7.8, 2.8.21): used elements are there before the one atomic store that publishes them", async () => {
    for (const eventIdx of [false, true]) {
      const test = await make({ eventIdx })
      const ids = [0, 1, 2].map(() => test.ring.offer([GOOD]))
      test.ring.publish()
      const chains = test.take()
      const place = test.ring.publication(0)
      const event = test.ring.driverEvent(eventIdx)
      const isPublication = (access: AtomicAccess): boolean => {
        return access.kind === "store" && covers(access, place)
      }
      let published = false
      const accesses = watchAtomics(
        test.memory,
        () => test.give(chains, 1),
        (access) => {
          if (published || !isPublication(access)) return
          published = true
          expect(test.ring.takeUsed()).toEqual([])
          expect(elements(test.ring, 3)).toEqual(ids.map((id) => ({ id, length: 1 })))
        },
      )
      expect(published).toBe(true)
      expect(test.ring.takeUsed()).toEqual(ids.map((id) => ({ id, length: 1 })))
      // 2.7.7.2, 2.8.21.3.1: only then it may look whether the driver wants to hear of it.
      const after = accesses.slice(accesses.findIndex(isPublication) + 1)
      expect(after.some((access) => isLoadOf(access, [event]))).toBe(true)
    }
  })

  it("bad-input #19 (2.7.10.1, 2.8.21): it asks for notifications, then looks again, so that no chain is missed", async () => {
    for (const eventIdx of [false, true]) {
      const test = await make({ eventIdx })
      works(test)
      const event = test.ring.deviceEvent(eventIdx)
      let offered = false
      const taken: Chain[] = []
      const accesses = watchAtomics(
        test.memory,
        () => taken.push(...test.take()),
        (access) => {
          if (offered || access.kind !== "store" || !covers(access, event)) return
          if (asksForNone(test.ring, eventIdx, access)) return
          // The driver looked just before, and saw that no notification is wanted.
          offered = true
          test.ring.offer([GOOD])
          test.ring.publish()
        },
      )
      for (let turns = 0; turns < 3; turns++) await turn()
      taken.push(...test.late())
      expect([offered, taken.length]).toEqual([true, 1])
      const stored = accesses.map((access) => access.kind === "store" && covers(access, event))
      const after = accesses.slice(stored.lastIndexOf(true) + 1)
      const places = [0, 1, 2].map((slot) => test.ring.availability(slot))
      expect(after.some((access) => isLoadOf(access, places))).toBe(true)
    }
  })

  if (common.kind === "split") splitTrustTests(runner, bench, common)
  else packedTrustTests(runner, bench, common)
}

function isLoadOf(access: AtomicAccess, places: readonly { address: number; bytes: number }[]): boolean {
  return access.kind === "load" && places.some((place) => covers(access, place))
}

/** Whether that store of the device's event says that no notification is wanted. */
function asksForNone(ring: RawRing, eventIdx: boolean, { value = 0 }: AtomicAccess): boolean {
  if (ring.kind === "packed") return value >>> 16 === PACKED_EVENT.DISABLE
  return !eventIdx && (value & RING_FLAG.USED_NO_NOTIFY) !== 0
}

/** The elements of the first batch in the used ring, whether published or not. */
function elements(ring: RawRing, count: number): { id: number; length: number }[] {
  return Array.from({ length: count }, (_, index) => {
    if (ring.kind === "split") return splitDriver(ring).usedElement(index)
    const { id, length } = packedDriver(ring).descriptor(index)
    return { id, length }
  })
}

function breakRing(ring: RawRing): void {
  if (ring.kind === "split") {
    splitDriver(ring).setAvailIndex(1000)
    return
  }
  packedDriver(ring).offer([{ ...GOOD, flags: NEXT }])
  ring.publish()
}
