import { describe, expect, it } from "vitest"
import { readCorpus } from "../src/corpus.js"
import { NATIVE_TARGETS, replayNative } from "../src/native.js"

/** A compiler takes its time when others want the processors too. */
const TIMEOUT = 120_000

// With the sanitizers of g++, which is there: libFuzzer, which found these inputs, is not needed.
describe.each(Object.keys(NATIVE_TARGETS))("%s", (name) => {
  it(
    "has no finding with its corpus",
    async () => {
      const inputs = [...readCorpus(name).values()]
      expect(inputs.length).toBeGreaterThan(0)
      await replayNative(name, inputs)
    },
    TIMEOUT,
  )
})
