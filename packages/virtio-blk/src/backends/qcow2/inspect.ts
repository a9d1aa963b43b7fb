import { blockFileInfo } from "@virtkit/native"
import { openImage } from "../image.js"
import { INCOMPAT_CORRUPT, INCOMPAT_DIRTY } from "./constants.js"
import { Qcow2Image } from "./image.js"
import { ImageFile } from "./image-file.js"
import type { Qcow2Snapshot } from "./snapshots.js"

/** What an image says of itself. Nothing of it was followed: backing files are named, not opened. */
export interface Qcow2Info {
  readonly version: 2 | 3
  /** Bytes of the disk. */
  readonly size: number
  readonly clusterSize: number
  /** Bits of a reference count. */
  readonly refcountBits: number
  /** As the image has it: relative to its folder, or not a file at all. */
  readonly backingFile: string | undefined
  readonly backingFormat: string | undefined
  readonly compression: "zlib" | "zstd"
  readonly extendedL2: boolean
  /** Reference counts may be wrong after a crash of the machine; a process that is killed leaves the image clean. */
  readonly lazyRefcounts: boolean
  /** Reference counts may be wrong: it has lazy ones, and was not closed. */
  readonly dirty: boolean
  /** Damage was found in it: it can only be read. */
  readonly corrupt: boolean
  readonly snapshots: readonly Qcow2Snapshot[]
}

/** Describes the qcow2 image at `path`, which nobody writes to. Throws ConfigError, ImageError, SystemError. */
export async function inspectQcow2(path: string): Promise<Qcow2Info> {
  const { fd, info } = await openImage(path, true, (fd) => blockFileInfo(fd))
  const file = new ImageFile({ path, fd, readonly: true, device: false, length: info.size, unsafe: false })
  try {
    const { header, snapshots } = await Qcow2Image.open(file)
    return {
      version: header.version,
      size: header.size,
      clusterSize: header.clusterSize,
      refcountBits: 2 ** header.refcountOrder,
      backingFile: header.backingFile,
      backingFormat: header.backingFormat,
      compression: header.compression,
      extendedL2: header.extendedL2,
      lazyRefcounts: header.lazyRefcounts,
      dirty: (header.incompatible & INCOMPAT_DIRTY) !== 0,
      corrupt: (header.incompatible & INCOMPAT_CORRUPT) !== 0,
      snapshots: snapshots.entries.map(({ id, name, date, size, stateSize }) => ({
        id,
        name,
        date,
        size,
        stateSize,
      })),
    }
  } finally {
    await file.close()
  }
}
