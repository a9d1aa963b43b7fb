import { ConfigError, RestoreError, StateError } from "@virtkit/interface"
import { TestMemory, until } from "@virtkit/testkit"
import { loopbackBackend, net, nullBackend } from "@virtkit/virtio-net"
import { createQueue } from "@virtkit/virtqueue"
import { describe, expect, it } from "vitest"
import {
  ERR,
  F,
  frame,
  GUEST_MAC,
  HEADER,
  header,
  macBytes,
  nic,
  OK,
  RX,
  received,
  recorder,
  TX,
  turn,
} from "./helpers.js"

describe("frames of the guest", () => {
  it("reach the backend in batches, any framing", async () => {
    const backend = recorder()
    const n = await nic({ backend })
    const data = frame(1000, 3)
    const head = header()
    await n.send([
      [head, data],
      [head.subarray(0, 5), head.subarray(5), data.subarray(0, 1), data.subarray(1)],
      [Uint8Array.from([...head, ...data])],
      [Uint8Array.from([...head, ...data.subarray(0, 20)]), data.subarray(20)],
    ])
    expect(backend.frames.map(({ bytes }) => bytes)).toEqual([data, data, data, data])
    expect(backend.commits).toBe(1)
    expect(n.harness.interrupts[TX]).toBe(1)
    expect(n.device.counters).toMatchObject({ txFrames: 4, txBytes: 4000 })
    expect(n.device.counters.queues[0]).toMatchObject({ txFrames: 4, txBytes: 4000 })
  })

  it("are the driver's again before the backend looks for answers", async () => {
    const seen: { frames: number; back: number }[] = []
    const backend = Object.assign(recorder(), {
      committed(_pair: number, frames: number) {
        ring.reap()
        seen.push({ frames, back: chains.filter(({ written }) => written !== undefined).length })
      },
    })
    const n = await nic({ backend })
    const ring = n.harness.ring(TX)
    const chains = [1, 2, 3].map((seed) => ring.add({ readable: [header(), frame(60, seed)] }))
    // Too short for a frame: it comes back too, and is none.
    chains.push(ring.add({ readable: [header()] }))
    n.harness.kick(TX)
    expect(seen).toEqual([{ frames: 3, back: 4 }])
    ring.add({ readable: [header()] })
    n.harness.kick(TX)
    expect(seen).toHaveLength(1)
  })

  it("bring their answers once for all batches that the ring held", async () => {
    const committed: number[] = []
    const backend = Object.assign(recorder(), {
      committed: (_pair: number, frames: number) => committed.push(frames),
    })
    const n = await nic({ backend })
    const ring = n.harness.ring(TX)
    // A batch ends after 128 KiB.
    for (let seed = 0; seed < 5; seed++) ring.add({ readable: [header(), frame(60_000, seed)] })
    n.harness.kick(TX)
    expect([backend.commits, committed]).toEqual([2, [5]])
    ring.add({ readable: [header(), frame(60)] })
    n.harness.kick(TX)
    expect([backend.commits, committed]).toEqual([3, [5, 1]])
  })

  it("wait while the backend has no room", async () => {
    const backend = recorder()
    const n = await nic({ backend })
    backend.room = 1
    const sending = n.send([
      [header(), frame(60, 1)],
      [header(), frame(60, 2)],
      [header(), frame(60, 3)],
    ])
    await turn()
    backend.room = 1
    n.device.notify(TX)
    expect(backend.frames).toHaveLength(1)
    backend.room = 5
    backend.session!.transmitReady(0)
    await sending
    expect(backend.frames.map(({ bytes }) => bytes)).toEqual([1, 2, 3].map((seed) => frame(60, seed)))
  })

  it("bad-input #28: short frames, short headers and wrong ones are dropped and counted", async () => {
    const backend = recorder()
    const n = await nic({ backend })
    const chains = await n.send([
      [header().subarray(0, 1)],
      [header()],
      [header(), frame(14).subarray(0, 13)],
      [header({ flags: 1, csumStart: 34, csumOffset: 100 }), frame(60)],
      [header({ flags: 1, csumStart: 34, csumOffset: 16, gsoType: 1 }), frame(3000)],
      [
        header({ flags: 1, csumStart: 34, csumOffset: 16, gsoType: 1, gsoSize: 0xffff, hdrLen: 0xffff }),
        frame(3000),
      ],
    ])
    expect(chains.every((chain) => chain.written === 0)).toBe(true)
    expect(n.device.counters).toMatchObject({ txBadLength: 3, txBadHeader: 2, txFrames: 1 })
    expect(backend.frames).toMatchObject([{ flags: 1, gsoType: 1, hdrLen: 3000 }])
  })

  it("bad-input #12: frames longer than any are dropped", async () => {
    const backend = recorder()
    const n = await nic({ backend })
    await n.send([
      [header(), frame(65_553)],
      [header(), frame(65_554)],
      [header(), new Uint8Array(1 << 20)],
    ])
    expect(backend.frames).toHaveLength(1)
    expect(n.device.counters.txBadLength).toBe(2)
  })

  it("bad-input #21: a chain of 1,000 descriptors, and empty ones in it (bad-input #14)", async () => {
    const backend = recorder()
    const n = await nic({ backend, queueSize: 1024 }, { queueSize: 1024 })
    const whole = Uint8Array.from([...header(), ...frame(2000, 9)])
    const pieces = Array.from({ length: 1000 }, (_, i) =>
      whole.subarray(i * 2, i < 999 ? i * 2 + 2 : undefined),
    )
    pieces.splice(500, 0, new Uint8Array(0))
    await n.send([pieces], TX, "direct")
    await n.send([pieces])
    expect(backend.frames.map(({ bytes }) => bytes)).toEqual([frame(2000, 9), frame(2000, 9)])
  })

  it("bad-input #20, #22: malformed chains go back, the queue goes on", async () => {
    const backend = recorder()
    const n = await nic({ backend })
    const ring = n.harness.ring(TX)
    const at = n.harness.allocator.allocate(64)
    ring.writeDescriptor(15, { address: at, length: 20, flags: 2 | 1, next: 14 })
    ring.writeDescriptor(14, { address: at, length: 20, flags: 0 })
    ring.offerHead(15)
    ring.writeDescriptor(13, { address: at, length: 20, flags: 1, next: 13 })
    ring.offerHead(13)
    n.harness.kick(TX)
    expect(n.harness.memory.readUint16(ring.used + 2)).toBe(2)
    ring.usedIndex = 2
    await n.send([[header(), frame()]])
    expect(backend.frames).toHaveLength(1)
  })

  it.each([
    ["frames", TX],
    ["commands", 2],
  ])("bad-input #16: no more %s than a ring holds in a turn, though the driver refills", async (_, index) => {
    const n = await nic({ backend: recorder() }, { queueSize: 4 })
    const ring = n.harness.ring(index)
    const queue = n.harness.queues[index]!
    const flush = queue.flush.bind(queue)
    const done = () => n.device.counters.txFrames + n.device.counters.controlCommands
    const refill = () => {
      ring.reap()
      while (ring.freeDescriptors > 0) {
        ring.add({ readable: [header(), frame()], writable: [1], layout: "indirect" })
      }
      ring.publish()
    }
    queue.flush = () => {
      flush()
      // A loop without end would not get here again.
      if (done() < 100) refill()
    }
    refill()
    n.device.notify(index)
    expect(done()).toBe(4)
    await turn()
    expect(done()).toBe(8)
    await n.harness.reset()
    await turn()
    expect(done()).toBe(8)
  })

  it("bad-input #18: the header is read once", async () => {
    const backend = recorder()
    const reads: number[] = []
    const n = await nic(
      { backend },
      {
        createQueue: (options) => {
          const made = createQueue(options)
          const { queue } = made
          const pop = queue?.pop.bind(queue)
          const watched = () => {
            const chain = pop?.()
            const copyOut = chain?.copyOut.bind(chain)
            if (chain !== undefined && copyOut !== undefined) {
              chain.copyOut = (offset, target) => {
                reads.push(offset)
                return copyOut(offset, target)
              }
            }
            return chain
          }
          if (queue !== undefined) queue.pop = watched
          return made
        },
      },
    )
    n.harness.ring(TX).add({ readable: [header(), frame()] })
    n.harness.kick(TX)
    expect(reads.filter((offset) => offset < HEADER)).toEqual([0])
  })
})

