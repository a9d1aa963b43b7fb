// Module hooks (node:module, `register`) that change one file while it is loaded. The file itself is left alone.
import type { Plant } from "./plant.js"

interface Loaded {
  readonly format: string
  readonly source?: string | ArrayBuffer | Uint8Array | undefined
}

let plant: Plant | undefined

export async function initialize(data: Plant): Promise<void> {
  plant = data
}

export async function load(
  url: string,
  context: unknown,
  next: (url: string, context: unknown) => Promise<Loaded>,
): Promise<Loaded> {
  const loaded = await next(url, context)
  if (plant === undefined || !url.endsWith(`/${plant.file}`)) return loaded
  const source =
    typeof loaded.source === "string" ? loaded.source : new TextDecoder().decode(loaded.source ?? undefined)
  const { from, to, file } = plant
  if (source.split(from).length !== 2) throw new Error(`${file} must have once: ${from}`)
  return { ...loaded, source: source.replace(from, () => to) }
}
