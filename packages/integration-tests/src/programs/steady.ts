// Runs in the lab: what a second of a Linux guest's random 4 KiB reads costs in exits to user space, once it is under way.
import { writeFileSync } from "node:fs"
import { block } from "@virtkit/virtio-blk"
import { rng } from "@virtkit/virtio-rng"
import { Vm } from "@virtkit/vmm"
import { IN_LAB } from "../linux-lab-paths.js"

const DISK = "/tmp/steady.img"
writeFileSync(DISK, Buffer.alloc(16 * 2 ** 20, 1))

const vm = await Vm.create({
  kernel: IN_LAB.kernel,
  initrd: IN_LAB.initrd,
  cmdline: "quiet script=steady",
  memory: "256M",
  cpus: 2,
  devices: [block({ path: DISK }), rng()],
})
let said = ""
const reading = new Promise<void>((resolve, reject) => {
  vm.serial.setEncoding("utf8")
  vm.serial.on("data", (text: string) => {
    said += text
    if (said.includes("reading\r\n")) resolve()
  })
  void vm.exited.then(({ reason }) => reject(new Error(`${reason}: ${said}`)))
})
await vm.start()
await reading
const sleep = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms))
await sleep(2000)
const requestsOf = (statistics: ReturnType<Vm["statistics"]>) =>
  (statistics.devices[0]!.queues as { chains: number }[]).reduce((sum, queue) => sum + queue.chains, 0)
const seconds: { readonly requests: number; readonly exits: number }[] = []
let before = vm.statistics()
for (let second = 0; second < 5; second++) {
  await sleep(1000)
  const after = vm.statistics()
  const exits = after.vcpuExits.total - before.vcpuExits.total
  seconds.push({ requests: requestsOf(after) - requestsOf(before), exits })
  before = after
}
await vm.exited
await vm.close()
process.stdout.write(JSON.stringify({ seconds, said }))
