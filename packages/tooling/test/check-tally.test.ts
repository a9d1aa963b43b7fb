import { execFileSync } from "node:child_process"
import { join } from "node:path"
import { describe, expect, it } from "vitest"
import { repository } from "../check-lib.mjs"
import { judge, type reasons } from "../check-skips.mjs"
import { tally } from "../check-tally.mjs"
import { summarise } from "../vitest-report.mjs"
import { linkModules, tree } from "./fixture.js"

const green = {
  tests: [{ passed: 10, failed: 0, skipped: [] as string[], files: {} }],
  testStatus: 0,
  checks: { passed: 3, failed: 0 },
  checkStatus: 0,
  ci: true,
}

describe("tally", () => {
  it("adds up tests and checks", () => {
    expect(tally(green)).toEqual({ passed: 13, failed: 0, skipped: 0, notes: [] })
    const twice = { ...green, tests: [...green.tests, { passed: 1, failed: 2, skipped: [], files: {} }] }
    expect(
      tally({ ...twice, testStatus: 1, checks: { passed: 1, failed: 2 }, checkStatus: 1 }),
    ).toMatchObject({
      passed: 12,
      failed: 4,
    })
  })

  it.each([
    ["tests that never ran", { tests: [], testStatus: 2, checks: { passed: 0, failed: 0 } }],
    ["tests that ended badly with none failed", { testStatus: 1 }],
    ["no test at all", { tests: [], checks: { passed: 0, failed: 0 } }],
    ["checks that never ran", { checks: undefined, checkStatus: 1 }],
    ["checks that were ended", { checkStatus: 124 }],
    [
      "a test skipped without a reason in CI",
      { tests: [{ passed: 9, failed: 0, skipped: ["a > b"], files: {} }] },
    ],
  ])("counts %s as a failure", (_, change) => {
    expect(tally({ ...green, ...change }).failed).toBe(1)
  })

  it("counts skipped tests outside CI as such", () => {
    const tests = [{ passed: 9, failed: 0, skipped: ["a > b"], files: {} }]
    expect(tally({ ...green, tests, ci: false })).toMatchObject({ failed: 0, skipped: 1 })
  })
})

describe("judge", () => {
  const list: typeof reasons = [
    { pattern: /needs gold/, why: "no gold", holds: () => true },
    { pattern: /needs silver/, why: "no silver", holds: () => false },
  ]

  it("allows a skip only while its reason holds", () => {
    expect(judge(["a (needs gold)", "b (needs silver)", "c"], list)).toEqual({
      allowed: ["a (needs gold) (no gold)"],
      refused: ["b (needs silver)", "c"],
    })
  })
})

describe("the vitest reporter", () => {
  it("counts tests, broken files and suites, and errors outside of tests", () => {
    const test = (fullName: string, state: string, note?: string) => ({
      fullName,
      result: () => ({ state, note }),
    })
    const tests = [
      test("a", "passed"),
      test("b", "failed"),
      test("c", "skipped", "no gold"),
      test("d", "skipped"),
    ]
    const module = (file: string, errors: unknown[], suiteErrors: unknown[]) => ({
      relativeModuleId: file,
      errors: () => errors,
      children: { allTests: () => tests, allSuites: () => [{ errors: () => suiteErrors }] },
    })
    expect(summarise([module("x.ts", [], []), module("y.ts", [1], [1])], [new Error("late")])).toEqual({
      passed: 2,
      failed: 5,
      skipped: ["x.ts > c [no gold]", "x.ts > d", "y.ts > c [no gold]", "y.ts > d"],
      files: { "x.ts": { passed: 1, failed: 1 }, "y.ts": { passed: 1, failed: 3 } },
    })
  })

  it("speaks to the vitest that we use, through to the last line of the gate", () => {
    const root = tree({
      "package.json": { type: "module" },
      "a.test.js": `
        import { it } from "vitest"
        it("passes", () => {})
        it("is skipped", (context) => context.skip("no gold"))
        it("fails", () => { throw new Error("x") })
      `,
      checks: JSON.stringify({ passed: 2, failed: 0 }),
    })
    const report = join(root, "report")
    const vitest = join(repository, "node_modules/vitest/vitest.mjs")
    const reporter = join(repository, "packages/tooling/vitest-report.mjs")
    linkModules(root)
    const environment = { ...process.env, VIRTKIT_TEST_REPORT: report, CI: "true" }
    const status = exitStatus(["node", vitest, "run", `--reporter=${reporter}`], root, environment).status
    expect(status).toBe(1)
    const tallyScript = join(repository, "packages/tooling/check-tally.mjs")
    const end = exitStatus(["node", tallyScript, report, "1", join(root, "checks"), "0"], root, environment)
    expect(end.stdout.trimEnd().split("\n").at(-1)).toBe("3 passed, 2 failed, 0 skipped")
    expect(end.stdout).toMatch("a.test.js > is skipped [no gold]")
    expect(end.status).toBe(1)
  })
})

function exitStatus(
  command: string[],
  cwd: string,
  env: NodeJS.ProcessEnv,
): { status: number; stdout: string } {
  const [program = "", ...args] = command
  try {
    return { status: 0, stdout: execFileSync(program, args, { cwd, env, encoding: "utf8", stdio: "pipe" }) }
  } catch (error) {
    const { status, stdout } = error as { status: number; stdout: string }
    return { status, stdout }
  }
}
