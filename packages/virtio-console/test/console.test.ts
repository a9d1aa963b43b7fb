import { once } from "node:events"
import { setImmediate as turn } from "node:timers/promises"
import { ConfigError, RestoreError } from "@virtkit/interface"
import { DeviceHarness, until } from "@virtkit/testkit"
import { type ConsoleDevice, type ConsoleOptions, consolePort } from "@virtkit/virtio-console"
import { createQueue } from "@virtkit/virtqueue"
import fc from "fast-check"
import { describe, expect, it } from "vitest"

const RECEIVE = 0
const TRANSMIT = 1

function start(options: ConsoleOptions = {}, queueSize = 16) {
  const device: ConsoleDevice = consolePort(options)
  const harness = new DeviceHarness({ device, createQueue, queueSize })
  harness.start()
  return { device, harness, stream: device.stream }
}

const bytes = (length: number, seed = 0) => Uint8Array.from({ length }, (_, i) => (i * 31 + seed) & 0xff)

function collect(stream: NodeJS.ReadableStream): () => Buffer {
  const chunks: Buffer[] = []
  stream.on("data", (chunk: Buffer) => chunks.push(chunk))
  return () => Buffer.concat(chunks)
}

describe("identity", () => {
  it("is a console of two queues that has a size and takes emergency writes", () => {
    const device = consolePort({ cols: 132, rows: 50 })
    expect(device.deviceType).toBe(3)
    expect(device.features).toBe(0b101n)
    expect(device.queueMaxSizes).toEqual([128, 128])
    expect([...device.config]).toEqual([132, 0, 50, 0, 1, 0, 0, 0, 0, 0, 0, 0])
  })

  it("refuses options that cannot be", () => {
    for (const options of [{ cols: -1 }, { rows: 65536 }, { cols: 1.5 }, { outputBuffer: 0 }]) {
      expect(() => consolePort(options)).toThrow(ConfigError)
    }
  })
})

