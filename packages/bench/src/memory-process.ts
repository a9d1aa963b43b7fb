// Prints the resident memory of a VMM process beyond its guests' RAM, after the first VM and after five more, and the
// CPU time of the process while all six guests halt, in percent of a core, as JSON.
import { readFileSync } from "node:fs"
import { consolePort } from "@virtkit/virtio-console"
import { rng } from "@virtkit/virtio-rng"
import { Vm } from "@virtkit/vmm"
import { idleGuest } from "./exit-guest.js"

const FURTHER = 5
const IDLE_SECONDS = 5

async function startVm(): Promise<Vm> {
  const vm = await Vm.create({ kernel: idleGuest(), memory: "512M", devices: [rng(), consolePort()] })
  await vm.start()
  return vm
}

/** Bytes, without guest RAM: those mappings are found by their addresses. */
function residentBeyondRam(vms: readonly Vm[]): number {
  const ram = new Set(
    vms.flatMap((vm) => vm.memory.regions.map(({ hostAddress }) => hostAddress.toString(16))),
  )
  let total = 0
  let skip = false
  for (const line of readFileSync("/proc/self/smaps", "utf8").split("\n")) {
    const start = /^([0-9a-f]+)-[0-9a-f]+ /.exec(line)?.[1]
    if (start !== undefined) skip = ram.has(start)
    const rss = /^Rss:\s*(\d+) kB/.exec(line)?.[1]
    if (rss !== undefined && !skip) total += Number(rss) * 1024
  }
  return total
}

const vms = [await startVm()]
await new Promise((resolve) => setTimeout(resolve, 500))
const first = residentBeyondRam(vms)
for (let count = 0; count < FURTHER; count++) vms.push(await startVm())
await new Promise((resolve) => setTimeout(resolve, 500))
const further = (residentBeyondRam(vms) - first) / FURTHER
const before = process.cpuUsage()
await new Promise((resolve) => setTimeout(resolve, IDLE_SECONDS * 1000))
const { user, system } = process.cpuUsage(before)
const idlePercent = ((user + system) / 1e6 / IDLE_SECONDS) * 100
process.stdout.write(`${JSON.stringify({ first, further, idlePercent })}\n`)
for (const vm of vms) await vm.close()
