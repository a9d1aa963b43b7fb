import type { VirtioDevice } from "@virtkit/interface"
import { type DeviceTargetOptions, type ReplayResult, replay } from "@virtkit/testkit"
import { block, memoryDisk } from "@virtkit/virtio-blk"
import { VirtioPci } from "@virtkit/virtio-pci"

/** Replays a trace of a guest that mounts its disk against a disk with that image, alone or behind virtio-pci. */
export async function replayMount(
  target: "transport" | "device",
  trace: Uint8Array,
  image: Uint8Array,
  createQueue: DeviceTargetOptions["createQueue"],
  change: (device: VirtioDevice) => VirtioDevice = (device) => device,
): Promise<ReplayResult> {
  const device = change(await block({ backend: memoryDisk(new Uint8Array(image)), serial: "mounted" }))
  try {
    const patience = { timeoutMs: 1000 }
    if (target === "device") return await replay(trace, { device, createQueue }, patience)
    return await replay(trace, { setup: () => new VirtioPci({ device }) }, patience)
  } finally {
    await device.close()
  }
}
