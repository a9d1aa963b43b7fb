// A VMM process for the exit measurement: `node exit-process.js pio|mmio COUNT`. The MMIO target is the MagicValue register
// of a virtio-mmio device without register page, so that every read goes through the device model.
import { rng } from "@virtkit/virtio-rng"
import { Vm } from "@virtkit/vmm"
import { exitGuest, VIRTKIT_TARGETS } from "./exit-guest.js"

const kind = process.argv[2] === "mmio" ? "mmio" : "pio"
const count = Number(process.argv[3])

const vm = await Vm.create({
  kernel: exitGuest(kind, VIRTKIT_TARGETS[kind], count),
  memory: "32M",
  devices: [rng()],
  registerPages: false,
})
await vm.start()
const { reason } = await vm.exited
const { total } = vm.statistics().vcpuExits
await vm.close()
if (reason !== "triple-fault" || total < count)
  throw new Error(`the guest ended with ${reason} after ${total} exits`)
