import type { CacheMode } from "../block-device.js"
import type { EngineChoice } from "./engine.js"

/** What a user says of an image, as far as backends of either format want to know. */
export interface ImageOptions {
  readonly path: string
  readonly readonly?: boolean
  readonly cache?: CacheMode
  readonly engine?: EngineChoice
}

/** What backends of either format are given. */
export interface BackendOptions {
  readonly path: string
  readonly readonly: boolean
  readonly unsafe: boolean
  readonly direct: boolean
  /** Most requests in flight. */
  readonly depth: number
  readonly engine: EngineChoice
}

/** The same, with all defaults. */
export function imageOptions(options: ImageOptions, depth: number): BackendOptions {
  const { path, readonly = false, cache, engine = "auto" } = options
  return { path, readonly, unsafe: cache === "unsafe", direct: cache === "direct", depth, engine }
}
