import { spawnSync } from "node:child_process"
import { readdirSync } from "node:fs"
import { Worker } from "node:worker_threads"
import { EventFd, Poller } from "@virtkit/native"
import { afterEach, describe, expect, it } from "vitest"

const addon = new URL("../index.js", import.meta.url).href
const closers: { close(): void }[] = []
afterEach(() => {
  for (const closer of closers.splice(0)) closer.close()
})

function eventFd(): EventFd {
  const e = new EventFd()
  closers.push(e)
  return e
}

/** A poller that records every batch. */
function recorder() {
  const batches: number[][] = []
  let wake = () => {}
  const poller = new Poller((count) => {
    batches.push([...poller.tokens.subarray(0, count)])
    wake()
  })
  closers.push(poller)
  const next = () =>
    new Promise<void>((resolve) => {
      wake = resolve
    })
  return { poller, batches, next }
}

const turn = () => new Promise((resolve) => setImmediate(resolve))

describe("EventFd", () => {
  it("counts, clears, and closes once", () => {
    const e = new EventFd()
    expect(e.clear()).toBe(false)
    e.signal()
    e.signal()
    expect(e.clear()).toBe(true)
    expect(e.clear()).toBe(false)
    e.close()
    e.close()
    e.signal()
    expect(e.fd).toBe(-1)
  })
})

describe("an EventFd that is borrowed", () => {
  it("signals the same counter, and is left open", () => {
    const e = eventFd()
    const borrowed = new EventFd(e.fd, true)
    borrowed.signal()
    expect(e.clear()).toBe(true)
    borrowed.close()
    borrowed.signal()
    expect([borrowed.fd, e.clear()]).toEqual([-1, false])
    e.signal()
    expect(e.clear()).toBe(true)
  })
})

describe("EventFd.wait", () => {
  it("tells of signals since the last wait, whatever the counter is", () => {
    const e = eventFd()
    expect(e.wait(0)).toBe(false)
    e.signal()
    expect([e.wait(10_000), e.wait(0)]).toEqual([true, false])
    e.signal()
    e.signal()
    expect([e.wait(-1), e.wait(0)]).toEqual([true, false])
    expect(e.clear()).toBe(true)
    e.close()
    expect(e.wait(-1)).toBe(false)
    expect(() => e.wait("1" as unknown as number)).toThrow(TypeError)
  })

  it("is woken by another thread", async () => {
    const e = eventFd()
    const code = `const { openSync, writeSync } = require("node:fs")
      writeSync(${e.fd}, new BigUint64Array([1n]))`
    const worker = new Worker(code, { eval: true })
    // The worker starts by itself: this thread does not run its event loop meanwhile.
    expect(e.wait(30_000)).toBe(true)
    await worker.terminate()
  })
})

