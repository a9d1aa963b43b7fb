import { afterAll, beforeAll, describe, expect, it } from "vitest"
import { LinuxLab } from "../src/index.js"

const GiB = 2 ** 30

/** Shell scripts that guests execute as their process 1. */
const scripts = {
  steady: `echo reading
/usr/bin/ioping -q -R -D -s 4k -w 10 /dev/vda || echo failed
`,
}

interface Result {
  readonly seconds: readonly { requests: number; exits: number }[]
  readonly said: string
}

describe("a Linux guest that reads at random", { timeout: 120_000 }, () => {
  let linux: LinuxLab

  beforeAll(async () => {
    linux = await LinuxLab.start(scripts, { memory: 2 * GiB, programs: ["/usr/bin/ioping"] })
  }, 240_000)
  afterAll(() => linux?.lab.close(), 60_000)

  // With virtio-mmio the driver writes to InterruptACK after each interrupt.
  it("makes no exit to user space in a second of it", async () => {
    const { seconds, said } = (await linux.program("steady")) as Result
    expect(said).not.toContain("failed")
    expect(seconds.every(({ requests }) => requests > 0)).toBe(true)
    // A guest may have something else to do now and then; what it reads costs nothing.
    expect(seconds.filter(({ exits }) => exits === 0).length, JSON.stringify(seconds)).toBeGreaterThan(2)
    const exits = seconds.reduce((sum, second) => sum + second.exits, 0)
    expect(exits, JSON.stringify(seconds)).toBeLessThan(
      seconds.reduce((sum, { requests }) => sum + requests, 0) / 10,
    )
  })
})
