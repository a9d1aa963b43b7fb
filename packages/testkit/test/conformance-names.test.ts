import {
  blkConformance,
  consoleConformance,
  deviceConformance,
  netConformance,
  ringConformance,
  rngConformance,
  type TestRunner,
  transportConformance,
} from "@virtkit/testkit"
import { describe, expect, it } from "vitest"

const never = (): never => {
  throw new Error("only names are asked for")
}

/** The full names of a suite's tests. */
function namesOf(declare: (runner: TestRunner) => void): string[] {
  const names: string[] = []
  const path: string[] = []
  declare({
    describe(name, body) {
      path.push(name)
      body()
      path.pop()
    },
    it: (name) => names.push([...path, name].join(" > ")),
    expect: never,
  })
  return names
}

const device = { setup: never, transport: never }
const SUITES = {
  ring: namesOf((runner) => ringConformance(runner, { setup: never })),
  transport: namesOf((runner) => transportConformance(runner, { setup: never })),
  device: namesOf((runner) => deviceConformance(runner, device)),
  blk: namesOf((runner) => blkConformance(runner, device)),
  net: namesOf((runner) => netConformance(runner, device)),
  console: namesOf((runner) => consoleConformance(runner, device)),
  rng: namesOf((runner) => rngConformance(runner, device)),
}

describe.each(Object.entries(SUITES))("names of the %s suite", (_, names) => {
  it("say each which clause of the specification the case is about, and are all different", () => {
    expect(names.length).toBeGreaterThan(7)
    expect(names.filter((name) => !/\b[2-6](\.\d+)+\b/.test(name))).toEqual([])
    expect(new Set(names).size).toBe(names.length)
  })
})

describe("rows of bad input that concern rings", () => {
  // docs/threat-model.md; those of single chains and rings, and those that need registers.
  const chains = [8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 35]
  const cases = [
    ["ring", "split", [...chains, 27, 31]],
    ["ring", "packed", [...chains, 27, 30, 31]],
    ["transport", "split rings", [...chains, 1, 3, 4, 27, 34]],
    ["transport", "packed rings", [...chains, 1, 3, 4, 27, 30, 34]],
  ] as const

  it.each(cases)("have a case each in the %s suite, on %s", (suite, kind, rows) => {
    const names = SUITES[suite].filter((name) => name.includes(kind))
    const named = new Set(names.flatMap((name) => [...name.matchAll(/#(\d+)/g)].map((row) => Number(row[1]))))
    expect(rows.filter((row) => !named.has(row))).toEqual([])
  })
})
