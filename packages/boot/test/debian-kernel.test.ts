import { readdirSync } from "node:fs"
import { userInfo } from "node:os"
import { join } from "node:path"
import { loadKernel } from "@virtkit/boot"
import { describe, expect, it } from "vitest"
import { MIB, pattern, ram, readBytes } from "./images.js"

/** The guest kernel that the bootstrap of `npm test` fetches. */
function cachedKernel(): string | undefined {
  const { VIRTKIT_CACHE, XDG_CACHE_HOME, HOME } = process.env
  const home = HOME || userInfo().homedir
  const cache = VIRTKIT_CACHE || join(XDG_CACHE_HOME || join(home, ".cache"), "virtkit")
  try {
    const [release] = readdirSync(join(cache, "kernels")).filter((name) => /^\d/.test(name))
    return release && join(cache, "kernels", release, "vmlinuz")
  } catch {
    return undefined
  }
}

const kernel = cachedKernel()
const skipped = kernel
  ? ""
  : " (skipped: no kernel in the cache; node packages/tooling/bootstrap.mjs test gets it)"

describe.skipIf(!kernel)(`Debian's cloud kernel${skipped}`, () => {
  const options = { kernel: kernel ?? "", initrd: pattern(100_000, 1), cmdline: "console=ttyS0" }

  it("is unpacked and loaded where it was linked to run", async () => {
    const memory = ram(128 * MIB)
    const loaded = await loadKernel({ memory, ...options })
    expect(loaded).toMatchObject({ kind: "vmlinux", entry: 0x1000000, unpacked: { from: "payload" } })
    const bytes = Buffer.from(readBytes(memory, loaded.image.address, loaded.image.size))
    expect(bytes.includes("Linux version ")).toBe(true)
    // It asks for the same start address and for no less memory in its header.
    expect(memory.readUint32(0x7258)).toBe(loaded.image.address)
    expect(memory.readUint32(0x7260)).toBeGreaterThanOrEqual(loaded.image.size)
  })

  it("can also be started packed", async () => {
    const loaded = await loadKernel({ memory: ram(128 * MIB), ...options, unpack: false })
    expect(loaded).toMatchObject({ kind: "bzimage", entry: 0x1000200 })
  })
})
