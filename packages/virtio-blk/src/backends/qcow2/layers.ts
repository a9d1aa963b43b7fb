import { readlink, realpath, stat } from "node:fs"
import { basename, dirname, isAbsolute, resolve, sep } from "node:path"
import { promisify } from "node:util"
import { ConfigError } from "@virtkit/interface"
import { blockFileInfo } from "@virtkit/native"
import { type OpenedImage, openDirect, openImage } from "../image.js"
import { MAX_LAYERS } from "./constants.js"
import { ImageError, unsupported } from "./errors.js"
import { DATA, type Extent, type Layer } from "./extent.js"
import { Qcow2Image } from "./image.js"
import { ImageFile } from "./image-file.js"

export interface OpenLayersOptions {
  readonly path: string
  readonly readonly: boolean
  readonly unsafe: boolean
  /** The guest's data goes past the page cache, the image's tables do not. */
  readonly direct: boolean
  /** Files, and folders of files, that the image and what it is laid over may name as backing files. */
  readonly backing: readonly string[]
}

/** The opened image, and all that it is laid over: `layers[0]` is the image. */
export interface OpenedLayers {
  readonly image: Qcow2Image
  readonly layers: readonly Layer[]
}

/**
 * Opens an image and its backing chain (bad-input #25): no file is opened that the user has not named, or that is not in a folder that
 * he has named, whatever links or relative paths lead there. Formats are never guessed. Throws ConfigError, ImageError.
 */
export async function openLayers(options: OpenLayersOptions): Promise<OpenedLayers> {
  const { path, readonly, unsafe } = options
  const layers: Layer[] = []
  try {
    const image = await openQcow2(path, readonly, unsafe, options.direct)
    layers.push(image)
    const allowed = await Promise.all(options.backing.map(realPath))
    const seen = new Set([await identity(await promisify(realpath)(path))])
    let top = image
    for (;;) {
      const { backingFile, backingFormat } = top.header
      if (backingFile === undefined) return { image, layers }
      if (layers.length === MAX_LAYERS) throw unsupported(path, `it has more than ${MAX_LAYERS} layers`)
      const place = await allowedPath(top.file.path, backingFile, allowed)
      const id = await identity(place)
      if (seen.has(id)) throw new ImageError(path, `its backing files lead back to ${place}`)
      seen.add(id)
      const layer = await openBacking(top.file.path, place, backingFormat, options.direct)
      layers.push(layer)
      if (!(layer instanceof Qcow2Image)) return { image, layers }
      top = layer
    }
  } catch (error) {
    for (const layer of layers) await layer.close()
    throw error
  }
}

async function openQcow2(
  path: string,
  readonly: boolean,
  unsafe: boolean,
  direct: boolean,
): Promise<Qcow2Image> {
  const opened = await openImage(path, readonly, (fd) => blockFileInfo(fd))
  const file = imageFile(opened, unsafe)
  try {
    if (direct) file.direct = await openDirect(opened)
    if (opened.info.kind === "other") throw unsupported(path, "it is neither a file nor a block device")
    return await Qcow2Image.open(file)
  } catch (error) {
    await file.close()
    throw error
  }
}

async function openBacking(
  by: string,
  path: string,
  format: string | undefined,
  direct: boolean,
): Promise<Layer> {
  if (format !== "raw" && format !== "qcow2") {
    const why = format === undefined ? "does not say the format" : `says format ${format}`
    throw unsupported(
      by,
      `it ${why} of its backing file ${path}; say it with: qemu-img rebase -u -F raw|qcow2 -b ${basename(path)} ${by}`,
    )
  }
  // It was opened by its real path: what is behind it now must still be that, and no link.
  const layer = format === "qcow2" ? await openQcow2(path, true, false, direct) : await openRaw(path, direct)
  if ((await promisify(readlink)(`/proc/self/fd/${layer.file.fd}`)) !== path) {
    await layer.close()
    throw unsupported(by, `its backing file ${path} was replaced meanwhile`)
  }
  return layer
}

async function openRaw(path: string, direct: boolean): Promise<Layer> {
  const opened = await openImage(path, true, (fd) => blockFileInfo(fd))
  const file = imageFile(opened, false)
  try {
    if (opened.info.kind === "other") throw unsupported(path, "it is neither a file nor a block device")
    if (direct) file.direct = await openDirect(opened)
    return new RawLayer(file)
  } catch (error) {
    await file.close()
    throw error
  }
}

function imageFile({ path, fd, readonly, info }: OpenedImage, unsafe: boolean): ImageFile {
  return new ImageFile({ path, fd, readonly, device: info.kind === "block", length: info.size, unsafe })
}

/** Where `name`, as an image at `by` gives it, leads, if that is allowed. */
async function allowedPath(by: string, name: string, allowed: readonly string[]): Promise<string> {
  const local = name.startsWith("file:") ? name.slice("file:".length) : name
  // "json:{...}", "nbd://...": QEMU's names of other things than files.
  if (/^[a-z][a-z0-9+.-]*:/i.test(local))
    throw unsupported(by, `its backing file "${name}" is not a file, which is not supported`)
  const path = isAbsolute(local) ? local : resolve(dirname(await realPath(by)), local)
  if (allowed.length === 0)
    throw unsupported(
      by,
      `it has the backing file ${path}, which was not allowed; allow it with backing=${path}`,
    )
  const real = await realPath(path)
  const found = allowed.some(
    (place) => real === place || real.startsWith(place.endsWith(sep) ? place : place + sep),
  )
  if (!found)
    throw unsupported(
      by,
      `its backing file ${path} is not among those that were allowed: ${allowed.join(", ")}`,
    )
  return real
}

async function realPath(path: string): Promise<string> {
  try {
    return await promisify(realpath)(path)
  } catch (error) {
    throw new ConfigError(`backing file ${path} does not exist or cannot be reached`, { cause: error })
  }
}

/** The same for two names of one file. */
async function identity(path: string): Promise<string> {
  const { dev, ino } = await promisify(stat)(path)
  return `${dev}:${ino}`
}

/** A raw image below others. */
class RawLayer implements Layer {
  readonly file: ImageFile
  readonly size: number

  constructor(file: ImageFile) {
    this.file = file
    this.size = file.length
  }

  map(offset: number, length: number, into: Extent): void {
    into.kind = DATA
    into.host = offset
    into.length = length
    into.copied = false
  }

  async load(): Promise<void> {}

  async decompress(): Promise<Buffer> {
    throw this.corrupt()
  }

  corrupt(): Error {
    return new ImageError(this.file.path, "a raw image cannot be damaged")
  }

  close(): Promise<void> {
    return this.file.close()
  }
}