describe("Poller", () => {
  it("reports tokens of several descriptors in one call", async () => {
    const { poller, batches, next } = recorder()
    const [a, b, c] = [eventFd(), eventFd(), eventFd()]
    poller.add(a.fd, 1)
    poller.add(b.fd, 2)
    poller.add(c.fd, 0xffff_ffff)
    a.signal()
    c.signal()
    await next()
    expect(batches).toHaveLength(1)
    expect(batches[0]!.sort()).toEqual([1, 0xffff_ffff])
  })

  it("reports each signal although nobody reads, and none without one", async () => {
    const { poller, batches, next } = recorder()
    const e = eventFd()
    poller.add(e.fd, 7)
    for (let i = 0; i < 3; i++) {
      e.signal()
      await next()
      await turn()
    }
    await turn()
    expect(batches).toEqual([[7], [7], [7]])
    expect(e.clear()).toBe(true)
  })

  it("reports what was signalled before it was added", async () => {
    const { poller, batches, next } = recorder()
    const e = eventFd()
    e.signal()
    poller.add(e.fd, 3)
    await next()
    expect(batches).toEqual([[3]])
  })

  it("hands over more than a batch in several calls", async () => {
    const { poller, batches, next } = recorder()
    for (let token = 0; token < 100; token++) {
      const e = eventFd()
      poller.add(e.fd, token)
      e.signal()
    }
    while (batches.flat().length < 100) await next()
    expect(new Set(batches.flat()).size).toBe(100)
    expect(Math.max(...batches.map((batch) => batch.length))).toBeLessThanOrEqual(64)
  })

  it("reports nothing of a member while it is paused, and what it missed when that ends", async () => {
    const { poller, batches, next } = recorder()
    const e = eventFd()
    poller.add(e.fd, 4)
    poller.pause(e.fd, 4)
    e.signal()
    await turn()
    await turn()
    expect(batches).toEqual([])
    poller.resume(e.fd, 4)
    await next()
    expect(batches).toEqual([[4]])
    e.signal()
    await next()
    expect(batches).toEqual([[4], [4]])
    expect(() => poller.pause(1e6, 4)).toThrow(expect.objectContaining({ code: "EBADF" }))
    poller.remove(e.fd)
    expect(() => poller.resume(e.fd, 4)).toThrow(expect.objectContaining({ code: "ENOENT" }))
  })

  it("hands what several pollers wait for to each of them, also when one closes another meanwhile", async () => {
    const [one, two, three] = [recorder(), recorder(), recorder()]
    const [a, b, c] = [eventFd(), eventFd(), eventFd()]
    one.poller.add(a.fd, 1)
    two.poller.add(b.fd, 1)
    three.poller.add(c.fd, 3)
    for (const e of [a, b, c]) e.signal()
    await Promise.all([one.next(), two.next(), three.next()])
    expect([one.batches, two.batches, three.batches]).toEqual([[[1]], [[1]], [[3]]])
    const first = new Poller(() => two.poller.close())
    closers.push(first)
    const d = eventFd()
    first.add(d.fd, 1)
    two.poller.remove(b.fd)
    two.poller.add(b.fd, 2)
    await two.next()
    for (const e of [d, b, c]) e.signal()
    await three.next()
    await turn()
    expect(two.batches).toEqual([[1], [2]])
    expect(three.batches).toEqual([[3], [3]])
    expect(() => one.poller.pause(c.fd, 1)).toThrow(expect.objectContaining({ code: "ENOENT" }))
    one.poller.remove(c.fd)
    c.signal()
    await three.next()
  })

  it("gives the event loop its turn in a storm of events", async () => {
    const e = eventFd()
    let calls = 0
    const poller = new Poller(() => {
      calls++
      e.signal()
    })
    closers.push(poller)
    poller.add(e.fd, 1)
    e.signal()
    await turn()
    await turn()
    expect(calls).toBeGreaterThan(1)
    expect(calls).toBeLessThanOrEqual(64)
  })

  it("watches a descriptor whose number another had, that was closed and never removed", async () => {
    const { poller, batches } = recorder()
    const other = recorder()
    const old = new EventFd()
    const { fd } = old
    poller.add(fd, 1)
    old.close()
    const e = eventFd()
    expect(e.fd).toBe(fd)
    other.poller.add(fd, 2)
    poller.close()
    e.signal()
    await other.next()
    expect(batches).toEqual([])
    expect(other.batches).toEqual([[2]])
  })

  it("forgets removed descriptors; refuses double ones, bad ones and use after close", async () => {
    const { poller, batches } = recorder()
    const e = eventFd()
    poller.add(e.fd, 1)
    expect(() => poller.add(e.fd, 2)).toThrow(
      expect.objectContaining({ code: "EEXIST", syscall: "epoll_ctl" }),
    )
    poller.remove(e.fd)
    poller.remove(e.fd)
    e.signal()
    await turn()
    expect(batches).toEqual([])
    expect(() => poller.add(1e6, 2)).toThrow(expect.objectContaining({ code: "EBADF" }))
    poller.close()
    poller.close()
    expect(() => poller.add(e.fd, 1)).toThrow("closed")
    poller.remove(e.fd)
    poller.ref()
    poller.unref()
  })

  it("may be closed by its own callback", async () => {
    const e = eventFd()
    let calls = 0
    await new Promise<void>((resolve) => {
      const poller = new Poller(() => {
        calls++
        poller.close()
        resolve()
      })
      poller.add(e.fd, 1)
      e.signal()
    })
    e.signal()
    await turn()
    expect(calls).toBe(1)
  })

  it("leaks no descriptor", () => {
    const count = () => readdirSync("/proc/self/fd").length
    const before = count()
    for (let i = 0; i < 50; i++) {
      const e = new EventFd()
      const poller = new Poller(() => {})
      poller.add(e.fd, 1)
      poller.close()
      e.close()
    }
    expect(count()).toBe(before)
  })

  it("is collected once it is closed, though its callback refers to it", () => {
    const code = `
      import { EventFd, Poller } from ${JSON.stringify(addon)}
      import { setTimeout } from "node:timers/promises"
      function use() {
        const e = new EventFd()
        const p = new Poller(() => p.close())
        p.add(e.fd, 1)
        e.signal()
        return new WeakRef(p)
      }
      const used = use()
      for (let round = 0; round < 50 && used.deref() !== undefined; round++) {
        await setTimeout(1)
        gc()
      }
      console.log(used.deref() === undefined)`
    const run = spawnSync(process.execPath, ["--expose-gc", "--input-type=module", "-e", code], {
      encoding: "utf8",
    })
    expect(run.stdout).toBe("true\n")
  })

  it("passes exceptions on as uncaught ones and goes on", () => {
    const code = `
      import { EventFd, Poller } from ${JSON.stringify(addon)}
      const seen = []
      process.on("uncaughtException", (error) => {
        seen.push(error.message)
        if (seen.length === 2) { console.log(seen.join()); p.close() } else e.signal()
      })
      const e = new EventFd()
      const p = new Poller(() => { throw new Error("thrown") })
      p.add(e.fd, 1)
      e.signal()`
    const run = spawnSync(process.execPath, ["--input-type=module", "-e", code], { encoding: "utf8" })
    expect(run.stdout).toBe("thrown,thrown\n")
    expect(run.status).toBe(0)
  })

  it("keeps the process alive only while it is referenced", () => {
    const code = `
      import { Poller } from ${JSON.stringify(addon)}
      new Poller(() => {}).unref()`
    const run = spawnSync(process.execPath, ["--input-type=module", "-e", code], { timeout: 15_000 })
    expect(run.status).toBe(0)
  })

  it("ends with its worker, in the middle of a storm of events", async () => {
    for (let round = 0; round < 3; round++) {
      const worker = new Worker(
        `import(${JSON.stringify(addon)}).then(({ EventFd, Poller }) => {
           const e = new EventFd()
           let n = 0
           const p = new Poller(() => {
             e.signal()
             if (++n === 100) require("node:worker_threads").parentPort.postMessage("busy")
           })
           p.add(e.fd, 1)
           e.signal()
         })`,
        { eval: true },
      )
      await new Promise((resolve, reject) => {
        worker.once("message", resolve)
        worker.once("error", reject)
      })
      expect(await worker.terminate()).toBe(1)
    }
  })
})
