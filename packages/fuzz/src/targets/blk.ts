import { block, memoryDisk } from "@virtkit/virtio-blk"
import { DiskModel } from "../blk-model.js"
import { blkSeeds, blkSteps } from "../blk-steps.js"
import { harnessOf } from "../chains.js"
import { Input } from "../input.js"
import { type FuzzTarget, must } from "../target.js"

const SECTORS = 16
const SERIAL = "fuzz"
/** BLOCK discard and write zeroes (5.2.3). */
const RANGES = (1n << 13n) | (1n << 14n)

async function run(bytes: Uint8Array): Promise<Iterable<string>> {
  const input = new Input(bytes)
  const flags = input.u8()
  const readonly = (flags & 1) !== 0
  const backend = memoryDisk(SECTORS * 512, { readonly })
  const device = await block({ backend, serial: SERIAL, cache: flags & 2 ? "writethrough" : "writeback" })
  const features = (flags & 4) !== 0 ? device.features & ~RANGES : device.features
  const harness = harnessOf(device, features | (1n << 32n) | (1n << 28n))
  const most = (flags & 4) !== 0 ? 0 : backend.info.maxDiscard / 512
  const model = new DiskModel({ sectors: SECTORS, readonly, serial: SERIAL, rangeSectors: most })
  const events = new Set<string>()
  await blkSteps(input, harness, model, events)
  must(Buffer.compare(backend.data, model.data) === 0, "the disk holds something else")
  await device.close()
  return [...events].map((event) => `${flags & 7} ${event}`)
}

export const target: FuzzTarget = {
  about: "requests of virtio-blk, a disk in memory behind it",
  maxBytes: 1024,
  seeds: () => blkSeeds([0, 1, 2, 4]),
  run,
}
