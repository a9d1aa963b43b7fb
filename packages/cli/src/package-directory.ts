import { dirname } from "node:path"
import { fileURLToPath } from "node:url"

/** The directory of this package, wherever in it this code was bundled to. */
export function packageDirectory(): string {
  return dirname(fileURLToPath(import.meta.resolve("virtkit/package.json")))
}
