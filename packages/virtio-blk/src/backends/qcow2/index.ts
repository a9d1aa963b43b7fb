import type { BlockBackend } from "../../backend.js"
import { type EngineChoice, engineError } from "../engine.js"
import { Qcow2Backend } from "./backend.js"
import { isDirty } from "./image.js"
import { openLayers } from "./layers.js"
import { repairRefcounts } from "./rebuild.js"

export interface Qcow2Options {
  readonly path: string
  readonly readonly: boolean
  /** Never wait for the disk. */
  readonly unsafe: boolean
  /** Past the page cache, where a request is aligned. */
  readonly direct: boolean
  /** Files and folders that backing files may be. */
  readonly backing: readonly string[]
  /** Most requests in flight. */
  readonly depth: number
  /** Default "auto". */
  readonly engine?: EngineChoice
}

/** A qcow2 image as a disk. Throws ConfigError, ImageError, SystemError. */
export async function qcow2Backend(options: Qcow2Options): Promise<BlockBackend> {
  const { readonly, unsafe, depth, engine = "auto" } = options
  const { image, layers } = await openLayers(options)
  try {
    if (!readonly && isDirty(image.header)) await repairRefcounts(image)
    return await Qcow2Backend.open({ image, layers, readonly, unsafe, depth, engine })
  } catch (error) {
    for (const layer of layers) await layer.close()
    throw engineError(error, options.path)
  }
}
