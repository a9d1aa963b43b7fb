import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { block } from "@virtkit/virtio-blk"
import { DiskModel } from "../blk-model.js"
import { blkSeeds, blkSteps } from "../blk-steps.js"
import { harnessOf } from "../chains.js"
import { Input } from "../input.js"
import { MappedMemory } from "../mapped-memory.js"
import { type FuzzTarget, must } from "../target.js"

const SECTORS = 16
const SERIAL = "fuzz file"
const RANGE_SECTORS = 2 ** 21

/** One memory for all runs: what is in it has no meaning. */
let shared: { memory: MappedMemory; path: string } | undefined

/** Made with the first run. The file goes when the process does. */
function host(): { memory: MappedMemory; path: string } {
  if (shared !== undefined) return shared
  const directory = mkdtempSync(join(tmpdir(), "virtkit-fuzz-"))
  process.on("exit", () => rmSync(directory, { recursive: true, force: true }))
  shared = { memory: new MappedMemory(), path: join(directory, "disk") }
  return shared
}

async function run(bytes: Uint8Array): Promise<Iterable<string>> {
  const { memory, path } = host()
  writeFileSync(path, new Uint8Array(SECTORS * 512))
  const input = new Input(bytes)
  const flags = input.u8()
  const readonly = (flags & 1) !== 0
  const cache = (["writeback", "writethrough", "unsafe"] as const)[(flags >> 1) % 3]!
  const device = await block({ path, format: "raw", readonly, serial: SERIAL, cache })
  const model = new DiskModel({ sectors: SECTORS, readonly, serial: SERIAL, rangeSectors: RANGE_SECTORS })
  const events = new Set<string>()
  try {
    await blkSteps(input, harnessOf(device, undefined, memory), model, events)
  } finally {
    await device.close()
  }
  must(Buffer.compare(readFileSync(path), model.data) === 0, "the file holds something else")
  return [...events].map((event) => `${flags & 7} ${event}`)
}

export const target: FuzzTarget = {
  about: "requests of virtio-blk, a raw file and the native engine behind it",
  maxBytes: 1024,
  seeds: () => blkSeeds([0, 1, 2, 4]),
  run,
}
