import { spawn, spawnSync } from "node:child_process"
import { once } from "node:events"
import { existsSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { fileURLToPath } from "node:url"
import { createQcow2, inspectQcow2 } from "@virtkit/virtio-blk"
import { describe, expect, it } from "vitest"
import { bench, check, contentByQemu, noQemu, random } from "./qcow2-helpers.js"

const load = fileURLToPath(new URL("qcow2-load.mjs", import.meta.url))
const built = existsSync(fileURLToPath(new URL("../dist/backends/qcow2/index.js", import.meta.url)))
const skipped =
  noQemu !== "" ? noQemu : built ? "" : " (skipped: the package was not built, run npm run build)"
/** 200 with VIRTKIT_QCOW2_KILLS=200: takes some minutes. */
const KILLS = Number(process.env.VIRTKIT_QCOW2_KILLS ?? 2)
const SIZE = 16 * 2 ** 20

const b = bench()

/** What a sector may have: its values since the last one that was flushed. */
class Sectors {
  readonly #values: number[][] = Array.from({ length: SIZE / 512 }, () => [0])

  /** Applies what a process noted before it was killed. */
  apply(log: Buffer): { operations: number; flushes: number } {
    const issued = new Map<
      number,
      { first: number; count: number; value: number; order: number; done: number }
    >()
    const begun = new Map<number, number>()
    let flushedUpTo = -1
    let flushes = 0
    const at = (index: number, field: number) => log.readUInt32LE(index * 20 + field * 4)
    const records = Math.floor(log.length / 20)
    for (let i = 0; i < records; i++) {
      const number = at(i, 1)
      if (at(i, 0) === 1)
        issued.set(number, {
          first: at(i, 2),
          count: at(i, 3),
          value: at(i, 4),
          order: i,
          done: Number.POSITIVE_INFINITY,
        })
      else if (at(i, 0) === 2) issued.get(number)!.done = i
      else if (at(i, 0) === 3) begun.set(number, i)
      else {
        flushes++
        flushedUpTo = Math.max(flushedUpTo, begun.get(number)!)
      }
    }
    for (const { first, count, value, done } of issued.values()) {
      for (let sector = first; sector < first + count; sector++) {
        const values = this.#values[sector]!
        const discard = value === 0xffffffff
        // A discard takes whole clusters, or nothing.
        if (done < flushedUpTo && !discard) values.length = 0
        values.push(discard ? 0 : value)
      }
    }
    return { operations: issued.size, flushes }
  }

  /** The first sector whose content cannot be; takes over what all have. */
  settle(content: Buffer): string | undefined {
    const words = new Uint32Array(content.buffer, content.byteOffset, content.length / 4)
    for (const [sector, values] of this.#values.entries()) {
      const value = words[sector * 128]!
      if (
        !values.includes(value) ||
        !words.subarray(sector * 128, sector * 128 + 128).every((word) => word === value)
      )
        return `sector ${sector} has ${value}, not one of ${values}`
      this.#values[sector] = [value]
    }
    return undefined
  }
}

/** The kernel ends the I/O of a killed process, and with it the locks, some time after the process. */
async function checkReleased(path: string): Promise<ReturnType<typeof check>> {
  for (let left = 500; ; left--) {
    const result = check(path)
    if (!result.report.includes("Failed to lock") || left === 0) return result
    await new Promise((resolve) => setTimeout(resolve, 10))
  }
}

describe.skipIf(skipped !== "")(`killed under load${skipped}`, () => {
  it.each([
    { clusterSize: 65536, lazyRefcounts: true, left: "is clean" },
    { clusterSize: 4096, lazyRefcounts: true, left: "is clean" },
    { clusterSize: 512, lazyRefcounts: true, left: "is clean" },
    { clusterSize: 65536, lazyRefcounts: false, left: "is clean or has leaks only" },
    { clusterSize: 512, lazyRefcounts: false, left: "is clean or has leaks only" },
  ])(
    "keeps what was flushed, and an image that $left: clusters of $clusterSize, lazy counts $lazyRefcounts",
    async ({ clusterSize, lazyRefcounts }) => {
      const path = b.path(`kill-${clusterSize}-${lazyRefcounts}.qcow2`)
      const log = `${path}.log`
      await createQcow2({ path, size: SIZE, clusterSize, lazyRefcounts })
      const sectors = new Sectors()
      const next = random(clusterSize)
      const tally = { clean: 0, leaks: 0, operations: 0, flushes: 0 }
      for (let round = 1; round <= KILLS; round++) {
        writeFileSync(log, "")
        const child = spawn(process.execPath, [load, path, log, String(round)], {
          stdio: ["ignore", "pipe", "inherit"],
        })
        const exited = once(child, "exit")
        await once(child.stdout, "data")
        await new Promise((resolve) => setTimeout(resolve, next(250)))
        child.kill("SIGKILL")
        expect((await exited)[1]).toBe("SIGKILL")
        const { status, report } = await checkReleased(path)
        // 3: clusters that are counted and not used.
        expect(lazyRefcounts ? [0] : [0, 3], `round ${round}: ${report}`).toContain(status)
        if (status === 0) tally.clean++
        else tally.leaks++
        const { operations, flushes } = sectors.apply(readFileSync(log))
        tally.operations += operations
        tally.flushes += flushes
        expect(sectors.settle(contentByQemu(path))).toBeUndefined()
        if (status === 3 && round % 2 === 0) {
          // Without pipes: it is killed when it names more leaks than their buffers hold.
          spawnSync("qemu-img", ["check", "-q", "-r", "leaks", path], { stdio: "ignore" })
          expect(check(path).status).toBe(0)
        }
      }
      rmSync(log)
      // The last one is repaired by who opens it next, and closed.
      await (await b.open(path)).device.close()
      expect((await inspectQcow2(path)).dirty).toBe(false)
      expect(tally.operations).toBeGreaterThan(0)
      if (process.env.VIRTKIT_QCOW2_KILLS !== undefined) console.log({ clusterSize, lazyRefcounts }, tally)
    },
    60_000 + KILLS * 20_000,
  )
})
