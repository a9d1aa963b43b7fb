import { expect, it } from "vitest"
import { Lab } from "../src/index.js"

it("tells a command that the lab died under it, and of what", async () => {
  const lab = await Lab.start({ memory: 2 ** 29, timeout: 120_000 })
  try {
    await expect(lab.exec(["sh", "-c", "echo c >/proc/sysrq-trigger; sleep 1000"])).rejects.toMatchObject({
      code: "ERR_VIRTKIT_LAB_GONE",
      message: expect.stringMatching(/^the lab ended: .*Kernel panic - not syncing: sysrq triggered crash$/),
    })
  } finally {
    await lab.close()
  }
}, 150_000)