describe("guest to host", () => {
  it("hands the chains of a turn to the reader as one chunk and completes them", async () => {
    const { harness, stream } = start()
    const chunks: string[] = []
    stream.on("data", (chunk: Buffer) => chunks.push(chunk.toString()))
    for (const text of ["Hello", ", ", "host\n"])
      harness.ring(TRANSMIT).add({ readable: [Buffer.from(text)] })
    harness.kick(TRANSMIT)
    const used = harness.ring(TRANSMIT).reap()
    expect(used.map((chain) => chain.written)).toEqual([0, 0, 0])
    expect(harness.interrupts[TRANSMIT]).toBe(1)
    expect(chunks).toEqual([])
    await until(() => chunks.length > 0, "output")
    expect(chunks).toEqual(["Hello, host\n"])
  })

  it("bad-input #21: takes data spread over any buffers, and ignores writable ones", async () => {
    const { harness, stream } = start()
    const output = collect(stream)
    const text = Buffer.from("spread around")
    const chain = await harness.request(TRANSMIT, {
      readable: [...text].map((byte) => Uint8Array.of(byte)),
      writable: [32],
      layout: "indirect",
    })
    expect(chain.written).toBe(0)
    expect(chain.data).toEqual(new Uint8Array(32).fill(0xee))
    await until(() => output().length === text.length, "output")
    expect(output().toString()).toBe(text.toString())
  })

  it("bad-input #12 and #33: output waits in the guest while the reader is behind, none is lost", async () => {
    const { harness, stream } = start({ outputBuffer: 1000 })
    const data = bytes(100_000)
    const chain = harness.ring(TRANSMIT).add({ readable: [data.subarray(0, 60_000), data.subarray(60_000)] })
    harness.kick(TRANSMIT)
    for (let i = 0; i < 200; i++) await turn()
    harness.ring(TRANSMIT).reap()
    expect(chain.written).toBe(undefined)
    expect(stream.readableLength).toBeLessThan(stream.readableHighWaterMark + 1000)
    expect(harness.queues[TRANSMIT]!.broken).toBe(false)

    const output = collect(stream)
    await until(() => output().length === data.length, "output")
    expect(output().equals(data)).toBe(true)
    harness.ring(TRANSMIT).reap()
    expect(chain.written).toBe(0)
  })

  it("bad-input #14 and #20: empty and malformed chains are given back, and the queue goes on", async () => {
    const { harness, stream } = start()
    const ring = harness.ring(TRANSMIT)
    const output = collect(stream)
    ring.add({ writable: [8] })
    const empty = ring.add({ readable: [new Uint8Array(1)] })
    ring.writeDescriptor(empty.head, { address: empty.buffers[0]!.address, length: 0, flags: 0 })
    const looped = ring.add({ readable: [new Uint8Array(1)] })
    ring.writeDescriptor(looped.head, { address: 4096, length: 1, flags: 1, next: looped.head })
    ring.add({ readable: [Buffer.from("ok")] })
    harness.kick(TRANSMIT)
    expect(ring.reap().map((chain) => chain.written)).toEqual([0, 0, 0, 0])
    await until(() => output().length > 0, "output")
    expect(output().toString()).toBe("ok")
    expect(harness.needsReset).toEqual([])
  })

  it("bad-input #16: a drain ends at the queue's size, the rest waits for the next turn", async () => {
    const { harness, device } = start({}, 4)
    const ring = harness.ring(TRANSMIT)
    const queue = harness.queues[TRANSMIT]!
    let popped = 0
    const pop = queue.pop.bind(queue)
    // A driver that puts a chain back as soon as it was taken, without end.
    queue.pop = () => {
      if (ring.freeDescriptors === 0) ring.reap()
      if (ring.freeDescriptors > 0) ring.add({ readable: [Uint8Array.of(popped)] })
      ring.publish()
      popped++
      return pop()
    }
    const push = queue.push.bind(queue)
    queue.push = (chain, written) => {
      push(chain, written)
      queue.flush()
    }
    device.notify(TRANSMIT)
    expect(popped).toBe(4)
    device.notify(TRANSMIT)
    device.notify(TRANSMIT)
    expect(popped).toBe(4)
    await turn()
    expect(popped).toBe(8)
    await harness.reset()
  })

  it("bad-input #15: a broken ring stops it alone", async () => {
    const { harness, stream } = start()
    harness.ring(TRANSMIT).setAvailIndex(1000)
    harness.device.notify(TRANSMIT)
    expect(harness.needsReset).toHaveLength(1)
    stream.write("still")
    const chain = await harness.request(RECEIVE, { writable: [16] })
    expect(Buffer.from(chain.data!.subarray(0, chain.written)).toString()).toBe("still")
  })

  it("goes on into nothing when the stream was destroyed", async () => {
    const { harness, stream } = start({ outputBuffer: 16 })
    const chain = harness.ring(TRANSMIT).add({ readable: [bytes(100_000)] })
    harness.kick(TRANSMIT)
    await turn()
    stream.destroy()
    harness.ring(TRANSMIT).reap()
    expect(chain.written).toBe(0)
    expect((await harness.request(TRANSMIT, { readable: [bytes(100)] })).written).toBe(0)
  })
})

describe("host to guest", () => {
  it("waits for the guest's buffers and calls the writer back when the guest has the bytes", async () => {
    const { harness, stream } = start()
    let written = false
    stream.write("0123456789", () => {
      written = true
    })
    await turn()
    const first = await harness.request(RECEIVE, { writable: [2, 4] })
    expect(Buffer.from(first.data!).toString()).toBe("012345")
    expect(first.written).toBe(6)
    await turn()
    expect(written).toBe(false)
    const second = await harness.request(RECEIVE, { writable: [100] })
    expect(second.written).toBe(4)
    await turn()
    expect(written).toBe(true)
  })

  it("uses buffers that wait already, and asks for no notification while it has nothing to send", async () => {
    const { harness, stream } = start()
    const ring = harness.ring(RECEIVE)
    for (let i = 0; i < 3; i++) ring.add({ writable: [4] })
    harness.kick(RECEIVE)
    expect(ring.reap()).toEqual([])
    stream.write("abcdef")
    expect(ring.reap().map((chain) => chain.written)).toEqual([4, 2])
    expect(harness.interrupts[RECEIVE]).toBe(1)
    // A buffer without writable bytes cannot carry anything.
    stream.write("g")
    expect(ring.reap()).toHaveLength(0)
    await turn()
    expect(ring.reap().map((chain) => chain.written)).toEqual([1])
    stream.write("h")
    await turn()
    const useless = ring.add({ readable: [bytes(3)] })
    ring.add({ writable: [4] })
    harness.kick(RECEIVE)
    expect(ring.reap().map((chain) => chain.written)).toEqual([0, 1])
    expect(useless.written).toBe(0)
  })

  it("bad-input #33: a flood of input waits in the writer", async () => {
    const { harness, stream } = start()
    const data = bytes(100_000)
    let more = true
    for (let at = 0; at < data.length; at += 5000) more = stream.write(data.subarray(at, at + 5000))
    expect(more).toBe(false)
    const received: Uint8Array[] = []
    let length = 0
    while (length < data.length) {
      const chain = await harness.request(RECEIVE, { writable: [4096] })
      received.push(chain.data!.subarray(0, chain.written))
      length += chain.written!
    }
    expect(Buffer.concat(received).equals(data)).toBe(true)
  })
})

