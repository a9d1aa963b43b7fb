import { execFile } from "node:child_process"
import { createHash } from "node:crypto"
import { access, mkdir, readFile, rename } from "node:fs/promises"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { promisify } from "node:util"
import { cacheDir, type Share } from "@virtkit/lab"

const run = promisify(execFile)

/**
 * A program of `guest/` as the C compiler makes it, without libraries: for `files` of guests, where it is /bin/NAME. It is
 * kept in the cache under the hash of its source.
 */
export async function guestProgram(name: string): Promise<Share> {
  const source = fileURLToPath(new URL(`../guest/${name}.c`, import.meta.url))
  const hash = createHash("sha256")
    .update(await readFile(source))
    .digest("hex")
    .slice(0, 16)
  const directory = join(cacheDir(), "guest-programs")
  const path = join(directory, `${name}-${hash}`)
  const target = `/bin/${name}`
  try {
    await access(path)
  } catch {
    await mkdir(directory, { recursive: true })
    const partial = `${path}.${process.pid}`
    await run("cc", ["-O2", "-Wall", "-Wextra", "-Werror", "-static", "-s", "-o", partial, source])
    await rename(partial, path)
  }
  return { source: path, target }
}
