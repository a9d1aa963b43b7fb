import { describe, expect, it } from "vitest"
import { check } from "../check-bad-input.mjs"
import { tree } from "./fixture.js"

// Spelled in two parts, so that the check does not take this file's fixtures for tests.
const bad = "bad-" + "input"
const table = "| # | case |\n| - | ---- |\n| 1 | one |\n| 8, 9 | two |\n"

function monorepo(test: string): string {
  return tree({
    "docs/threat-model.md": table,
    "packages/a/package.json": { name: "@x/a" },
    "packages/a/test/a.test.ts": test,
  })
}

describe("the check of bad input", () => {
  it("passes when every row has a test", () => {
    const root = monorepo(`it("${bad} #1: x", f)\nit.each([1, 2])(\`y (${bad} #8 and #9)\`, f)\n`)
    expect(check(root)).toEqual({ findings: [], summary: "3 tests for 3 rows of bad input" })
  })

  it("finds a row without a test; a comment is none", () => {
    const root = monorepo(`it("${bad} #1: x", f)\nit(\n  "${bad} #9: y",\n  f)\n// ${bad} #8\n`)
    expect(check(root).findings).toEqual([`docs/threat-model.md: no test names ${bad} #8`])
  })

  it("finds a test for a row that does not exist", () => {
    const root = monorepo(`it("${bad} #1 #8 #9 #99: x", f)\n`)
    expect(check(root).findings).toEqual([`packages/a/test/a.test.ts: ${bad} #99 is in no row of the table`])
  })
})