describe("configuration", () => {
  it("tells a running guest the new size, and one that is to come", () => {
    const device = consolePort()
    device.resize(100, 30)
    const harness = new DeviceHarness({ device, createQueue })
    harness.start()
    expect(harness.configChanges).toBe(0)
    expect([...device.config.subarray(0, 4)]).toEqual([100, 0, 30, 0])
    device.resize(300, 0)
    expect(harness.configChanges).toBe(1)
    expect([...device.config.subarray(0, 4)]).toEqual([44, 1, 0, 0])
    expect(() => device.resize(1, 70_000)).toThrow(ConfigError)
    expect(harness.configChanges).toBe(1)
  })

  it("prints emergency writes, before the driver has started, and ignores the other fields", async () => {
    const device = consolePort({ outputBuffer: 3 })
    const before = [...device.config]
    device.writeConfig!(8, Uint8Array.of(0x50, 0, 0, 0))
    device.writeConfig!(8, Uint8Array.of(0x51))
    device.writeConfig!(0, Uint8Array.of(1, 2, 3, 4))
    device.writeConfig!(9, Uint8Array.of(1))
    device.writeConfig!(6, Uint8Array.of(1, 1, 0x52, 1))
    device.writeConfig!(8, Uint8Array.of(0x53))
    expect([...device.config]).toEqual(before)
    const [chunk] = (await once(device.stream, "data")) as [Buffer]
    expect(chunk.toString()).toBe("PQR")
  })
})

describe("reset, close and state", () => {
  it("bad-input #27: after a reset no chain of before is touched, and the stream goes on", async () => {
    const { harness, stream } = start({ outputBuffer: 100 })
    harness.ring(TRANSMIT).add({ readable: [bytes(50_000)] })
    harness.kick(TRANSMIT)
    stream.write("for the next one")
    const before = harness.rings
    await harness.reset()
    const output = collect(stream)
    for (let i = 0; i < 20; i++) await turn()
    expect(before[TRANSMIT]!.reap()).toEqual([])
    const partly = output().length
    expect(partly).toBeLessThan(50_000)

    harness.start()
    await harness.request(TRANSMIT, { readable: [Buffer.from("again")] })
    await until(() => output().length === partly + 5, "output")
    expect(output().subarray(partly).toString()).toBe("again")
    const chain = await harness.request(RECEIVE, { writable: [100] })
    expect(Buffer.from(chain.data!.subarray(0, chain.written)).toString()).toBe("for the next one")
  })

  it("ends the stream after the last output when it is closed, more than once", async () => {
    const { device, harness, stream } = start()
    const callbacks: string[] = []
    stream.write("never read", () => callbacks.push("first"))
    stream.write("nor this", () => callbacks.push("second"))
    harness.ring(TRANSMIT).add({ readable: [Buffer.from("last words")] })
    harness.kick(TRANSMIT)
    await device.close()
    await device.close()
    const output = collect(stream)
    await once(stream, "close")
    expect(output().toString()).toBe("last words")
    expect(callbacks).toEqual(["first", "second"])
  })

  it("can be closed after the writer has ended its side, or destroyed it all", async () => {
    for (const how of ["end", "destroy"] as const) {
      const { device, stream } = start()
      stream[how]()
      await turn()
      await device.close()
      stream.resume()
      await turn()
      expect(stream.destroyed).toBe(true)
    }
  })

  it("ignores notifications before activation and of queues that do not exist", () => {
    const device = consolePort()
    device.notify(0)
    const harness = new DeviceHarness({ device, createQueue })
    harness.start()
    device.notify(7)
  })

  it("goes on in the middle of a chain after its state was moved", async () => {
    const { device, harness, stream } = start({ outputBuffer: 100 })
    const data = bytes(30_000)
    harness.ring(TRANSMIT).add({ readable: [data] })
    harness.kick(TRANSMIT)
    for (let i = 0; i < 20; i++) await turn()
    const other = consolePort({ cols: 1, rows: 1 })
    const state = structuredClone(device.state()) as { transmitOffset: number }
    expect(state).toMatchObject({ version: 1, cols: 80, rows: 24 })
    other.restore(state)
    expect(other.state()).toEqual(state)
    // The same rings and queues under the other device.
    const output = collect(other.stream)
    other.activate({ ...contextOf(harness) })
    await until(() => output().length === data.length - state.transmitOffset, "the rest")
    expect(output().equals(data.subarray(state.transmitOffset))).toBe(true)
    stream.destroy()
    expect(harness.ring(TRANSMIT).reap().length).toBe(1)
    for (const bad of [
      null,
      {},
      { ...state, version: 2 },
      { ...state, cols: -1 },
      { ...state, transmitOffset: 1.5 },
    ]) {
      expect(() => other.restore(bad)).toThrow(RestoreError)
    }
  })
})

