import { spawnSync } from "node:child_process"
import { readdirSync } from "node:fs"
import { fileURLToPath } from "node:url"
import { until } from "@virtkit/testkit"
import { describe, expect, it } from "vitest"
import { OK, pattern } from "./helpers.js"
import { finished, offerWrites, start, threadsBench } from "./threads-helpers.js"

const bench = threadsBench()

/** Threads and descriptors of this process. */
function held(): { threads: number; files: number } {
  return { threads: readdirSync("/proc/self/task").length, files: readdirSync("/proc/self/fd").length }
}

describe("disks on threads that come and go", () => {
  it("leave no threads and no descriptors, whatever was in flight", { timeout: 60_000 }, async () => {
    const path = bench.path(pattern(2 ** 20, 5))
    const round = async (number: number) => {
      const machine = await bench.machine({ path, thread: 2 })
      await start(machine)
      const chains = offerWrites(machine, 0, [1, 2, 3])
      if (number % 2 === 0) expect(await finished(machine, 0, chains)).toEqual([OK, OK, OK])
      if (number % 3 === 0) await machine.driver.reset()
      await machine.transport.close()
    }
    // What the process makes once: pools, pipes.
    for (let warm = 0; warm < 3; warm++) await round(warm)
    const before = held()
    for (let number = 0; number < 20; number++) await round(number)
    await until(() => held().threads <= before.threads, "threads to end")
    expect(held().files).toBeLessThanOrEqual(before.files)
  })
})

describe("a process with a disk on threads", () => {
  /** A program with the packages as they are built. */
  function program(rest: string): { status: number | null; stdout: string; stderr: string } {
    const path = bench.path(pattern(2 ** 20, 5))
    const script = `
      import { mmapMemory } from "@virtkit/memory/mmap"
      import { block } from "@virtkit/virtio-blk"
      const disk = await block({ path: ${JSON.stringify(path)}, thread: 2 })
      const memory = mmapMemory(1 << 20)
      const queue = (at) => ({ size: 16, desc: at, avail: at + 4096, used: at + 8192, interrupt() {}, connect() {} })
      const external = [queue(0x10000), queue(0x20000)]
      // A write of a sector on each queue.
      for (const { desc, avail } of external) {
        const header = desc + 0x4000
        memory.writeUint32(header, 1)
        for (const [index, address, length, flags] of [[0, header, 16, 1], [1, header + 512, 512, 1], [2, header + 256, 1, 2]]) {
          memory.writeBigUint64(desc + 16 * index, BigInt(address))
          memory.writeUint32(desc + 16 * index + 8, length)
          memory.writeUint16(desc + 16 * index + 12, flags)
          memory.writeUint16(desc + 16 * index + 14, index + 1)
        }
        memory.writeUint16(avail + 2, 1)
      }
      const needsReset = (reason) => console.log(reason)
      disk.activate({ memory, features: 1n << 32n, queues: [], external, needsReset, updateConfig() {}, defer() {} })
      const used = () => external.map(({ used }) => memory.readUint16(used + 2)).join()
      ${rest}`
    const cwd = fileURLToPath(new URL("..", import.meta.url))
    const { status, stdout, stderr } = spawnSync(process.execPath, ["--input-type=module", "-e", script], {
      cwd,
      encoding: "utf8",
      timeout: 20_000,
    })
    return { status, stdout, stderr }
  }

  it("ends when nothing else is to be done, and carries requests out until then", () => {
    const wait = `while (used() !== "1,1") await new Promise((resolve) => setTimeout(resolve, 1))
      console.log("done")`
    expect(program(wait)).toEqual({ status: 0, stdout: "done\n", stderr: "" })
    const close = `await disk.close()
      console.log("closed")`
    expect(program(close)).toEqual({ status: 0, stdout: "closed\n", stderr: "" })
  })

  it("can exit with requests in flight", () => {
    const exit = `setImmediate(() => process.exit(7))`
    for (let round = 0; round < 3; round++) {
      expect(program(exit)).toEqual({ status: 7, stdout: "", stderr: "" })
    }
  })

  it("uses no processor while nothing is asked of it", () => {
    const idle = `while (used() !== "1,1") await new Promise((resolve) => setTimeout(resolve, 1))
      await new Promise((resolve) => setTimeout(resolve, 200))
      const before = process.cpuUsage()
      await new Promise((resolve) => setTimeout(resolve, 400))
      const { user, system } = process.cpuUsage(before)
      // Each thread that looked for work would have had 400 ms.
      console.log(user + system < 150_000)`
    expect(program(idle)).toEqual({ status: 0, stdout: "true\n", stderr: "" })
  })
})
