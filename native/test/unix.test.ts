import { spawnSync } from "node:child_process"
import {
  closeSync,
  fstatSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readSync,
  rmSync,
  writeSync,
} from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import {
  EventFd,
  MemoryMapping,
  memfdCreate,
  Poller,
  UnixListener,
  UnixSocket,
  unixConnect,
  unixPair,
} from "@virtkit/native"
import { afterAll, afterEach, describe, expect, it } from "vitest"

const folder = mkdtempSync(join(tmpdir(), "virtkit-unix-"))
afterAll(() => rmSync(folder, { recursive: true }))
const closers: { close(): void }[] = []
afterEach(() => {
  for (const closer of closers.splice(0)) closer.close()
})
const keep = <T extends { close(): void }>(closer: T): T => {
  closers.push(closer)
  return closer
}
const pair = () => unixPair().map((fd) => keep(new UnixSocket(fd))) as [UnixSocket, UnixSocket]
const bytes = (...values: number[]) => Uint8Array.from(values)
const descriptors = () => readdirSync("/proc/self/fd").length
const received = (socket: UnixSocket) => [...socket.fds.subarray(0, socket.fdCount)]

describe("UnixSocket", () => {
  it("carries bytes, says when there are none, and when there will be no more", () => {
    const [a, b] = pair()
    const target = new Uint8Array(8)
    expect(b.receive(target, 0, 8)).toBe(-1)
    expect(a.send(bytes(1, 2, 3, 4), 1, 2)).toBe(2)
    expect(b.receive(target, 3, 5)).toBe(2)
    expect([...target]).toEqual([0, 0, 0, 2, 3, 0, 0, 0])
    a.close()
    a.close()
    expect(b.receive(target, 0, 8)).toBe(0)
    expect(() => b.send(bytes(1), 0, 1)).toThrow(
      expect.objectContaining({ code: "EPIPE", syscall: "sendmsg" }),
    )
    expect(() => a.send(bytes(1), 0, 1)).toThrow(expect.objectContaining({ code: "EBADF" }))
  })

  it("carries descriptors with the bytes that they were sent with, close-on-exec", () => {
    const [a, b] = pair()
    const [one, two] = [memfdCreate("one", 4096), memfdCreate("two", 8192)]
    a.send(bytes(1, 1), 0, 2, [one])
    a.send(bytes(2, 2), 0, 2, [two, one])
    closeSync(one)
    closeSync(two)
    const target = new Uint8Array(16)
    expect(b.receive(target, 0, 16)).toBe(2)
    const first = received(b)
    expect(first.map((fd) => fstatSync(fd).size)).toEqual([4096])
    expect(b.receive(target, 0, 16)).toBe(2)
    const second = received(b)
    expect(second.map((fd) => fstatSync(fd).size)).toEqual([8192, 4096])
    expect(b.truncated).toBe(false)
    const child = spawnSync("ls", ["/proc/self/fd"], { encoding: "utf8" })
    for (const fd of [...first, ...second]) {
      expect(child.stdout.split("\n")).not.toContain(String(fd))
      closeSync(fd)
    }
    expect(b.receive(target, 0, 16)).toBe(-1)
    expect(b.fdCount).toBe(0)
  })

  it("takes 32 descriptors at most, tells of more, and leaks none of them", () => {
    const before = descriptors()
    const [a, b] = pair()
    const e = keep(new EventFd())
    const send = (count: number) => a.send(bytes(1), 0, 1, new Array<number>(count).fill(e.fd))
    expect(() => send(254)).toThrow(RangeError)
    send(32)
    expect(b.receive(new Uint8Array(1), 0, 1)).toBe(1)
    expect(b.fdCount).toBe(32)
    expect(b.truncated).toBe(false)
    for (const fd of received(b)) closeSync(fd)
    send(33)
    expect(b.receive(new Uint8Array(1), 0, 1)).toBe(1)
    expect(b.truncated).toBe(true)
    for (const fd of received(b)) closeSync(fd)
    for (const closer of closers.splice(0)) closer.close()
    expect(descriptors()).toBe(before)
  })

  it("sends what fits when the other end does not read", () => {
    const [a] = pair()
    const block = new Uint8Array(1 << 16)
    let sent = 0
    for (;;) {
      const count = a.send(block, 0, block.length)
      if (count < 0) break
      sent += count
    }
    expect(sent).toBeGreaterThan(0)
  })

  it("refuses what is no Unix stream socket, wrong arguments and ranges out of bounds", () => {
    const e = keep(new EventFd())
    expect(() => new UnixSocket(e.fd)).toThrow(expect.objectContaining({ code: "ENOTSOCK" }))
    expect(() => new UnixSocket("1" as unknown as number)).toThrow(TypeError)
    expect(() => new UnixSocket(-1)).toThrow(RangeError)
    const [a] = pair()
    for (const [offset, length] of [
      [0, 0],
      [0, 5],
      [4, 1],
      [-1, 2],
      [Number.NaN, 1],
    ] as const) {
      expect(() => a.receive(new Uint8Array(4), offset, length)).toThrow(RangeError)
      expect(() => a.send(new Uint8Array(4), offset, length)).toThrow(RangeError)
    }
    expect(() => a.send(new Uint16Array(4) as unknown as Uint8Array, 0, 1)).toThrow(TypeError)
    expect(() => a.send(bytes(1), 0, 1, [1e6])).toThrow(expect.objectContaining({ code: "EBADF" }))
  })
})

