// Runs in the lab: boots one VMM whose guest sends and receives on tap0, and prints what passed, as a line of JSON.
//
//   node net-in-lab.js virtkit|qemu
//
// The guest says which traffic begins; what passes is counted at the TAP interface, for as long as WINDOW says.
import { spawn } from "node:child_process"
import { readFileSync, writeFileSync } from "node:fs"
import { BEGIN, type NetPhase, type NetResults } from "./net-phases.js"
import { netCommand, type VmmName } from "./vmm-commands.js"

const TRACING = "/sys/kernel/tracing/events/kvm"
const EXITS = { all: "kvm_exit", toUser: "kvm_userspace_exit" } as const
/** Milliseconds from the first packets on that are not counted, in which V8 compiles what is hot, and those that are. */
const SETTLE = 10_000
const WINDOW = 2500
/** Packets that show that the traffic flows, not only its control connection. */
const FLOWING = 100

const pause = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms))

for (const event of Object.values(EXITS)) {
  writeFileSync(`${TRACING}/${event}/trigger`, "!hist:keys=common_pid", { flag: "a" })
  writeFileSync(`${TRACING}/${event}/trigger`, "hist:keys=common_pid", { flag: "a" })
}

const [command = "", ...words] = netCommand(process.argv[2] as VmmName)
const child = spawn(command, words, { stdio: ["ignore", "pipe", "pipe"] })
const results: NetResults = {}
let said = ""
let seen = 0
child.stdout.on("data", (chunk: Buffer) => {
  said += chunk.toString()
  for (const [begin, phase] of said.slice(seen).matchAll(new RegExp(`${BEGIN} (\\S+)\\r?\\n`, "g"))) {
    seen = said.indexOf(begin, seen) + begin.length
    void measure(phase as NetPhase)
  }
})
let errors = ""
child.stderr.on("data", (chunk: Buffer) => {
  errors += chunk.toString()
})
const status = await new Promise((resolve) => child.on("close", resolve))
if (Object.keys(results).length !== 4)
  throw new Error(`status ${status}, ${Object.keys(results)}: ${said.slice(-800)}${errors}`)
process.stdout.write(`${JSON.stringify(results)}\n`)

async function measure(phase: NetPhase): Promise<void> {
  const begin = sample()
  while (sample().packets - begin.packets < FLOWING) await pause(50)
  await pause(SETTLE)
  const before = sample()
  await pause(WINDOW)
  const after = sample()
  const seconds = (after.at - before.at) / 1000
  const packets = after.packets - before.packets
  const bytes = after.bytes - before.bytes
  results[phase] = {
    megabitsPerSecond: (bytes * 8) / 1e6 / seconds,
    packetsPerSecond: packets / seconds,
    cpuSecondsPerGigabyte: (after.cpu - before.cpu) / (bytes / 1e9),
    exitsPerThousand: ((after.exits - before.exits) / packets) * 1000,
    userExitsPerThousand: ((after.userExits - before.userExits) / packets) * 1000,
  }
}

/** Of both directions, so acknowledgements count. */
function sample() {
  const count = (what: string) => Number(readFileSync(`/sys/class/net/tap0/statistics/${what}`, "utf8"))
  return {
    at: performance.now(),
    packets: count("rx_packets") + count("tx_packets"),
    bytes: count("rx_bytes") + count("tx_bytes"),
    cpu: hostSeconds(),
    exits: hits(EXITS.all),
    userExits: hits(EXITS.toUser),
  }
}

/** CPU time of the VMM outside of its guest. proc(5): fields 14, 15 and 43, in ticks. */
function hostSeconds(): number {
  const text = readFileSync(`/proc/${child.pid}/stat`, "utf8")
  const fields = text
    .slice(text.lastIndexOf(")") + 2)
    .split(" ")
    .map(Number)
  return ((fields[11] ?? 0) + (fields[12] ?? 0) - (fields[40] ?? 0)) / 100
}

function hits(event: string): number {
  return Number(/Hits: (\d+)/.exec(readFileSync(`${TRACING}/${event}/hist`, "utf8"))?.[1] ?? Number.NaN)
}