describe("frames for the guest", () => {
  it("go into small, big and split buffers, header first", async () => {
    const backend = recorder()
    const n = await nic({ backend }, { features: F.VERSION_1 | F.INDIRECT })
    expect(backend.offloads).toBe(0)
    const chains = n.post([[2000], [HEADER, 1500], [5, 7, 100, 100, 100]])
    for (const seed of [1, 2, 3]) expect(backend.session!.receive(0, frame(300, seed))).toBe(true)
    expect(backend.session!.receive(0, frame())).toBe(false)
    backend.session!.received(0)
    n.harness.ring(RX).reap()
    for (const [i, chain] of chains.entries()) {
      expect(chain.written).toBe(312)
      expect(received(chain).bytes).toEqual(frame(300, i + 1))
      expect(received(chain).head.getUint16(10, true)).toBe(1)
      expect(received(chain).head.getUint8(0)).toBe(0)
    }
    expect(n.harness.interrupts[RX]).toBe(1)
    expect(n.device.counters).toMatchObject({ rxFrames: 3, rxBytes: 900, rxDropped: 0 })
    expect(backend.ready).toEqual([])
    n.post([[2000]])
    expect(backend.ready).toEqual([0])
  })

  it("are spread over mergeable buffers", async () => {
    const backend = recorder()
    const n = await nic({ backend })
    const chains = n.post([[100], [20, 30], [13], [1000]])
    backend.session!.receive(0, frame(160, 5))
    backend.session!.received(0)
    n.harness.ring(RX).reap()
    expect(chains.map((chain) => chain.written)).toEqual([100, 50, 13, 9])
    const whole = chains.flatMap((chain) => [...chain.data!.subarray(0, chain.written)])
    expect(whole[10]).toBe(4)
    expect(Uint8Array.from(whole.slice(HEADER))).toEqual(frame(160, 5))
  })

  it("wait for more mergeable buffers, and are dropped when no more can come", async () => {
    const backend = recorder()
    const n = await nic({ backend }, { queueSize: 4 })
    n.post([[100], [100]])
    expect(backend.session!.receive(0, frame(500))).toBe(false)
    expect(backend.ready).toEqual([])
    n.post([[100], [100]])
    expect(backend.ready).toEqual([0])
    expect(backend.session!.receive(0, frame(500))).toBe(true)
    expect(n.device.counters).toMatchObject({ rxTooLong: 1, rxFrames: 0 })
    expect(backend.session!.receive(0, frame(388))).toBe(true)
    expect(n.device.counters).toMatchObject({ rxFrames: 1 })
  })

  it("bad-input #28: buffers without room for a header go back, small ones lose the frame", async () => {
    const backend = recorder()
    const n = await nic({ backend }, { features: F.VERSION_1 })
    n.harness.ring(RX).add({ readable: [new Uint8Array(100)] })
    const [none, small, big] = n.post([[11], [60], [100]])
    expect(backend.session!.receive(0, frame(60))).toBe(true)
    backend.session!.received(0)
    n.harness.ring(RX).reap()
    expect([none!.written, small!.written, big!.written]).toEqual([0, undefined, undefined])
    expect(n.device.counters).toMatchObject({ malformed: 2, rxTooLong: 1, rxFrames: 0 })
    expect(backend.session!.receive(0, frame(48))).toBe(true)
    expect(n.device.counters.rxFrames).toBe(1)
    expect(backend.session!.receive(0, frame(14).subarray(0, 13))).toBe(true)
    expect(backend.session!.receive(0, new Uint8Array(65_554))).toBe(true)
    expect(n.device.counters.rxErrors).toBe(2)
  })

  it("bad-input #16: useless buffers without end do not keep the device", async () => {
    const backend = recorder()
    const n = await nic({ backend }, { queueSize: 4 })
    const ring = n.harness.ring(RX)
    const push = n.harness.queues[RX]!.push.bind(n.harness.queues[RX]!)
    let pushed = 0
    n.harness.queues[RX]!.push = (chain, written) => {
      push(chain, written)
      pushed++
      n.harness.queues[RX]!.flush()
      ring.reap()
      ring.add({ writable: [1] })
      ring.publish()
    }
    n.post([[1], [1], [1], [1]])
    expect(backend.session!.receive(0, frame())).toBe(false)
    expect(pushed).toBeLessThanOrEqual(4)
    await turn()
    expect(backend.ready).toEqual([0])
  })

  it("bad-input #29: num_buffers and the header are there before the buffers are used", async () => {
    const backend = recorder()
    const n = await nic({ backend })
    const ring = n.harness.ring(RX)
    const chains = n.post([[100], [100]])
    const seen: number[] = []
    const { memory } = n.harness
    const write = memory.write.bind(memory)
    memory.write = (address, source) => {
      seen.push(memory.readUint16(ring.used + 2))
      write(address, source)
    }
    backend.session!.receive(0, frame(150))
    backend.session!.received(0)
    expect(seen).toEqual([0, 0, 0])
    ring.reap()
    expect(received(chains[0]!).head.getUint16(10, true)).toBe(2)
  })

  it("carry offloads only if negotiated; missing checksums are filled in", async () => {
    const head = { flags: 1, gsoType: 0, hdrLen: 0, gsoSize: 0, csumStart: 34, csumOffset: 6 }
    const tso = { ...head, gsoType: 1, gsoSize: 100, hdrLen: 54 }
    const zeroed = frame(60)
    zeroed.fill(0, 34)
    const deliver = async (features: bigint) => {
      const backend = recorder()
      const n = await nic({ backend }, { features: F.VERSION_1 | features })
      const chains = n.post([[2000], [2000]])
      backend.session!.receive(0, zeroed, head)
      backend.session!.receive(0, frame(500), tso)
      backend.session!.received(0)
      n.harness.ring(RX).reap()
      const seen = chains.filter((chain) => chain.written !== undefined).map(received)
      return { n, seen }
    }
    const all = await deliver(F.GUEST_CSUM | F.GUEST_TSO4)
    expect(all.seen.map(({ head: h }) => [h.getUint8(0), h.getUint8(1), h.getUint16(6, true)])).toEqual([
      [1, 0, 34],
      [1, 1, 34],
    ])
    expect(all.seen[0]!.bytes).toEqual(zeroed)
    const none = await deliver(0n)
    expect(none.seen).toHaveLength(1)
    expect(none.seen[0]!.head.getUint8(0)).toBe(0)
    expect([none.seen[0]!.bytes[40], none.seen[0]!.bytes[41]]).toEqual([0xff, 0xff])
    expect(none.n.device.counters.rxErrors).toBe(1)
  })

  it("keep their buffers until they are used, and none after a reset (bad-input #27)", async () => {
    const backend = recorder()
    const n = await nic({ backend })
    n.post([[2000], [2000]])
    backend.session!.receive(0, frame())
    const { session } = backend
    const buffers = session!.buffers(0)!
    await n.harness.reset()
    expect(backend.stops).toBe(1)
    n.harness.memory.clearWritten()
    session!.receive(0, frame())
    session!.received(0)
    session!.linkChanged(false, "late")
    session!.transmitReady(0)
    expect(buffers.refill()).toBe(false)
    expect(buffers.count).toBe(0)
    expect(n.harness.memory.written).toEqual([])
    expect(n.device.linkUp).toBe(true)
    n.harness.start()
    n.post([[2000]])
    expect(backend.session!.receive(0, frame())).toBe(true)
  })
})

