import { afterEach, describe, expect, it, vi } from "vitest"
import { diagnose } from "../src/diagnosis.js"
import { doctorCommand } from "../src/doctor.js"

/** What the command writes to stdout, and its status. */
async function doctor(...argv: string[]): Promise<{ status: number; stdout: string }> {
  let stdout = ""
  vi.spyOn(process.stdout, "write").mockImplementation((text) => {
    stdout += text
    return true
  })
  const status = await doctorCommand(argv)
  vi.restoreAllMocks()
  return { status, stdout }
}

afterEach(() => void vi.restoreAllMocks())

describe("doctor", () => {
  it("looks at everything that a VMM may want of this host", async () => {
    const { accel, reason, findings } = await diagnose()
    expect(findings.map(({ name }) => name)).toEqual(["kvm", "lab", "tap", "io_uring", "huge pages", "vhost"])
    for (const { detail } of findings) expect(detail).toMatch(/^[^\n]+$/)
    const ok = (name: string) => findings.find((finding) => finding.name === name)?.ok
    expect(accel).toBe(ok("kvm") ? "kvm" : ok("lab") ? "lab" : undefined)
    expect(reason).not.toBe("")
  })

  it("fits a screen and says what --accel auto takes, and why", async () => {
    const { status, stdout } = await doctor()
    const lines = stdout.trimEnd().split("\n")
    expect(lines.length).toBeLessThan(24)
    expect(lines.at(-1)).toMatch(/^--accel auto is (kvm|lab|nothing): ./)
    expect(lines.filter((line) => /^(ok|--) /.test(line))).toHaveLength(6)
    expect(status).toBe(/auto is nothing/.test(stdout) ? 1 : 0)
  })

  it("says the same as JSON", async () => {
    const { stdout } = await doctor("--json")
    expect(JSON.parse(stdout)).toEqual(JSON.parse(JSON.stringify(await diagnose())))
  })
})
