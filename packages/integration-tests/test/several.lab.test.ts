import { readFileSync } from "node:fs"
import { afterAll, beforeAll, describe, expect, it } from "vitest"
import { LinuxLab, type Resources } from "../src/index.js"

const GiB = 2 ** 30

/** Shell scripts that guests execute as their process 1. */
const scripts = {
  work: `echo at work
read what
[ "$what" = crash ] && echo c >/proc/sysrq-trigger
echo result $(seq 1 20000 | sha256sum)
`,
  memory: "echo memory $(grep MemTotal /proc/meminfo)\n",
}

interface FourGuests {
  readonly exits: readonly { reason: string; console?: string[] }[]
  readonly states: readonly string[]
  readonly said: readonly string[]
  readonly before: Resources & { mappingCount: number }
  readonly after: Resources & { mappingCount: number }
}

/** The lab has 5 GiB, and the host must have them. */
const available = Number(/^MemAvailable:\s+(\d+)/m.exec(readFileSync("/proc/meminfo", "utf8"))?.[1]) * 1024
const tooSmall = available < 8 * GiB
const why = tooSmall ? " (skipped: less than 8 GiB of MemAvailable)" : ""

describe.skipIf(tooSmall)(`Linux guests that are several or large${why}`, { timeout: 300_000 }, () => {
  let linux: LinuxLab

  beforeAll(async () => {
    linux = await LinuxLab.start(scripts, { memory: 5 * GiB })
  }, 240_000)
  afterAll(() => linux?.lab.close(), 60_000)

  it("four in one process: one panics, three finish, nothing is left", async () => {
    const result = (await linux.program("four-guests")) as FourGuests
    expect(result.exits.map(({ reason }) => reason)).toEqual(["poweroff", "panic", "poweroff", "poweroff"])
    expect(result.states).toEqual(["running", "exited", "running", "running"])
    expect(result.exits[1]?.console?.join("\n")).toContain("Kernel panic - not syncing")
    const results = result.said.map((said) => /^result ([0-9a-f]{64})/m.exec(said)?.[1])
    expect(results[1]).toBeUndefined()
    expect(results[0]).toBeDefined()
    expect([results[2], results[3]]).toEqual([results[0], results[0]])
    const { mappingCount: before, ...held } = result.before
    const { mappingCount: after, ...left } = result.after
    expect(left).toEqual(held)
    // V8's heap, which is mapped in pieces. A VM that was left would have its RAM and its vCPU here.
    expect(after - before).toBeLessThan(100)
  })

  it("one with RAM on both sides of the hole below 4 GiB", async () => {
    const { status, stdout } = await linux.run("memory", { args: ["--memory=3584M"] })
    expect(status).toBe(0)
    const kilobytes = Number(/memory MemTotal: (\d+) kB/.exec(stdout)?.[1])
    expect(kilobytes).toBeGreaterThan(3.3 * 2 ** 20)
    expect(kilobytes).toBeLessThanOrEqual(3.5 * 2 ** 20)
  })
})
