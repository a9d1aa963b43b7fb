import { fstat, ftruncate } from "node:fs"
import { promisify } from "node:util"
import { blockFileInfo } from "@virtkit/native"
import { openImage } from "../image.js"
import { unsupported } from "./errors.js"
import { decodeL1, isDirty, Qcow2Image } from "./image.js"
import { ImageFile } from "./image-file.js"
import { usedClusters } from "./rebuild.js"

/**
 * Makes the file of an image as long as it can ever need to be, without taking space, for one who uses it as a block device, which
 * cannot grow. Gives what cuts off again what was not used. Nobody else uses the image at both times. Throws ConfigError, also
 * when it has a backing file, ImageError, SystemError.
 */
export async function extendQcow2(path: string): Promise<() => Promise<void>> {
  const file = await openFile(path)
  const before = file.length
  let extended = before
  try {
    const { header } = await Qcow2Image.open(file)
    if (header.backingFile !== undefined) throw unsupported(path, "it has a backing file")
    const { clusterSize, size } = header
    // Data, an entry of a table and two counts for each cluster at most, and some for tables that move.
    const clusters = Math.ceil((before + size + Math.ceil(size / clusterSize) * 24) / clusterSize) + 64
    extended = clusters * clusterSize
    await promisify(ftruncate)(file.fd, extended)
  } finally {
    await file.close()
  }
  return () => cutOff(path, before, extended)
}

async function cutOff(path: string, before: number, extended: number): Promise<void> {
  const file = await openFile(path)
  try {
    const image = await Qcow2Image.open(file)
    // The counts of one that was not closed may be wrong.
    const clusters = await (isDirty(image.header) ? usedClusters(image) : countedClusters(image))
    const end = Math.max(before, clusters * image.header.clusterSize)
    const { size } = await promisify(fstat)(file.fd)
    if (size === extended && end < size) await promisify(ftruncate)(file.fd, end)
  } finally {
    await file.close()
  }
}

/** The number of the last cluster that has a use, plus 1. */
async function countedClusters({ file, header }: Qcow2Image): Promise<number> {
  const { clusterSize, refcountTableOffset, refcountTableClusters, refcountOrder } = header
  const table = decodeL1(await file.read(refcountTableOffset, refcountTableClusters * clusterSize)).offsets
  for (let index = table.length - 1; index >= 0; index--) {
    if (table[index] === 0) continue
    const block = await file.read(table[index]!, clusterSize)
    let at = clusterSize - 1
    while (at >= 0 && block[at] === 0) at--
    // The block counts itself, or another does that: one with counts is there.
    if (at >= 0)
      return (index * clusterSize * 8) / 2 ** refcountOrder + Math.ceil(((at + 1) * 8) / 2 ** refcountOrder)
  }
  return 0
}

async function openFile(path: string): Promise<ImageFile> {
  const { fd, info } = await openImage(path, false, (fd) => blockFileInfo(fd))
  return new ImageFile({ path, fd, readonly: false, device: false, length: info.size, unsafe: false })
}
