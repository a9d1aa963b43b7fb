import { spawn } from "node:child_process"
import { accessSync, constants, existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { afterAll, beforeAll, describe, expect, it } from "vitest"
import { tinyKernel } from "./tiny-kernel.js"

const bin = fileURLToPath(new URL("../dist/bin.js", import.meta.url))

const noRun: string = (() => {
  if (!existsSync(bin)) return " (skipped: the command was not built, run npm run build)"
  try {
    accessSync("/dev/kvm", constants.R_OK | constants.W_OK)
    return ""
  } catch {
    return " (skipped: there is no usable /dev/kvm)"
  }
})()

/** mov al, value; mov dx, port; out dx, al. */
const out = (port: number, value: number) => [0xb0, value, 0x66, 0xba, port & 0xff, port >> 8, 0xee]
const say = (text: string) => [...text].flatMap((letter) => out(0x3f8, letter.charCodeAt(0)))
const spin = [0xeb, 0xfe]
const powerOff = [...out(0x600, 0x34), ...spin] // S5 and SLP_EN
const reset = [...out(0x64, 0xfe), ...spin] // the keyboard controller's reset line
const pvpanic = [...out(0x505, 1), ...spin]
/** lgdt and lidt of nothing, then a load of a segment: no handler for what that raises. */
const tripleFault = [0x0f, 0x01, 0x1d, ...[0, 0, 0, 0], 0x66, 0xb8, 0x50, 0x00, 0x8e, 0xd8, ...spin]

let directory = ""
const path = (name: string) => join(directory, name)

beforeAll(() => {
  directory = mkdtempSync(join(tmpdir(), "virtkit-run-"))
})
afterAll(() => rmSync(directory, { recursive: true, force: true }))

/** Runs a guest of `code`; `signal` is sent when the guest has said something. */
async function run(code: number[], args: string[] = [], signal?: NodeJS.Signals) {
  writeFileSync(path("kernel"), tinyKernel(code))
  const words = [
    "run",
    "--accel=kvm",
    "--memory=4M",
    `--kernel=${path("kernel")}`,
    `--report=${path("report")}`,
  ]
  const child = spawn(process.execPath, [bin, ...words, ...args], { stdio: ["ignore", "pipe", "pipe"] })
  let stdout = ""
  let stderr = ""
  child.stdout.on("data", (chunk: Buffer) => {
    stdout += chunk
    if (signal !== undefined) child.kill(signal)
  })
  child.stderr.on("data", (chunk: Buffer) => {
    stderr += chunk
  })
  const status = await new Promise<number | null>((resolve) => child.on("close", resolve))
  const report = JSON.parse(readFileSync(path("report"), "utf8"))
  return { status, stdout, stderr, report }
}

describe.skipIf(noRun !== "")(`virtkit run${noRun}`, () => {
  it("shows what the guest writes and ends with 0 when it powers off", async () => {
    const { report, ...seen } = await run([...say("hello\n"), ...powerOff])
    expect(seen).toEqual({ status: 0, stdout: "hello\n", stderr: "" })
    expect(report).toMatchObject({
      reason: "poweroff",
      wallMs: expect.any(Number),
      vcpuExits: { toUser: 7, byReason: { io: 7 } },
      devices: [{ name: expect.any(String) }],
    })
    expect(report.vcpuExits.total).toBeGreaterThanOrEqual(7)
  })

  it("ends with 0 when it resets itself, and shows nothing with --console none", async () => {
    const { report, ...seen } = await run([...say("hello\n"), ...reset], ["--console=none"])
    expect(seen).toEqual({ status: 0, stdout: "", stderr: "" })
    expect(report.reason).toBe("reset")
  })

  it("ends with 1 when it panics, with its last lines", async () => {
    const { status, stderr, report } = await run([...say("oh dear\n"), ...pvpanic])
    expect(status).toBe(1)
    expect(stderr).toBe("virtkit: the guest kernel panicked\n  | oh dear\n")
    expect(report.reason).toBe("panic")
  })

  it("lets a guest that has a crash kernel go on when it panics", async () => {
    const crashLoaded = out(0x505, 2)
    expect((await run([...crashLoaded, ...powerOff])).report.reason).toBe("poweroff")
  })

  it("ends with 1 when it crashes", async () => {
    const { status, stderr, report } = await run(tripleFault)
    expect(status).toBe(1)
    expect(stderr).toMatch(/^virtkit: (the guest crashed: triple fault on vCPU 0|KVM could not go on)/)
    expect(report.reason).toMatch(/^(triple-fault|internal-error)$/)
  })

  it("ends with 124 at its timeout", async () => {
    const { status, stderr, report } = await run(spin, ["--timeout=0.3"])
    expect(status).toBe(124)
    expect(stderr).toBe("virtkit: the guest was ended after 0.3 s\n")
    expect(report.reason).toBe("timeout")
  })

  it("ends with 1 when it is told to by a signal", async () => {
    const { status, stderr, report } = await run([...say("up\n"), ...spin], [], "SIGTERM")
    expect(status).toBe(1)
    expect(stderr).toBe("virtkit: the VM was killed\n")
    expect(report.reason).toBe("killed")
  })
})