describe("UnixListener", () => {
  it("accepts who connects, and wakes a poller", async () => {
    const path = join(folder, "a.sock")
    const listener = keep(new UnixListener(path))
    expect(listener.accept()).toBe(-1)
    const woken = new Promise<void>((resolve) => {
      const poller = keep(new Poller(() => resolve()))
      poller.add(listener.fd, 0)
    })
    const client = keep(new UnixSocket(unixConnect(path)))
    await woken
    const server = keep(new UnixSocket(listener.accept()))
    client.send(bytes(7), 0, 1)
    const target = new Uint8Array(1)
    expect(server.receive(target, 0, 1)).toBe(1)
    expect(target[0]).toBe(7)
    expect(() => new UnixListener(path)).toThrow(
      expect.objectContaining({ code: "EADDRINUSE", syscall: "bind" }),
    )
    listener.close()
    listener.close()
    expect(listener.fd).toBe(-1)
    expect(listener.accept()).toBe(-1)
    expect(() => unixConnect(path)).toThrow(
      expect.objectContaining({ code: "ECONNREFUSED", syscall: "connect" }),
    )
    expect(() => unixConnect(join(folder, "none"))).toThrow(expect.objectContaining({ code: "ENOENT" }))
    expect(() => new UnixListener("x".repeat(108))).toThrow(expect.objectContaining({ code: "ENAMETOOLONG" }))
    expect(() => new UnixListener("")).toThrow(RangeError)
  })
})

describe("what is received", () => {
  it("is memory that both ends see", () => {
    const [a, b] = pair()
    const mine = memfdCreate("shared", 1 << 20)
    const here = new MemoryMapping({ size: 1 << 20, fd: mine })
    a.send(bytes(1), 0, 1, [mine])
    b.receive(new Uint8Array(1), 0, 1)
    const theirs = received(b)[0]!
    const there = new MemoryMapping({ size: 4096, fd: theirs, fileOffset: 8192 })
    new DataView(there.buffer, there.byteOffset).setUint32(4, 0xdeadbeef)
    expect(new DataView(here.buffer, here.byteOffset).getUint32(8196)).toBe(0xdeadbeef)
    closeSync(mine)
    closeSync(theirs)
    here.release()
    there.release()
  })

  it("is an eventfd of another process, whose flags stay as they are", () => {
    const [a, b] = pair()
    const original = keep(new EventFd())
    a.send(bytes(1), 0, 1, [original.fd])
    b.receive(new Uint8Array(1), 0, 1)
    const taken = keep(new EventFd(received(b)[0]!))
    taken.signal()
    expect(original.clear()).toBe(true)
    expect(taken.clear()).toBe(false)
  })

  it("never waits on an eventfd in blocking mode", () => {
    const [a, b] = pair()
    const original = keep(new EventFd())
    // What a child has as its standard input is made blocking for all.
    expect(spawnSync("true", { stdio: [original.fd, "ignore", "ignore"] }).status).toBe(0)
    writeSync(original.fd, Buffer.from("feffffffffffffff", "hex"))
    a.send(bytes(1), 0, 1, [original.fd])
    b.receive(new Uint8Array(1), 0, 1)
    const full = keep(new EventFd(received(b)[0]!))
    full.signal()
    expect(full.clear()).toBe(true)
    expect(full.clear()).toBe(false)
    full.signal()
    expect(full.clear()).toBe(true)
  })

  it("is no eventfd if it only looks like one", () => {
    const file = openSync(join(folder, "plain"), "w+")
    writeSync(file, "12345678")
    expect(() => new EventFd(file)).toThrow(expect.objectContaining({ code: "EINVAL", syscall: "eventfd" }))
    const [one, two] = unixPair()
    expect(() => new EventFd(one)).toThrow("no eventfd")
    const target = Buffer.alloc(8)
    readSync(file, target, 0, 8, 0)
    expect(target.toString()).toBe("12345678")
    for (const fd of [file, one, two]) closeSync(fd)
  })
})
