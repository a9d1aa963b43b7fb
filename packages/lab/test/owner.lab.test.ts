import { type ChildProcess, spawn } from "node:child_process"
import { once } from "node:events"
import { mkdtemp, readdir, readFile, realpath, rm, symlink } from "node:fs/promises"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { setTimeout as delay } from "node:timers/promises"
import { fileURLToPath } from "node:url"
import { afterEach, describe, expect, it } from "vitest"
import { cacheDir } from "../src/paths.js"
import { findTool } from "../src/tools.js"
import { children } from "./children.js"

async function alive(pid: number): Promise<boolean> {
  const stat = await readFile(`/proc/${pid}/stat`, "utf8").catch(() => "")
  return stat !== "" && stat.slice(stat.lastIndexOf(")") + 2)[0] !== "Z"
}

async function leftovers(): Promise<string[]> {
  return (await readdir(join(cacheDir(), "initramfs"))).filter((name) => name.startsWith("."))
}

describe("a lab whose owner is killed", { timeout: 240_000 }, () => {
  let owner: ChildProcess | undefined
  let directory = ""
  afterEach(async () => {
    owner?.kill("SIGKILL")
    await rm(directory, { recursive: true, force: true })
  })

  /** A PATH with the programs that the lab needs, without those in `without`. */
  const path = async (without: readonly string[]): Promise<string> => {
    directory = await mkdtemp(join(tmpdir(), "virtkit-lab-"))
    for (const name of ["qemu-system-x86_64", "busybox", "ldd", "cc", "bash", "sh", "setpriv"]) {
      const program = findTool(name)
      if (program && !without.includes(name)) await symlink(await realpath(program), join(directory, name))
    }
    return directory
  }

  it.each([
    ["the kernel ends it", []],
    ["its agent ends it, where setpriv is missing", ["setpriv"]],
  ])("is gone: %s", async (_how, without) => {
    const script = fileURLToPath(new URL("owner.js", import.meta.url))
    owner = spawn(process.execPath, [script], {
      env: { ...process.env, PATH: await path(without) },
      stdio: ["ignore", "pipe", "inherit"],
    })
    const [text] = (await once(owner.stdout!, "data")) as [Buffer]
    expect(text.toString()).toBe("ready\n")
    const machines = await children(owner.pid!)
    expect(machines).toHaveLength(1)
    owner.kill("SIGKILL")
    while (await alive(machines[0]!)) await delay(50) // the test's time limit bounds this
    expect(await leftovers()).toEqual([])
  })
})