describe("what the guest is offered", () => {
  it("follows the backend", async () => {
    const device = await net({
      backend: recorder({ transmitOffloads: 3, receiveOffloads: 0 }),
      mac: GUEST_MAC,
    })
    expect(device.features & (F.CSUM | F.HOST_TSO4 | F.HOST_UFO)).toBe(F.CSUM | F.HOST_TSO4)
    expect(device.features & (F.GUEST_CSUM | F.GUEST_TSO4 | F.CTRL_GUEST_OFFLOADS | F.MTU | F.MQ)).toBe(0n)
    // Segmentation needs checksums.
    const odd = await net({ backend: recorder({ transmitOffloads: 2, receiveOffloads: 126 }) })
    expect(odd.features & (F.CSUM | F.HOST_TSO4 | F.GUEST_CSUM | F.GUEST_TSO4)).toBe(0n)
    const plain = await net({ backend: nullBackend(), offloads: false })
    expect(plain.features & (F.CSUM | F.GUEST_CSUM | F.GUEST_TSO4 | F.CTRL_GUEST_OFFLOADS)).toBe(0n)
  })

  it("shows address, status, queues, MTU, speed", async () => {
    const device = await net({
      backend: nullBackend(),
      mac: GUEST_MAC,
      mtu: 9000,
      queues: 3,
      speed: 10_000,
      duplex: "full",
    })
    const view = new DataView(device.config.buffer)
    expect(device.config.subarray(0, 6)).toEqual(macBytes(GUEST_MAC))
    expect(view.getUint16(6, true)).toBe(1)
    expect(view.getUint16(8, true)).toBe(3)
    expect(view.getUint16(10, true)).toBe(9000)
    expect(view.getUint32(12, true)).toBe(10_000)
    expect(view.getUint8(16)).toBe(1)
    expect(device.features & (F.MTU | F.MQ | (1n << 63n))).toBe(F.MTU | F.MQ | (1n << 63n))
    expect(device.queueMaxSizes).toEqual([256, 256, 256, 256, 256, 256, 64])
    const unknown = await net({ backend: nullBackend() })
    expect(new DataView(unknown.config.buffer).getUint32(12, true)).toBe(0xffff_ffff)
    expect(unknown.config[16]).toBe(0xff)
    expect(unknown.config[0]! & 3).toBe(2)
    expect(unknown.mac).not.toBe((await net({ backend: nullBackend() })).mac)
  })

  it.each([
    { mac: "52:54" },
    { mac: "01:00:00:00:00:00" },
    { mac: "00:00:00:00:00:00" },
    { queues: 0 },
    { queues: 17 },
    { queueSize: 100 },
    { queueSize: 32 },
    { mtu: 67 },
    { mtu: 65_536 },
    { speed: -1 },
    { limits: { receive: { bytesPerSecond: 0 } } },
    { limits: { transmit: { packetsPerSecond: Number.NaN } } },
  ])("refuses %j", async (options) => {
    await expect(net({ backend: nullBackend(), ...options })).rejects.toThrow(ConfigError)
  })

  it("refuses more queues than the backend has, and closes it", async () => {
    const backend = recorder()
    await expect(net({ backend, queues: 5 })).rejects.toThrow("recorder has at most 4 pairs")
    expect(backend.closes).toBe(1)
  })
})

