import { readFile } from "node:fs/promises"

/** The parts of `virtkit run --report` that the demo shows. */
interface Report {
  readonly reason: string
  readonly phasesMs: { readonly create: number; readonly start: number; readonly exit: number }
  readonly vcpuExits: { readonly total: number; readonly byReason: Readonly<Record<string, number>> }
}

/** What `virtkit run` reported, as a few lines for people. */
export async function describeReport(path: string): Promise<string> {
  const { reason, phasesMs, vcpuExits } = JSON.parse(await readFile(path, "utf8")) as Report
  const seconds = (milliseconds: number) => `${(milliseconds / 1000).toFixed(2)} s`
  const reasons = Object.entries(vcpuExits.byReason).map(([name, count]) => `${count} ${name}`)
  return [
    `how it ended      ${reason}`,
    `machine assembled ${seconds(phasesMs.create)} (kernel unpacked and loaded, devices, tables)`,
    `guest ran         ${seconds(phasesMs.exit - phasesMs.start)}`,
    `vCPU exits        ${vcpuExits.total} (${reasons.join(", ")})`,
  ].join("\n")
}
