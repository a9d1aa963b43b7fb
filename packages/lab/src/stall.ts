import { readdir, readFile } from "node:fs/promises"
import { setTimeout as delay } from "node:timers/promises"
import type { Qmp } from "./qmp.js"

/** Milliseconds that QEMU's monitor has for an answer. */
const PATIENCE = 5000

/**
 * Where a machine stands that does not go on, in one line: its processors, by QEMU's monitor, and QEMU's threads, by the
 * host's kernel. Empty when QEMU has ended.
 */
export async function describeStall(monitor: Qmp, pid: number | undefined): Promise<string> {
  const threads = await describeThreads(pid)
  if (threads === "") return ""
  const answer = monitor.command("human-monitor-command", { "command-line": "info registers -a" })
  const registers = await Promise.race([
    answer.then(String, (error: Error) => error.message),
    delay(PATIENCE, "QEMU's monitor does not answer", { ref: false }),
  ])
  return `${describeProcessors(registers)}; ${threads}`
}

/**
 * The lines of `info registers -a` that tell where each processor is: "CPU 0: RIP=ffffffff81000000 RFL=00000246 CPL=0 HLT=1".
 * What is no listing of registers is given as it is.
 */
export function describeProcessors(listing: string): string {
  const processors = listing.split(/^CPU#/m).slice(1)
  if (processors.length === 0) return listing.trim()
  return processors
    .map((text) => {
      const words = ["[RE]IP", "[RE]SP", "RFL", "EFL", "CPL", "HLT"].flatMap(
        (name) => new RegExp(`\\b${name}=[0-9a-f]+`).exec(text)?.[0] ?? [],
      )
      return `CPU ${Number.parseInt(text, 10)}: ${words.join(" ")}`
    })
    .join(", ")
}

/** Each thread of a process with its state and what it has used of the host's processors, in clock ticks; it may end meanwhile. */
async function describeThreads(pid: number | undefined): Promise<string> {
  const directory = `/proc/${pid}/task`
  const threads = pid === undefined ? [] : await readdir(directory).catch(() => [])
  const lines = await Promise.all(
    threads.map(async (thread) => {
      const stat = await readFile(`${directory}/${thread}/stat`, "utf8").catch(() => "")
      const name = stat.slice(stat.indexOf("(") + 1, stat.lastIndexOf(")"))
      const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ")
      return stat === "" ? [] : [`${name} ${fields[0]} ${Number(fields[11]) + Number(fields[12])}`]
    }),
  )
  return lines.flat().join(", ")
}
