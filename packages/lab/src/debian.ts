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
export async function withPackage(
  name: string,
  directory: string,
  use: (folder: string) => Promise<void>,
): Promise<void> {
  if (!findTool("apt-get") || !findTool("dpkg-deb"))
    throw new ConfigError(`no apt-get here to get Debian's ${name} with`)
  await mkdir(directory, { recursive: true })
  const work = await mkdtemp(join(directory, ".get-"))
  try {
    await run("apt-get", ["download", "-q", name], { cwd: work })
    const archive = (await readdir(work)).find((file) => file.endsWith(".deb"))
    if (!archive) throw new VirtkitError("ERR_VIRTKIT_KERNEL", `apt-get download ${name} gave no package`)
    const folder = join(work, "x")
    await run("dpkg-deb", ["-x", join(work, archive), folder])
    await use(folder)
  } finally {
    await rm(work, { recursive: true, force: true })
  }
}
