// Runs in the lab: records what Linux's virtio-blk driver does to a disk from boot until it has mounted it, read a file,
// written one and unmounted it.
// record-mount IMAGE TRACE
import { readFileSync } from "node:fs"
import { Recorder } from "@virtkit/testkit"
import { block, memoryDisk } from "@virtkit/virtio-blk"
import { VirtioPci } from "@virtkit/virtio-pci"
import { Vm } from "@virtkit/vmm"
import { listenTo } from "../heard.js"
import { IN_LAB } from "../linux-lab-paths.js"

const [image, path] = process.argv.slice(2) as [string, string]
const errors: string[] = []
const recorder = new Recorder({ path, onError: (error) => errors.push(error.message) })
const disk = await block({ backend: memoryDisk(new Uint8Array(readFileSync(image))), serial: "mounted" })
const transport = new VirtioPci({
  device: recorder.device(disk),
  onError: (error) => errors.push(error.message),
})
const vm = await Vm.create({
  kernel: IN_LAB.kernel,
  initrd: IN_LAB.initrd,
  cmdline: "quiet script=mount",
  memory: "256M",
  devices: [recorder.pci(transport)],
  // So that the driver's reads come here.
  registerPages: false,
})
const heard = listenTo(vm)
await vm.start()
const [, hello] = await heard(/^hello (.*)\n/m)
const { reason } = await vm.exited
await vm.close()
process.stdout.write(JSON.stringify({ reason, hello, errors }))