describe("the link", () => {
  it("goes down and comes back, seen by the guest and by listeners", async () => {
    const backend = recorder()
    const n = await nic({ backend })
    const events: [boolean, string][] = []
    n.device.on("link", (up, reason) => events.push([up, reason]))
    n.post([[2000]])
    n.device.setLink(false)
    expect(n.device.config[6]).toBe(0)
    expect(n.harness.configChanges).toBe(1)
    await n.send([[header(), frame()]])
    expect(backend.frames).toHaveLength(0)
    expect(backend.session!.receive(0, frame())).toBe(true)
    expect(n.device.counters).toMatchObject({ txDropped: 1, rxDropped: 1, linkDowns: 1 })
    backend.session!.linkChanged(false, "gone")
    n.device.setLink(true)
    expect(n.device.linkUp).toBe(false)
    backend.session!.linkChanged(true, "back")
    expect(n.device.config[6]).toBe(1)
    expect(n.harness.configChanges).toBe(2)
    await n.send([[header(), frame()]])
    expect(backend.frames).toHaveLength(1)
    expect(events).toEqual([
      [false, "set down"],
      [true, "back"],
    ])
  })

  it("is down from the start when the backend has none", async () => {
    const backend = recorder({ linkUp: false })
    const n = await nic({ backend })
    expect(n.device.config[6]).toBe(0)
    backend.session!.linkChanged(true, "connected")
    expect(n.device.config[6]).toBe(1)
  })
})

