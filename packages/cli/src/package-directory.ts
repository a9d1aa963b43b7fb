import { fileURLToPath } from "node:url"

/** The directory of this package, from which the lab gets its copy. */
export function packageDirectory(): string {
  return fileURLToPath(new URL("..", import.meta.url)).replace(/\/$/, "")
}
