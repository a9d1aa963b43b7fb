import { spawn } from "node:child_process"
import { once } from "node:events"
import { describe, expect, it } from "vitest"
import type { Qmp } from "../src/qmp.js"
import { describeProcessors, describeStall } from "../src/stall.js"

const LISTING = `
CPU#0
RAX=0000000000000000 RBX=ffffffff8240a940 RCX=0000000000000001 RDX=0000000000000000
RSI=ffffffff82064b1c RDI=ffffffff81fd3bdd RBP=0000000000000000 RSP=ffffffff82403e90
RIP=ffffffff81a0d18f RFL=00000246 [---Z-P-] CPL=0 II=0 A20=1 SMM=0 HLT=1
ES =0000 0000000000000000 00000000 00000000
CPU#1
EAX=00000000 EBX=00000000 ECX=00000000 EDX=00100f12
EIP=0000fff0 EFL=00000002 [-------] CPL=3 II=0 A20=1 SMM=0 HLT=0
`

/** A monitor that answers so. */
const monitor = (answer: () => Promise<unknown>): Qmp => ({ command: answer }) as unknown as Qmp

describe("describeProcessors", () => {
  it("tells where each processor is", () => {
    expect(describeProcessors(LISTING)).toBe(
      "CPU 0: RIP=ffffffff81a0d18f RSP=ffffffff82403e90 RFL=00000246 CPL=0 HLT=1, CPU 1: EIP=0000fff0 EFL=00000002 CPL=3 HLT=0",
    )
  })

  it("gives what is no listing as it is", () => {
    expect(describeProcessors("the lab ended\n")).toBe("the lab ended")
  })
})

describe("describeStall", () => {
  it("names processors and threads of a process, or what the monitor has against it, and nothing of one that ended", async () => {
    const child = spawn("sleep", ["100"])
    await once(child, "spawn")
    try {
      expect(
        await describeStall(
          monitor(async () => LISTING),
          child.pid,
        ),
      ).toMatch(/^CPU 0: RIP=.*, CPU 1: .*HLT=0; sleep [SR] \d+$/)
      expect(
        await describeStall(
          monitor(() => Promise.reject(new Error("no"))),
          child.pid,
        ),
      ).toMatch(/^no; sleep /)
    } finally {
      child.kill("SIGKILL")
    }
    await once(child, "close")
    expect(
      await describeStall(
        monitor(async () => LISTING),
        child.pid,
      ),
    ).toBe("")
    expect(
      await describeStall(
        monitor(async () => LISTING),
        undefined,
      ),
    ).toBe("")
  })
})
