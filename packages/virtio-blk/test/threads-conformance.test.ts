import { mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { blkConformance, deviceConformance } from "@virtkit/testkit"
import { VirtioMmio } from "@virtkit/virtio"
import { type BlockFileOptions, block } from "@virtkit/virtio-blk"
import { afterAll, describe, expect, it } from "vitest"
import { MappedTestMemory } from "./helpers.js"

const folder = mkdtempSync(join(tmpdir(), "virtkit-blk-threads-"))
afterAll(() => rmSync(folder, { recursive: true }))
let images = 0

/** A disk in a new file. */
function disk(image: Uint8Array, options: Partial<BlockFileOptions>) {
  const path = join(folder, `${images++}`)
  writeFileSync(path, image)
  return block({ path, ...options })
}

const kit = { describe, it, expect }
const transport = (options: ConstructorParameters<typeof VirtioMmio>[0]) => new VirtioMmio(options)
const memory = (size: number) => new MappedTestMemory(size)

describe("a disk on two threads", () => {
  deviceConformance(kit, {
    setup: () => disk(new Uint8Array(65536), { thread: 2 }),
    saves: false,
    transport,
    memory,
  })
})

describe("a disk on one thread", () => {
  blkConformance(kit, {
    setup: (image, { readonly }) => disk(image, { readonly, thread: true, queues: 2, serial: "virtkit" }),
    transport,
    memory,
  })
})