describe("commands", () => {
  it("set filters, address, VLANs", async () => {
    const backend = recorder()
    const n = await nic({ backend })
    n.post([[2000], [2000], [2000], [2000]])
    const receive = (options: Parameters<typeof frame>[2]) => {
      const before = n.device.counters.rxFrames
      expect(backend.session!.receive(0, frame(60, 1, options))).toBe(true)
      return n.device.counters.rxFrames > before
    }
    expect(receive({ to: "52:54:00:00:00:99" })).toBe(true)
    expect(await n.command(0, 0, [0])).toBe(OK)
    expect(receive({ to: "52:54:00:00:00:99" })).toBe(false)
    expect(await n.command(1, 1, macBytes("52:54:00:00:00:99"))).toBe(OK)
    expect(n.device.mac).toBe("52:54:00:00:00:99")
    expect(receive({ to: "52:54:00:00:00:99" })).toBe(true)
    expect(receive({ to: "52:54:00:00:00:99", vlan: 5 })).toBe(false)
    expect(await n.command(2, 0, [5, 0])).toBe(OK)
    expect(receive({ to: "52:54:00:00:00:99", vlan: 5 })).toBe(true)
    expect(await n.command(1, 0, [1, 0, 0, 0, 2, 0, 0, 0, 0, 7, 0, 0, 0, 0])).toBe(OK)
    expect(receive({ to: "02:00:00:00:00:07" })).toBe(true)
    expect(n.device.counters).toMatchObject({ rxFiltered: 2, controlCommands: 4, controlErrors: 0 })
    await n.harness.reset()
    expect(n.device.mac).toBe(GUEST_MAC)
  })

  it("announce on demand", async () => {
    const n = await nic({ backend: nullBackend() })
    expect(await n.command(3, 0)).toBe(ERR)
    expect(n.device.announce()).toBe(true)
    expect(n.device.config[6]).toBe(3)
    expect(n.harness.configChanges).toBe(1)
    expect(await n.command(3, 0)).toBe(OK)
    expect(n.device.config[6]).toBe(1)
    expect(await n.command(3, 0)).toBe(ERR)
    const without = await nic({ backend: nullBackend() }, { features: F.VERSION_1 })
    expect(without.device.announce()).toBe(false)
  })

  it("choose the offloads, within what was negotiated", async () => {
    const backend = recorder()
    const n = await nic(
      { backend },
      {
        features: F.VERSION_1 | F.INDIRECT | F.CTRL_VQ | F.GUEST_CSUM | F.GUEST_TSO4 | F.CTRL_GUEST_OFFLOADS,
      },
    )
    expect(backend.offloads).toBe(3)
    const set = (features: bigint) => {
      const data = new Uint8Array(8)
      new DataView(data.buffer).setBigUint64(0, features, true)
      return n.command(5, 0, data)
    }
    expect(await set(F.GUEST_CSUM)).toBe(OK)
    expect(backend.offloads).toBe(1)
    expect(await set(F.GUEST_CSUM | F.GUEST_TSO6)).toBe(ERR)
    expect(await set(F.MAC)).toBe(ERR)
    expect(await set(0n)).toBe(OK)
    expect(backend.offloads).toBe(0)
  })

  it("choose the number of queues; queue 2 has them without MQ", async () => {
    const backend = recorder()
    const n = await nic({ backend, queues: 4 })
    expect(n.control).toBe(8)
    for (const [pairs, answer] of [
      [0, ERR],
      [5, ERR],
      [258, ERR],
      [3, OK],
    ] as const) {
      expect(await n.command(4, 0, [pairs & 255, pairs >> 8])).toBe(answer)
    }
    expect([backend.pairs, n.device.queuePairs]).toEqual([3, 3])
    await n.send([[header(), frame()]], 5)
    expect(backend.frames).toMatchObject([{ pair: 2 }])
    n.post([[2000]], 4)
    expect(backend.session!.receive(2, frame())).toBe(true)
    expect(backend.session!.receive(3, frame())).toBe(true)
    expect(n.device.counters.queues.map((queue) => [queue.rxFrames, queue.txFrames])).toEqual([
      [0, 0],
      [0, 0],
      [1, 1],
      [0, 0],
    ])
    expect(n.device.counters.rxDropped).toBe(1)
    const single = await nic(
      { backend: recorder(), queues: 4 },
      { features: F.VERSION_1 | F.INDIRECT | F.CTRL_VQ },
    )
    expect(await single.command(0, 0, [0], 2)).toBe(OK)
    expect(await single.command(4, 0, [2, 0], 2)).toBe(ERR)
  })

  it("bad-input #12: commands of every length, without room for an answer, of 600,000 bytes", async () => {
    const memory = new TestMemory({ regions: [{ guestAddress: 0, size: 8 << 20 }] })
    const n = await nic({ backend: nullBackend() }, { memory, queueSize: 64 })
    for (let length = 0; length <= 300; length++) {
      for (const kind of [0, 1, 2, 3, 4, 5, 6]) {
        const data = new Uint8Array(length).fill(length & 1)
        expect(await n.command(kind, 0, data)).toBeLessThanOrEqual(ERR)
      }
    }
    const ring = n.harness.ring(n.control)
    const mute = ring.add({ readable: [Uint8Array.of(0, 0, 0)] })
    n.harness.kick(n.control)
    await until(() => ring.reap().length > 0, "the chain")
    expect(mute.written).toBe(0)
    expect(n.device.counters.malformed).toBe(1)
    const table = new Uint8Array(600_008)
    new DataView(table.buffer).setUint32(0, 100_000, true)
    expect(await n.command(1, 0, table)).toBe(OK)
    expect(n.device.state().filter.unicast).toEqual({ entries: new Uint8Array(0), overflow: true })
    expect(await n.command(0, 0, [0])).toBe(OK)
    expect(n.harness.needsReset).toEqual([])
  })
})

