import { closeFile, openFile } from "../backends/file.js"
import { type ImageOptions, imageOptions } from "../backends/options.js"
import type { BlockDevice } from "../block-device.js"
import type { DiskOptions } from "../device.js"
import { ThreadedBlockDevice } from "./device.js"
import type { DiskSource } from "./messages.js"

export interface ThreadedFileOptions extends ImageOptions {
  readonly format?: "raw" | "qcow2"
  readonly backing?: readonly string[]
  readonly mayWait?: boolean
}

/** An image whose queues are worked on by that many threads. Throws ConfigError, ImageError, SystemError. */
export async function openThreaded(
  disk: DiskOptions,
  options: ThreadedFileOptions,
  threads: number,
): Promise<BlockDevice> {
  const image = imageOptions(options, Math.ceil(disk.queues / threads) * disk.queueSize)
  if (options.format === "qcow2") {
    // The one thread opens it, and has its tables.
    const source: DiskSource = { format: "qcow2", options: { ...image, backing: options.backing ?? [] } }
    return ThreadedBlockDevice.open({ disk, sources: [source], release: async () => {} })
  }
  // Opened and locked once: another lock would be in the way of the first.
  const file = await openFile(image)
  const source: DiskSource = {
    format: "raw",
    file,
    options: { ...image, mayWait: options.mayWait ?? true },
  }
  return ThreadedBlockDevice.open({
    disk,
    sources: new Array<DiskSource>(threads).fill(source),
    release: () => closeFile(file),
  })
}
