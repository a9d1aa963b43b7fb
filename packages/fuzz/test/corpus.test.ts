import { describe, expect, it } from "vitest"
import { readCorpus } from "../src/corpus.js"
import { loadTarget, TARGET_NAMES } from "../src/targets/index.js"

// Inputs that failed once, and those that together show most of what each target can do.
describe.each(TARGET_NAMES)("%s", (name) => {
  it("has no finding with its seeds and its corpus", async () => {
    const target = await loadTarget(name)
    const seeds = target.seeds().map((seed, index) => [`seed ${index}`, seed] as const)
    expect(seeds.length).toBeGreaterThan(0)
    const happened = new Set<string>()
    for (const [which, input] of [...seeds, ...readCorpus(name)]) {
      expect(input.length, which).toBeLessThanOrEqual(target.maxBytes)
      try {
        for (const thing of await target.run(input)) happened.add(thing)
      } catch (error) {
        throw new Error(`${which}: ${error}`, { cause: error })
      }
    }
    expect(happened.size).toBeGreaterThan(1)
  })
})