function contextOf(harness: DeviceHarness) {
  return {
    memory: harness.memory,
    features: harness.features,
    queues: harness.queues,
    updateConfig: (update: () => void) => update(),
    needsReset: () => {},
    defer: (task: () => void) => void setImmediate(task),
  }
}

it("delivers every byte once and in order, whatever the two sides do", async () => {
  const step = fc.oneof(
    fc.record({
      do: fc.constant("print" as const),
      sizes: fc.array(fc.integer({ min: 1, max: 80 }), { minLength: 1, maxLength: 4 }),
    }),
    fc.record({ do: fc.constant("type" as const), sizes: fc.tuple(fc.integer({ min: 1, max: 80 })) }),
    fc.record({
      do: fc.constant("offer" as const),
      sizes: fc.array(fc.integer({ min: 1, max: 80 }), { minLength: 1, maxLength: 4 }),
    }),
    fc.record({ do: fc.constant("read" as const), sizes: fc.constant([]) }),
    fc.record({ do: fc.constant("turn" as const), sizes: fc.constant([]) }),
  )
  await fc.assert(
    fc.asyncProperty(fc.array(step, { maxLength: 60 }), async (steps) => {
      const { harness, stream } = start({ outputBuffer: 50 }, 8)
      const [rx, tx] = [harness.ring(RECEIVE), harness.ring(TRANSMIT)]
      let [printed, seen, typed, got] = [0, 0, 0, 0]
      const reap = () => {
        tx.reap()
        for (const chain of rx.reap()) {
          for (const byte of chain.data!.subarray(0, chain.written)) expect(byte).toBe(got++ & 0xff)
        }
      }
      const read = () => {
        for (const byte of (stream.read() as Buffer | null) ?? []) expect(byte).toBe(seen++ & 0xff)
      }
      const offer = (sizes: readonly number[]) => {
        if (rx.freeDescriptors < sizes.length) return
        rx.add({ writable: sizes })
        harness.kick(RECEIVE)
      }
      for (const { do: what, sizes } of steps) {
        reap()
        if (what === "print" && tx.freeDescriptors >= sizes.length) {
          tx.add({ readable: sizes.map((size) => Uint8Array.from({ length: size }, () => printed++ & 0xff)) })
          harness.kick(TRANSMIT)
        } else if (what === "type") {
          stream.write(Uint8Array.from({ length: sizes[0]! }, () => typed++ & 0xff))
        } else if (what === "offer") offer(sizes)
        else if (what === "read") read()
        else await turn()
      }
      await until(() => {
        reap()
        read()
        offer([64])
        return seen === printed && got === typed
      }, "the rest")
    }),
    { numRuns: 60 },
  )
})
