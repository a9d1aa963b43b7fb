import { DESCRIPTOR } from "../spec.js"
import type { TestRunner } from "./fixture.js"
import type { RawBuffer } from "./raw-ring.js"
import { type BenchOptions, BUFFER, type MakeBench, type RingBench } from "./ring-bench.js"

export const GOOD: RawBuffer = { address: BUFFER, length: 1, flags: DESCRIPTOR.WRITE }
/** Beyond all memory. */
export const BAD: RawBuffer = { address: 2n ** 60n, length: 1 }

/** What tests of chains check again and again. */
export interface ChainChecks {
  make(options?: Partial<BenchOptions>): Promise<RingBench>
  /** The device never sees the chain, the driver gets it back with length 0, and all goes on. */
  refuses(bench: RingBench, chain: readonly RawBuffer[]): void
  /** A good chain goes through. */
  works(bench: RingBench): void
  /** The device finds that the ring cannot be trusted, and looks at it no more. */
  breaks(bench: RingBench): void
}

export function chainChecks({ expect }: TestRunner, make: MakeBench, common: BenchOptions): ChainChecks {
  const works = (bench: RingBench): void => {
    const id = bench.ring.offer([GOOD])
    bench.ring.publish()
    const chains = bench.take()
    expect(chains.map(({ head, count }) => [head, count])).toEqual([[id, 1]])
    bench.give(chains, 1)
    expect(bench.ring.takeUsed()).toEqual([{ id, length: 1 }])
    expect(bench.broken).toBe(false)
  }
  const refuses = (bench: RingBench, chain: readonly RawBuffer[]): void => {
    const id = bench.ring.offer(chain)
    bench.ring.publish()
    expect(bench.take().length).toBe(0)
    expect(bench.ring.takeUsed()).toEqual([{ id, length: 0 }])
    expect(bench.broken).toBe(false)
    works(bench)
  }
  const breaks = (bench: RingBench): void => {
    expect(bench.take()).toEqual([])
    expect(bench.broken).toBe(true)
    expect(bench.take()).toEqual([])
  }
  return { breaks, make: (options) => make({ ...common, ...options }), refuses, works }
}
