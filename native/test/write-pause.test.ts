import { spawnSync } from "node:child_process"
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { afterAll, beforeAll, describe, expect, it } from "vitest"

const folder = mkdtempSync(join(tmpdir(), "virtkit-pause-"))
const program = join(folder, "write-pause")
beforeAll(() => {
  const source = fileURLToPath(new URL("write_pause.cc", import.meta.url))
  const { stderr } = spawnSync("c++", ["-std=c++20", "-o", program, source], { encoding: "utf8" })
  if (stderr !== "") throw new Error(stderr)
}, 60_000)
afterAll(() => rmSync(folder, { recursive: true }))

/** What is allowed after each step, and how often the thread's waits were asked for in all. */
function run(...steps: string[]): { allowed: boolean[]; asked: number } {
  const { stdout } = spawnSync(program, { input: steps.join("\n"), encoding: "utf8" })
  const lines = stdout.trimEnd().split("\n")
  expect(lines).toHaveLength(steps.length)
  return {
    allowed: lines.map((line) => line.startsWith("yes")),
    asked: Number(lines.at(-1)!.split(" ")[1]),
  }
}

/** A wait that is too long, as when the page cache is full. */
const SLOW = "write 20 3"

/** Milliseconds for which writes are not allowed after these steps. */
function pauseAfter(...steps: string[]): number {
  let low = 0
  let high = 200_000
  while (low < high) {
    const middle = Math.floor((low + high) / 2)
    if (run(...steps, `sleep ${middle}`).allowed.at(-1)) high = middle
    else low = middle + 1
  }
  return low
}

describe("writes on the submitting thread", () => {
  it("go on while they are quick, which costs no system call", () => {
    const steps = Array.from({ length: 50 }, () => "write 4 1")
    expect(run(...steps)).toEqual({ allowed: steps.map(() => true), asked: 0 })
  })

  it("go on when other threads only had the processor", () => {
    const steps = Array.from({ length: 20 }, () => "write 30 0")
    expect(run(...steps).allowed).not.toContain(false)
  })

  it("stop for a second when two in a second waited for long", () => {
    expect(pauseAfter(SLOW)).toBe(0)
    expect(pauseAfter(SLOW, SLOW)).toBe(1000)
    expect(pauseAfter(SLOW, "sleep 900", SLOW)).toBe(1000)
    expect(pauseAfter(SLOW, "sleep 1100", SLOW)).toBe(0)
    expect(pauseAfter(SLOW, "write 4 3")).toBe(0)
    expect(pauseAfter(SLOW, "write 5 1")).toBe(1000)
  })

  it("stop for twice as long each time that the next one waits again, a minute at most", () => {
    const steps = [SLOW, SLOW]
    const pauses = [1000]
    for (let i = 0; i < 8; i++) {
      steps.push(`sleep ${pauses.at(-1)}`, SLOW)
      pauses.push(pauseAfter(...steps))
    }
    expect(pauses).toEqual([1000, 2000, 4000, 8000, 16_000, 32_000, 64_000, 64_000, 64_000])
  })

  it("are forgiven after some seconds without", () => {
    const twice = [SLOW, SLOW, "sleep 1000", SLOW]
    expect(pauseAfter(...twice)).toBe(2000)
    expect(pauseAfter(...twice, "sleep 11000", SLOW, SLOW)).toBe(4000)
    expect(pauseAfter(...twice, "sleep 12000", SLOW, SLOW)).toBe(1000)
  })

  it("are not watched any more when they have been quick for a second", () => {
    const { asked } = run(SLOW, SLOW, "sleep 2001")
    const quick = Array.from({ length: 50 }, () => "write 1 1")
    expect(run(SLOW, SLOW, "sleep 2001", ...quick).asked).toBe(asked)
  })
})
