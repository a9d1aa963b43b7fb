import { mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest"
import { findKernel, isOfSeries } from "../src/kernel.js"

/** Package tools of a distribution whose own kernel is 6.1 and that has 6.12 beside it. `log` gets what is downloaded. */
const tools = (log: string): Record<string, string> => ({
  "apt-cache": `case "$2" in
linux-image-cloud-amd64) echo "  Depends: linux-image-6.1.0-9-cloud-amd64" ;;
linux-image-6.12-cloud-amd64) echo "  Depends: linux-image-6.12.3+deb12-cloud-amd64" ;;
*) exit 100 ;;
esac`,
  "apt-get": `case "$1" in
update) ;;
download) echo "$3" >>${log}; echo "$3" >package.deb ;;
esac`,
  "dpkg-deb": `read name <"$2"
release=\${name#linux-image-}
mkdir -p "$3/boot" "$3/lib/modules/$release"
echo "$release" >"$3/boot/vmlinuz-$release"`,
})

describe("findKernel", () => {
  let directory = ""
  let log = ""
  const find = (series?: string) =>
    findKernel({ cacheDir: directory, source: "debian", ...(series === undefined ? {} : { series }) })
  const downloads = async () => (await readFile(log, "utf8").catch(() => "")).trim().split("\n")

  beforeEach(async () => {
    directory = await mkdtemp(join(tmpdir(), "virtkit-kernel-"))
    log = join(directory, "log")
    const bin = join(directory, "bin")
    await mkdir(bin)
    for (const [name, script] of Object.entries(tools(log)))
      await writeFile(join(bin, name), `#!/bin/sh\n${script}\n`, { mode: 0o755 })
    vi.stubEnv("PATH", `${bin}:${process.env.PATH}`)
  })
  afterEach(async () => {
    vi.unstubAllEnvs()
    await rm(directory, { recursive: true, force: true })
  })

  it("gets the distribution's own, once", async () => {
    const kernel = await find()
    expect(kernel.release).toBe("6.1.0-9-cloud-amd64")
    expect(await readFile(kernel.vmlinuz, "utf8")).toBe("6.1.0-9-cloud-amd64\n")
    expect(await find()).toEqual(kernel)
    expect(await downloads()).toEqual(["linux-image-6.1.0-9-cloud-amd64"])
  })

  it("gets one of another series, which does not become the distribution's own", async () => {
    const newer = await find("6.12")
    expect(newer.release).toBe("6.12.3+deb12-cloud-amd64")
    expect(await readFile(newer.vmlinuz, "utf8")).toBe("6.12.3+deb12-cloud-amd64\n")
    expect((await find()).release).toBe("6.1.0-9-cloud-amd64")
    expect(await find("6.12")).toEqual(newer)
    expect(await downloads()).toHaveLength(2)
  })

  it("takes the distribution's own when it is of the series", async () => {
    const own = await find()
    expect(await find("6.1")).toEqual(own)
    await rm(own.vmlinuz)
    expect((await find("6.1")).release).toBe(own.release)
    expect(await downloads()).toHaveLength(2)
  })

  it("says which series there is not", async () => {
    await expect(find("5.10")).rejects.toThrow(
      "no guest kernel of the series 5.10 found: the package lists have no cloud kernel of the series 5.10",
    )
    await expect(find("6.1.0")).rejects.toThrow('series: "6.1.0" is not like "6.12"')
    await expect(find("../6.1")).rejects.toThrow("is not like")
  })
})

it("6.1 and 6.12 are different series", () => {
  expect(isOfSeries("6.12.3-amd64", "6.1")).toBe(false)
  expect(isOfSeries("6.1.0-9-amd64", "6.1")).toBe(true)
  expect(isOfSeries("6.1.0-9-amd64", undefined)).toBe(true)
})
