import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { VirtkitError } from "@virtkit/interface"
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest"
import { findFile } from "../src/firmware.js"

/** Package tools that have one package, "bios"; `log` gets what is downloaded. */
const tools = (log: string): Record<string, string> => ({
  "apt-get": `echo "$3" >>${log}; test "$3" = bios && echo "$3" >package.deb`,
  "dpkg-deb": `mkdir -p "$3/opt/bios" && cp "$2" "$3/opt/bios/bios.bin"`,
})

describe("findFirmware", () => {
  let directory = ""
  const logged: string[] = []
  const find = (name: string, path: string) =>
    findFile({ package: name, path }, { cacheDir: directory, log: (line) => logged.push(line) })

  beforeEach(async () => {
    directory = await mkdtemp(join(tmpdir(), "virtkit-find-firmware-"))
    logged.length = 0
    const bin = join(directory, "bin")
    await mkdir(bin)
    for (const [name, script] of Object.entries(tools(join(directory, "log"))))
      await writeFile(join(bin, name), `#!/bin/sh\n${script}\n`, { mode: 0o755 })
    vi.stubEnv("PATH", `${bin}:${process.env.PATH}`)
  })
  afterEach(async () => {
    vi.unstubAllEnvs()
    await rm(directory, { recursive: true, force: true })
  })

  it("takes what is installed", async () => {
    const path = join(directory, "installed.bin")
    await writeFile(path, "")
    expect(await find("bios", path)).toBe(path)
    expect(logged).toEqual([])
  })

  it("downloads once what is not, says so, and leaves nothing else behind", async () => {
    const path = await find("bios", "/opt/bios/bios.bin")
    expect(await readFile(path, "utf8")).toBe("bios\n")
    expect(await find("bios", "/opt/bios/bios.bin")).toBe(path)
    expect(await readFile(join(directory, "log"), "utf8")).toBe("bios\n")
    expect(logged).toHaveLength(1)
    expect(logged[0]).toContain("downloading bios")
    expect(await readdir(join(directory, "firmware"))).toEqual(["bios-bios.bin"])
  })

  it("says what it could not get", async () => {
    const error = await find("other", "/opt/other").catch((reason: unknown) => reason)
    expect(error).toBeInstanceOf(VirtkitError)
    expect((error as Error).message).toContain("apt-get download -q other failed")
    expect(await readdir(join(directory, "firmware"))).toEqual([])
  })
})
