// Runs in the lab: boots the guest of the boot benchmarks through the API, to change what the command has no option for.
//
//   node boot-process.js pages|no-pages
import { block } from "@virtkit/virtio-blk"
import { rng } from "@virtkit/virtio-rng"
import { Vm } from "@virtkit/vmm"
import { FILES } from "./lab-files.js"

await using vm = await Vm.create({
  kernel: FILES.kernel,
  initrd: FILES.initrd,
  cmdline: "console=ttyS0 quiet reboot=t panic=-1",
  memory: "512M",
  cpus: 2,
  devices: [block({ path: FILES.disk }), rng()],
  kernelCache: "/tmp/vmlinux",
  registerPages: process.argv[2] !== "no-pages",
})
vm.serial.pipe(process.stdout)
await vm.start()
await vm.exited
