// Runs in the lab: plugs a disk into a running Linux guest and takes it out while the guest writes to it, ROUNDS times.
// Tells what the guest said of each round, what was on the disks, and what the process and the VM held before and after.
import { createHash } from "node:crypto"
import { readFileSync, rmSync, writeFileSync } from "node:fs"
import { block } from "@virtkit/virtio-blk"
import { Vm } from "@virtkit/vmm"
import { listenTo } from "../heard.js"
import { IN_LAB } from "../linux-lab-paths.js"
import { collectGarbage, resources } from "../resources.js"

const ROUNDS = Number(process.argv[2])
/** Rounds after which what is there counts as what there should be. */
const WARM_UP = 3
const MiB = 2 ** 20
const BLOCK = 4096
const DISK = "/tmp/plugged.img"

/** What the guest makes of `awk`: 16-byte lines with a number each. */
const pattern = Buffer.from(
  Array.from({ length: (2 * MiB) / 16 }, (_, line) => `${String(line).padStart(15, "0")}\n`).join(""),
)

const vm = await Vm.create({
  kernel: IN_LAB.kernel,
  initrd: IN_LAB.initrd,
  cmdline: "quiet script=hot-plug",
  memory: "256M",
  cpus: 2,
  hotPlugSlots: 2,
})
const heard = listenTo(vm)

interface Round {
  /** Whole passes over the disk, and blocks of the one that was cut short, that the guest saw acknowledged. */
  readonly passes: number
  readonly acknowledged: number
  /** Of those, blocks that are not on the disk as they were written. */
  readonly lost: number
  /** Blocks that hold neither what was written nor what was there before. */
  readonly wrong: number
}

function requestsOf(device: string): number {
  const queues = vm.statistics().devices.find(({ name }) => name === device)?.queues ?? []
  return (queues as { chains: number }[]).reduce((sum, { chains }) => sum + chains, 0)
}

async function round(number: number): Promise<Round> {
  writeFileSync(DISK, Buffer.alloc(pattern.length))
  const disk = await block({ path: DISK })
  await vm.plug(disk)
  await heard(new RegExp(`^writing ${number}\\n`, "m"))
  // It is at work, and not always at the same point of it.
  const requests = 60 + ((number * 37) % 200)
  while (requestsOf(disk.name) < requests) await new Promise((resolve) => setTimeout(resolve, 2))
  await vm.unplug(disk)
  const [, full, acked] = await heard(new RegExp(`^round ${number} passes (\\d+) blocks (\\d+)\\n`, "m"))
  const [passes, acknowledged] = [Number(full), Number(acked)]
  const bytes = readFileSync(DISK)
  let [lost, wrong] = [0, 0]
  for (let index = 0; index < bytes.length / BLOCK; index++) {
    const [start, end] = [index * BLOCK, (index + 1) * BLOCK]
    const isWritten = bytes.subarray(start, end).equals(pattern.subarray(start, end))
    if (isWritten) continue
    if (passes > 0 || index < acknowledged) lost++
    else if (!bytes.subarray(start, end).every((byte) => byte === 0)) wrong++
  }
  return { passes, acknowledged, lost, wrong }
}

async function holdings() {
  await collectGarbage()
  const { devices, ranges, messages } = vm.statistics()
  return { ...resources(), devices: devices.length, ranges, messages }
}

if (process.env.VIRTKIT_VERBOSE) vm.serial.on("data", (text: string) => process.stderr.write(text))
await vm.start()
await heard(/^pattern ([0-9a-f]{64})/m).then(([, sum]) => {
  if (sum !== createHash("sha256").update(pattern).digest("hex"))
    throw new Error("another pattern in the guest")
})
const rounds: Round[] = []
let before: Awaited<ReturnType<typeof holdings>> | undefined
for (let number = 1; number <= ROUNDS; number++) {
  rounds.push(await round(number))
  if (number === WARM_UP) before = await holdings()
}
const after = await holdings()
vm.serial.write("complaints\n")
const [, complaints] = await heard(/^complaints:\n((?:.*\n)*?)end of complaints\n/m)
await vm.kill()
await vm.close()
rmSync(DISK)
process.stdout.write(JSON.stringify({ rounds, before, after, complaints }))
