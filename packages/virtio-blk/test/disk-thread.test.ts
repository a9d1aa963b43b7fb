import { EventFd } from "@virtkit/native"
import { FEATURE, SplitRingDriver, TestAllocator, until } from "@virtkit/testkit"
import { SharedLimit } from "@virtkit/virtqueue"
import { describe, expect, it, vi } from "vitest"
import { closeFile, openFile } from "../src/backends/file.js"
import { SharedCounters } from "../src/threads/counters.js"
import { DiskThread } from "../src/threads/disk-thread.js"
import type { Command } from "../src/threads/messages.js"
import { errorOf, plainError } from "../src/threads/plain-error.js"
import { header, MappedTestMemory, OUT, pattern } from "./helpers.js"
import { MEMORY_BYTES, threadsBench } from "./threads-helpers.js"

const bench = threadsBench()
const WRITEBACK = 32

/** Of each request that a backend was given. */
const syncs: boolean[] = []
vi.mock("../src/backends/file.js", async (original) => {
  const file = await original<typeof import("../src/backends/file.js")>()
  const fileBackendOn: typeof file.fileBackendOn = (...args) => {
    const backend = file.fileBackendOn(...args)
    const submit = backend.submit.bind(backend)
    backend.submit = (request) => {
      syncs.push(request.sync)
      submit(request)
    }
    return backend
  }
  return { ...file, fileBackendOn }
})

/** What a thread has, on this one: queue 1 of 2. */
async function onThisThread(cache: "writeback" | "writethrough") {
  const path = bench.path(pattern(65536, 5))
  const options = { path, readonly: false, unsafe: false, direct: false, depth: 16, mayWait: true }
  const file = await openFile(options)
  const counters = new SharedCounters(2, 2)
  const [kick, call] = [new EventFd(), new EventFd()]
  const reasons: string[] = []
  const thread = await DiskThread.open(
    {
      disk: { name: "blk", cache, queues: 2, queueSize: 16, serial: "", limits: undefined, poll: 0 },
      source: { format: "raw", file, options },
      thread: 1,
      threads: 2,
      queues: [{ index: 1, kick: kick.fd, call: call.fd }],
      counters: counters.buffer,
      limit: new SharedLimit().buffer,
    },
    (reason) => reasons.push(reason),
  )
  const memory = new MappedTestMemory(MEMORY_BYTES)
  const ring = new SplitRingDriver({ memory, allocator: new TestAllocator(4096, MEMORY_BYTES / 2), size: 16 })
  const { desc, avail, used } = ring
  const regions = memory.regions.map(({ guestAddress, size, buffer, byteOffset, hostAddress }) => {
    return { guestAddress, size, buffer: buffer as SharedArrayBuffer, byteOffset, hostAddress }
  })
  const activate = (writeback: number, features = 0xffn): Command => ({
    kind: "activate",
    memory: { version: 1, regions },
    features: features | FEATURE.VERSION_1 | (1n << 9n) | (1n << 11n),
    writeback,
    queues: [{ index: 1, size: 16, desc, avail, used }],
  })
  /** Offers a write; resolves, when it is done, to whether the backend was to make it durable. */
  const write = async () => {
    const chain = ring.add({ readable: [header(OUT, 3), new Uint8Array(512)], writable: [1] })
    ring.publish()
    kick.signal()
    await until(() => {
      ring.reap()
      return chain.written !== undefined
    }, "a write")
    return syncs.at(-1)
  }
  const close = async () => {
    await thread.handle({ kind: "close" })
    await closeFile(file)
    kick.close()
    call.close()
  }
  return { thread, ring, kick, call, counters, reasons, activate, write, close, used, memory }
}

describe("a thread's part of a disk", () => {
  it("writes through as it was told: at activation, and by the driver", async () => {
    const { thread, activate, write, close } = await onThisThread("writeback")
    void thread.handle(activate(0))
    expect(await write()).toBe(true)
    void thread.handle({ kind: "writeConfig", offset: WRITEBACK, data: Uint8Array.of(1) })
    expect(await write()).toBe(false)
    void thread.handle({ kind: "writeConfig", offset: WRITEBACK, data: Uint8Array.of(0) })
    expect(await write()).toBe(true)
    await close()
  })

  it("counts where all see it, and interrupts by an eventfd that stays open", async () => {
    const { thread, activate, write, close, call, counters } = await onThisThread("writeback")
    void thread.handle(activate(1))
    await write()
    expect(call.clear()).toBe(true)
    expect(counters.total()).toMatchObject({ writes: 1, writtenBytes: 512 })
    expect([counters.ofThread(0).writes, counters.ofThread(1).writes]).toEqual([0, 1])
    expect([counters.ofQueue(0).chains, counters.ofQueue(1).chains]).toEqual([0, 1])
    expect(counters.ofQueue(1).notifications).toBeGreaterThan(0)
    await thread.handle({ kind: "close" })
    call.signal()
    expect(call.clear()).toBe(true)
    await close()
  })

  it("does nothing for kicks without a queue, nor after its ring broke", async () => {
    const { thread, ring, kick, reasons, activate, close, counters } = await onThisThread("writeback")
    const kicked = async () => {
      kick.signal()
      await new Promise((resolve) => setTimeout(resolve, 5))
      return counters.ofQueue(1).notifications
    }
    expect(await kicked()).toBe(0)
    void thread.handle(activate(1))
    // The signal of before may mean something.
    const active = await kicked()
    expect(active).toBeGreaterThan(0)
    ring.setAvailIndex(0x7fff)
    await kicked()
    const broken = counters.ofQueue(1).notifications
    expect(reasons).toEqual([expect.stringMatching(/^queue 1: /)])
    expect(await kicked()).toBe(broken)
    await thread.handle({ kind: "reset" })
    expect(await kicked()).toBe(broken)
    await thread.handle({ kind: "resetQueue", index: 1 })
    expect(reasons.length).toBe(1)
    await close()
  })

  it("says when its ring is nowhere", async () => {
    const { thread, reasons, activate, close } = await onThisThread("writeback")
    const command = activate(1) as Command & { kind: "activate" }
    void thread.handle({ ...command, queues: [{ ...command.queues[0]!, used: MEMORY_BYTES }] })
    expect(reasons).toEqual([expect.stringContaining("used ring")])
    await close()
  })
})

describe("errors between threads", () => {
  it("keep their class, and what they say", () => {
    for (const error of [
      Object.assign(new Error("plain"), {}),
      errorOf({ message: "bad option", code: "ERR_VIRTKIT_CONFIG" }),
      errorOf({ message: "closed", code: "ERR_VIRTKIT_STATE" }),
      errorOf({ message: "no", code: "EIO", errno: 5, syscall: "pread" }),
      errorOf({ message: "disk a.qcow2: bad table", code: "ERR_VIRTKIT_IMAGE", path: "a.qcow2" }),
      errorOf({ message: "else", code: "ERR_VIRTKIT_ELSE" }),
    ]) {
      const back = errorOf(structuredClone(plainError(error)))
      expect([back.constructor, back.message, plainError(back)]).toEqual([
        error.constructor,
        error.message,
        plainError(error),
      ])
    }
    expect(plainError("text")).toEqual({ message: "text" })
  })
})
