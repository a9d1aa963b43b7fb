import { createHash } from "node:crypto"
import { access, mkdir, readFile, rename } from "node:fs/promises"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { cacheDir } from "./paths.js"
import { run } from "./tools.js"

const SOURCE = fileURLToPath(new URL("../agent/agent.c", import.meta.url))
const PREBUILT = fileURLToPath(new URL("../prebuilds/linux-x64/lab-agent", import.meta.url))

async function exists(path: string): Promise<boolean> {
  return access(path).then(
    () => true,
    () => false,
  )
}

/**
 * Frequency of the host's time stamp counter, which QEMU's software processors have as theirs, in kHz.
 *
 * The lab's kernel is told: what it measures itself, on a busy host, may be wrong by a factor of 10, and then all that waits in the lab
 * is as much too fast or too slow.
 */
export async function hostTscKhz(agent: string): Promise<number> {
  return Number((await run(agent, ["--tsc-khz"])).toString())
}

/**
 * Path of the lab's process 1, a static program: what the package ships, or in a checkout what the C compiler makes of
 * its source, kept in the cache under the source's hash.
 *
 * @throws ConfigError when neither it nor a C compiler is there
 */
export async function findAgent(directory: string = cacheDir()): Promise<string> {
  if (await exists(PREBUILT)) return PREBUILT
  const hash = createHash("sha256")
    .update(await readFile(SOURCE))
    .digest("hex")
    .slice(0, 16)
  const path = join(directory, "agent", hash)
  if (await exists(path)) return path
  await mkdir(join(directory, "agent"), { recursive: true })
  const partial = `${path}.${process.pid}`
  await run("cc", ["-O2", "-Wall", "-Werror", "-static", "-s", "-o", partial, SOURCE])
  await rename(partial, path)
  return path
}
