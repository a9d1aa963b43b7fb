import { expect, it } from "vitest"
import { Lab } from "../src/index.js"
import { children } from "./children.js"

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

it("ends a lab that stands still, and tells where it stood", async () => {
  const before = new Set(await children(process.pid))
  const lab = await Lab.start({ memory: 2 ** 29, timeout: 120_000, stallTimeout: 6000 })
  const machines = (await children(process.pid)).filter((pid) => !before.has(pid))
  try {
    expect((await lab.exec(["sleep", "7"])).status).toBe(0) // a silent command is no reason
    const silent = lab.exec(["sleep", "1000"])
    for (const pid of machines) process.kill(pid, "SIGSTOP")
    await expect(silent).rejects.toMatchObject({
      code: "ERR_VIRTKIT_LAB_GONE",
      message: expect.stringMatching(/^the lab did not answer for 6000 ms: .*CPU 0\/TCG T \d+/),
    })
  } finally {
    await lab.close()
  }
}, 150_000)
