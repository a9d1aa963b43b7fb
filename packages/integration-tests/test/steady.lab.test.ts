import { afterAll, beforeAll, describe, expect, it } from "vitest"
import { LinuxLab } from "../src/index.js"

const GiB = 2 ** 30

/** Shell scripts that guests execute as their process 1. */
const scripts = {
  steady: `echo reading
/usr/bin/ioping -q -R -D -s 4k -w 6 /dev/vda || echo failed
`,
}

describe("a Linux guest that reads at random", { timeout: 120_000 }, () => {
  let linux: LinuxLab

  beforeAll(async () => {
    linux = await LinuxLab.start(scripts, { memory: 2 * GiB, programs: ["/usr/bin/ioping"] })
  }, 240_000)
  afterAll(() => linux?.lab.close(), 60_000)

  it.each(["pci", "mmio"])("makes no exit to user space in a second of it (virtio-%s)", async (transport) => {
    const result = (await linux.program("steady", transport)) as Record<string, number | string>
    expect(result.said).not.toContain("failed")
    expect(result.requests).toBeGreaterThan(50)
    expect(result).toMatchObject({ exits: 0 })
  })
})
