import { execFile } from "node:child_process"
import { createHash, randomBytes } from "node:crypto"
import { mkdir, rm, writeFile } from "node:fs/promises"
import { join } from "node:path"
import { promisify } from "node:util"

const run = promisify(execFile)
/** mke2fs, debugfs and e2fsck are where an ordinary user's PATH does not look. */
const env = { ...process.env, PATH: `${process.env.PATH}:/usr/sbin:/sbin` }

/** Makes an ext4 image with a file of random data and its checksum on it. */
export async function makeDisk(directory: string): Promise<string> {
  const path = join(directory, "disk.img")
  const tree = join(directory, "tree")
  const data = randomBytes(8 * 2 ** 20)
  await mkdir(tree)
  await writeFile(join(tree, "host-data"), data)
  await writeFile(join(tree, "host-data.sha256"), `${sha256(data)}  host-data\n`)
  await run("mke2fs", ["-q", "-t", "ext4", "-d", tree, path, "128M"], { env })
  await rm(tree, { recursive: true })
  return path
}

/** Undefined when the image is in order and holds the guest's file with that checksum; else what is wrong. */
export async function checkDisk(path: string, checksum: string | undefined): Promise<string | undefined> {
  try {
    await run("e2fsck", ["-fn", path], { env })
  } catch (error) {
    return `e2fsck is not content with the disk: ${(error as { stdout: string }).stdout}`
  }
  const { stdout } = await run("debugfs", ["-R", "cat guest-data", path], {
    env,
    encoding: "buffer",
    maxBuffer: 2 ** 30,
  })
  const found = sha256(stdout)
  return found === checksum ? undefined : `the disk has ${found} where the guest wrote ${checksum}`
}

function sha256(data: Uint8Array): string {
  return createHash("sha256").update(data).digest("hex")
}
