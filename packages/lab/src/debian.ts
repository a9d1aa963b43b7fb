import { mkdir, mkdtemp, readdir, rm } from "node:fs/promises"
import { join } from "node:path"
import { ConfigError, VirtkitError } from "@virtkit/interface"
import { findTool, run } from "./tools.js"

/**
 * Downloads a Debian package and unpacks it, without installing it, into a folder of `directory` that `use` is given and
 * that goes away afterwards: what is to stay is renamed to a place within `directory`.
 *
 * @throws ConfigError when there is no package manager; VirtkitError when it fails
 */
export function withPackage(
  name: string,
  directory: string,
  use: (folder: string) => Promise<void>,
): Promise<void> {
  return withPackages([name], directory, use)
}

/** As `withPackage`, for several at once, which are unpacked into the same folder. */
export async function withPackages(
  names: readonly string[],
  directory: string,
  use: (folder: string) => Promise<void>,
): Promise<void> {
  const name = names.length === 1 ? names[0] : `${names[0]} and ${names.length - 1} more`
  if (!findTool("apt-get") || !findTool("dpkg-deb"))
    throw new ConfigError(`no apt-get here to get Debian's ${name} with`)
  await mkdir(directory, { recursive: true })
  const work = await mkdtemp(join(directory, ".get-"))
  try {
    await run("apt-get", ["download", "-q", ...names], { cwd: work })
    const archives = (await readdir(work)).filter((file) => file.endsWith(".deb"))
    if (archives.length < names.length)
      throw new VirtkitError("ERR_VIRTKIT_KERNEL", `apt-get download ${name} gave no package`)
    const folder = join(work, "x")
    for (const archive of archives) await run("dpkg-deb", ["-x", join(work, archive), folder])
    await use(folder)
  } finally {
    await rm(work, { recursive: true, force: true })
  }
}
