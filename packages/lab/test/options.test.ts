import { mkdtemp, rm, writeFile } from "node:fs/promises"
import { tmpdir, userInfo } from "node:os"
import { join, resolve } from "node:path"
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest"
import { Lab, type LabOptions } from "../src/lab.js"
import { cacheDir } from "../src/paths.js"
import { qemuArguments } from "../src/qemu.js"
import { packageShares } from "../src/share.js"
import { needTool } from "../src/tools.js"

describe("the cache directory", () => {
  it.each([
    [{ VIRTKIT_CACHE: "/v", XDG_CACHE_HOME: "/x", HOME: "/h" }, "/v"],
    [{ XDG_CACHE_HOME: "/x", HOME: "/h" }, "/x/virtkit"],
    [{ HOME: "/h" }, "/h/.cache/virtkit"],
    [{ HOME: "" }, join(userInfo().homedir, ".cache/virtkit")],
  ])("for %j is %s", (environment, expected) => {
    expect(cacheDir(environment)).toBe(expected)
  })
})

describe("wrong use of the lab", () => {
  let directory = ""
  beforeEach(async () => {
    directory = await mkdtemp(join(tmpdir(), "virtkit-lab-"))
  })
  afterEach(async () => {
    vi.unstubAllEnvs()
    await rm(directory, { recursive: true, force: true })
  })

  it("without QEMU says what to install", () => {
    vi.stubEnv("PATH", directory)
    expect(() => needTool("qemu-system-x86_64")).toThrow(
      "qemu-system-x86_64 not found; install it with: apt-get install qemu-system-x86",
    )
  })

  it.each<[string, LabOptions, string]>([
    ["memory", { memory: 1 }, "between 256 MiB and 1 TiB"],
    ["CPUs", { cpus: 0 }, "between 1 and 64 CPUs"],
    [
      "too many disks",
      { disks: Array.from({ length: 30 }, () => ({ path: "/dev/null" })) },
      "at most 20 disks",
    ],
    [
      "a disk that is not there",
      { disks: [{ path: "/nonexistent/disk" }] },
      "disk /nonexistent/disk does not exist",
    ],
    ["a share that would be hidden", { shares: [{ source: "/etc", target: "/usr/etc" }] }, "outside of /usr"],
    ["an aborted signal", { signal: AbortSignal.abort(new Error("stop")) }, "stop"],
  ])("with %s fails before anything is started", async (_what, options, message) => {
    await expect(Lab.start(options)).rejects.toThrow(message)
  })

  it("does not let a file name become a QEMU option or protocol", () => {
    const options = { memory: 2 ** 29, cpus: 1, vmlinuz: "k", cmdline: "", initrd: 5, image: "i" }
    const args = qemuArguments({
      ...options,
      disks: [{ path: "/a,format=qcow2", readonly: true }, { path: "nbd:host" }],
    })
    expect(args).toContain("if=none,id=disk0,format=raw,readonly=on,file=/a,,format=qcow2")
    const file = resolve("nbd:host")
    expect(args).toContain(
      `if=none,id=disk1,format=raw,readonly=off,cache=writeback,discard=unmap,file=${file}`,
    )
  })

  it("of packages: a dependency that is not installed is named", async () => {
    await writeFile(
      join(directory, "package.json"),
      JSON.stringify({ name: "x", dependencies: { "virtkit-none": "1" } }),
    )
    await expect(packageShares(directory)).rejects.toThrow("package virtkit-none")
  })
})

describe("packageShares", () => {
  it("has a package, all that it needs, and of them what runs", async () => {
    const shares = await packageShares(new URL("..", import.meta.url).pathname.replace(/\/$/, ""))
    expect(shares.map((share) => share.target).sort()).toEqual([
      "/virtkit/node_modules/@virtkit/interface",
      "/virtkit/node_modules/@virtkit/lab",
    ])
    const wanted = (path: string): boolean => shares[0]!.filter!(path)
    expect(
      ["/p/dist", "/p/dist/x.js", "/p/package.json", "/p/build/Release/x.node"].filter(
        (path) => !wanted(path),
      ),
    ).toEqual([])
    expect(
      ["/p/src", "/p/test", "/p/node_modules", "/p/dist/x.js.map", "/p/dist/x.d.ts", "/p/x.o"].filter(wanted),
    ).toEqual([])
  })
})
