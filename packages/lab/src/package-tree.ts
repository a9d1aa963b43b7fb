import { createHash } from "node:crypto"
import { access, mkdir, rename, rm } from "node:fs/promises"
import { join } from "node:path"
import { withPackages } from "./debian.js"
import { cacheDir } from "./paths.js"

/** Where `findPackages` looks. */
export interface FindPackagesOptions {
  /** Default: `cacheDir()`. */
  cacheDir?: string
  /** Called with a line for people before something slow happens. */
  log?: (line: string) => void
}

/**
 * A folder with the contents of several Debian packages, as if it were the root of a file system: of the cache, else
 * downloaded and unpacked into the cache, not installed. What they depend on has to be among the names, or installed.
 *
 * @throws ConfigError when there is no package manager; VirtkitError when the download fails
 */
export async function findPackages(
  names: readonly string[],
  options: FindPackagesOptions = {},
): Promise<string> {
  const directory = join(options.cacheDir ?? cacheDir(), "packages")
  const hash = createHash("sha256").update(names.join(" ")).digest("hex").slice(0, 16)
  const cached = join(directory, `${names[0]}-${hash}`)
  if (await exists(cached)) return cached
  options.log?.(`downloading ${names.length} packages into ${directory} (they are not installed)`)
  await mkdir(directory, { recursive: true })
  await withPackages(names, directory, async (folder) => {
    try {
      await rename(folder, cached)
    } catch (error) {
      // Another process was quicker.
      if (!(await exists(cached))) throw error
      await rm(folder, { recursive: true, force: true })
    }
  })
  return cached
}

function exists(path: string): Promise<boolean> {
  return access(path).then(
    () => true,
    () => false,
  )
}
