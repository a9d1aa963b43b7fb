import { describe, expect, it } from "vitest"
import { tally } from "../check-tally.mjs"
import { withoutFiles, worthRepeating } from "../test.mjs"

const failed = (files: Record<string, { passed: number; failed: number }>, elsewhere = 0) => ({
  passed: 100,
  failed: Object.values(files).reduce((sum, file) => sum + file.failed, elsewhere),
  skipped: ["a.lab.test.ts > x [no gold]", "b.test.ts > y"],
  files,
})

describe("worthRepeating", () => {
  it("is what failed in up to three files of tests in labs", () => {
    const one = { "a.lab.test.ts": { passed: 3, failed: 2 } }
    expect(worthRepeating(failed(one))).toEqual(["a.lab.test.ts"])
    const two = { ...one, "b.lab.test.ts": { passed: 0, failed: 1 } }
    expect(worthRepeating(failed(two))).toEqual(["a.lab.test.ts", "b.lab.test.ts"])
    const three = { ...two, "c.lab.test.ts": { passed: 2, failed: 1 } }
    expect(worthRepeating(failed(three))).toHaveLength(3)
  })

  it.each([
    ["another test failed as well", { "a.lab.test.ts": [1, 1], "b.test.ts": [0, 1] }, 0],
    ["only others failed", { "b.kvm.test.ts": [0, 1] }, 0],
    ["something failed outside of tests", { "a.lab.test.ts": [1, 1] }, 1],
    [
      "four failed",
      {
        "a.lab.test.ts": [1, 1],
        "b.lab.test.ts": [1, 1],
        "c.lab.test.ts": [1, 1],
        "d.lab.test.ts": [1, 1],
      },
      0,
    ],
  ] as const)("is nothing when %s", (_, counts, elsewhere) => {
    const files = Object.entries(counts).map(([name, [passed, failed]]) => [name, { passed, failed }])
    expect(worthRepeating(failed(Object.fromEntries(files), elsewhere))).toEqual([])
  })
})

it("counts a file that is run again once, and says so", () => {
  const first = withoutFiles(failed({ "a.lab.test.ts": { passed: 3, failed: 2 } }), ["a.lab.test.ts"])
  expect(first).toMatchObject({ passed: 97, failed: 0, skipped: ["b.test.ts > y"], files: {} })
  const second = { passed: 4, failed: 1, skipped: ["a.lab.test.ts > x [no gold]"], files: {} }
  const run = { checks: { passed: 2, failed: 0 }, checkStatus: 0, ci: false }
  expect(tally({ ...run, tests: [first, second], testStatus: 1 })).toEqual({
    passed: 103,
    failed: 1,
    skipped: 2,
    notes: ["failed in its first lab, and was run again: a.lab.test.ts"],
  })
  // The second run did not get to its end.
  expect(tally({ ...run, tests: [first], testStatus: 1 }).failed).toBe(1)
})