describe("life", () => {
  it("loops frames back, offloads and all", async () => {
    const n = await nic({ backend: loopbackBackend() })
    const chains = n.post([[1600], [1600], [1600], [1600]])
    await n.send([
      [header(), frame(100, 1)],
      [
        header({ flags: 1, csumStart: 34, csumOffset: 16, gsoType: 1, gsoSize: 1448, hdrLen: 54 }),
        frame(4000, 2),
      ],
      [header(), frame(2000, 3)],
    ])
    n.harness.ring(RX).reap()
    expect(chains.map((chain) => chain.written)).toEqual([112, 1600, 1600, 812])
    expect(received(chains[1]!).head.getUint16(4, true)).toBe(1448)
    expect(n.device.counters).toMatchObject({ rxFrames: 2, rxDropped: 1 })
  })

  it("resets one queue at a time", async () => {
    const backend = recorder()
    const n = await nic({ backend })
    n.post([[2000]])
    const old = backend.session!.buffers(0)!
    expect(old.refill()).toBe(true)
    n.device.resetQueue(RX)
    n.device.resetQueue(TX)
    n.device.resetQueue(n.control)
    expect(old.count).toBe(0)
    expect(backend.session!.buffers(0)).toBeUndefined()
    expect(backend.session!.receive(0, frame())).toBe(true)
    expect(n.device.counters.rxDropped).toBe(1)
    // Enabled again, as a transport says.
    n.device.notify(RX)
    n.device.notify(TX)
    expect(backend.session!.buffers(0)).not.toBe(old)
    expect(backend.ready).toEqual([0])
    await n.send([[header(), frame()]])
    expect(backend.frames).toHaveLength(1)
  })

  it("bad-input #34: a storm of notifications and resets", async () => {
    const backend = recorder()
    const n = await nic({ backend })
    for (let round = 0; round < 100; round++) {
      n.post([[2000], [2000]])
      n.harness.ring(TX).add({ readable: [header(), frame()] })
      for (let i = 0; i < 20; i++) n.device.notify(i % 5)
      n.device.notify(0xffff)
      await n.harness.reset()
      n.device.notify(TX)
      n.harness.start()
    }
    await n.send([[header(), frame()]])
    expect(n.harness.needsReset).toEqual([])
    await n.device.close()
    await n.device.close()
    expect(backend.closes).toBe(1)
  })

  it("hands out its state and goes on with it elsewhere", async () => {
    const n = await nic({ backend: recorder(), queues: 2 })
    await n.command(0, 0, [0])
    await n.command(1, 1, macBytes("52:54:00:00:00:42"))
    await n.command(1, 0, [1, 0, 0, 0, 2, 0, 0, 0, 0, 7, 0, 0, 0, 0])
    await n.command(2, 0, [9, 0])
    await n.command(4, 0, [2, 0])
    const saved = structuredClone(n.device.state())
    const backend = recorder()
    const moved = await net({ backend, mac: GUEST_MAC, queues: 2 })
    moved.restore(saved)
    expect(moved.mac).toBe("52:54:00:00:00:42")
    expect(() => n.device.restore(saved)).toThrow(StateError)
    const { Nic } = await import("./helpers.js")
    const there = new Nic(moved)
    there.harness.start()
    expect(moved.state()).toEqual(saved)
    expect(backend.pairs).toBe(2)
    // The network has to learn where the guest is now.
    expect(moved.config[6]).toBe(3)
  })

  it("bad-input #31: refuses states that do not fit", async () => {
    const device = await net({ backend: nullBackend(), queues: 2 })
    const good = device.state()
    const { filter } = good
    for (const state of [
      null,
      7,
      {},
      { ...good, version: 2 },
      { ...good, maxQueuePairs: 3 },
      { ...good, queuePairs: 0 },
      { ...good, queuePairs: 3 },
      { ...good, mac: new Uint8Array(5) },
      { ...good, receiveOffloads: 128 },
      { ...good, filter: null },
      { ...good, filter: { ...filter, vlans: new Uint8Array(511) } },
      { ...good, filter: { ...filter, modes: { ...filter.modes, promisc: 1 } } },
      { ...good, filter: { ...filter, unicast: { entries: new Uint8Array(7), overflow: false } } },
      { ...good, filter: { ...filter, multicast: { entries: new Uint8Array(65 * 6), overflow: false } } },
    ]) {
      expect(() => device.restore(state)).toThrow(RestoreError)
    }
    expect(device.state()).toEqual(good)
  })
})
