import { describe, expect, it } from "vitest"
import { uncovered } from "../check-coverage.mjs"

const at = (line: number) => ({ start: { line }, end: {} })

describe("the coverage check", () => {
  const file = {
    statementMap: { 0: at(1), 1: at(4) },
    s: { 0: 3, 1: 1 },
    fnMap: { 0: { name: "take", decl: at(2) } },
    f: { 0: 2 },
    branchMap: { 0: { type: "if", loc: at(4), locations: [at(4), { start: {}, end: {} }] } },
    b: { 0: [1, 2] },
  }

  it("passes when all is reached", () => {
    expect(uncovered("a.ts", file)).toEqual([])
  })

  it("finds functions, statements and branches that are not", () => {
    expect(uncovered("a.ts", { ...file, f: { 0: 0 } })).toEqual(["a.ts:2: no test calls take"])
    expect(uncovered("a.ts", { ...file, s: { 0: 0, 1: 0 } })).toEqual([
      "a.ts:1: no test gets there",
      "a.ts:4: no test gets there",
    ])
    // An `else` that is not written has no place of its own.
    expect(uncovered("a.ts", { ...file, b: { 0: [1, 0] } })).toEqual([
      "a.ts:4: no test takes way 2 of 2 (if)",
    ])
  })
})
