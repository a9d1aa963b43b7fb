import { ConfigError, StateError } from "@virtkit/interface"
import { net } from "@virtkit/virtio-net"
import { type NetSwitch, netSwitch } from "@virtkit/virtio-net/switch"
import { describe, expect, it } from "vitest"
import { MacTable, macNumber } from "../src/backends/mac-table.js"
import { frame, header, macBytes, type Nic, nic, RX, received, TX, turn } from "./helpers.js"
import { NEEDS_CSUM, parseTcp, tcpFrame } from "./packets.js"

const macs = ["52:54:00:00:00:01", "52:54:00:00:00:02", "52:54:00:00:00:03", "52:54:00:00:00:04"]

/** A guest at each of the ports. */
async function guests(sw: NetSwitch, ports: Parameters<NetSwitch["port"]>[0][]) {
  const made: Nic[] = []
  for (const [i, options] of ports.entries()) {
    const n = await nic({ backend: sw.port(options), mac: macs[i]! })
    n.post(Array.from({ length: 8 }, () => [2000]))
    made.push(n)
  }
  return made
}

const from = (i: number, to: string, options: { seed?: number; vlan?: number } = {}) =>
  frame(60, options.seed ?? i, {
    from: macs[i]!,
    to,
    ...(options.vlan === undefined ? {} : { vlan: options.vlan }),
  })
const send = (n: Nic, bytes: Uint8Array) => n.send([[header(), bytes]])
const taken = (n: Nic) =>
  n.harness
    .ring(RX)
    .reap()
    .map((chain) => received(chain).bytes)
const everybody = "ff:ff:ff:ff:ff:ff"

describe("a switch", () => {
  it("floods what it does not know, and learns", async () => {
    const sw = netSwitch()
    const [a, b, c] = (await guests(sw, [{}, {}, {}])) as [Nic, Nic, Nic]
    await send(a, from(0, macs[1]!))
    expect([taken(a), taken(b), taken(c)].map((list) => list.length)).toEqual([0, 1, 1])
    await send(b, from(1, macs[0]!))
    expect([taken(a), taken(b), taken(c)].map((list) => list.length)).toEqual([1, 0, 0])
    await send(a, from(0, everybody))
    expect([taken(a), taken(b), taken(c)].map((list) => list.length)).toEqual([0, 1, 1])
    // To itself, as seen from the switch.
    await send(a, from(0, macs[0]!))
    expect([taken(a), taken(b), taken(c)].map((list) => list.length)).toEqual([0, 0, 0])
    expect(sw.counters).toMatchObject({ frames: 4, flooded: 2, dropped: 0 })
    await b.device.close()
    await send(a, from(0, macs[1]!))
    expect(taken(c)).toHaveLength(1)
  })

  it("keeps VLANs apart, and tags on trunks", async () => {
    const sw = netSwitch()
    const [ten, alsoTen, twenty, trunk] = (await guests(sw, [
      { vlan: 10 },
      { vlan: 10 },
      { vlan: 20 },
      { trunk: [10, 20] },
    ])) as [Nic, Nic, Nic, Nic]
    await send(ten, from(0, everybody))
    expect(taken(alsoTen)).toEqual([from(0, everybody)])
    expect(taken(twenty)).toEqual([])
    const tagged = from(0, everybody)
    const [seen] = taken(trunk)
    expect([...seen!.subarray(12, 16)]).toEqual([0x81, 0, 0, 10])
    expect(Uint8Array.from([...seen!.subarray(0, 12), ...seen!.subarray(16)])).toEqual(tagged)
    const answer = from(3, macs[0]!, { vlan: 10 })
    await send(trunk, answer)
    expect(taken(ten)).toEqual([Uint8Array.from([...answer.subarray(0, 12), ...answer.subarray(16)])])
    // The same address in another VLAN is somebody else.
    await send(trunk, from(3, macs[0]!, { vlan: 20 }))
    expect([taken(ten), taken(twenty)].map((list) => list.length)).toEqual([0, 1])
    // Not of this trunk; of its own VLAN, which is 1; tagged on a port without a trunk.
    await send(trunk, from(3, everybody, { vlan: 30 }))
    await send(trunk, from(3, everybody))
    await send(ten, from(0, everybody, { vlan: 20 }))
    await send(ten, from(0, everybody, { vlan: 10 }))
    expect([ten, alsoTen, twenty, trunk].flatMap(taken)).toEqual([])
  })

  it("passes checksums that are missing on, or fills them in for tags", async () => {
    const sw = netSwitch()
    const [a, b, trunk] = (await guests(sw, [{ vlan: 5 }, { vlan: 5 }, { trunk: true }])) as [Nic, Nic, Nic]
    const tcp = tcpFrame({ from: macs[0]!, to: everybody, payload: new Uint8Array(101).fill(7) })
    await a.send([[header(NEEDS_CSUM), tcp]])
    const [left] = b.harness.ring(RX).reap()
    expect(received(left!).head.getUint8(0)).toBe(1)
    expect(received(left!).bytes).toEqual(tcp)
    const [done] = trunk.harness.ring(RX).reap()
    expect(received(done!).head.getUint8(0)).toBe(0)
    const untagged = Uint8Array.from([
      ...received(done!).bytes.subarray(0, 12),
      ...received(done!).bytes.subarray(16),
    ])
    expect(parseTcp(untagged).tcpChecksumRight).toBe(true)
    const tagged = received(done!).bytes.slice()
    tagged.set(macBytes(macs[2]!), 6)
    // The other way: what a guest leaves open in a frame with a tag.
    const withTag = new Uint8Array(tcp.length + 4)
    withTag.set(tagged.subarray(0, 16))
    withTag.set(tcp.subarray(12), 16)
    await trunk.send([[header({ flags: 1, csumStart: 38, csumOffset: 16 }), withTag]])
    const [chain] = b.harness.ring(RX).reap()
    expect(received(chain!).head.getUint16(6, true)).toBe(34)
    expect(received(chain!).bytes.subarray(12)).toEqual(tcp.subarray(12))
  })

  it("keeps frames for a guest without room, up to a bound", async () => {
    const sw = netSwitch()
    const a = await nic({ backend: sw.port(), mac: macs[0]! })
    const b = await nic({ backend: sw.port(), mac: macs[1]! }, { queueSize: 64 })
    await send(b, from(1, everybody))
    const sent = Array.from({ length: 20 }, (_, i) => from(0, macs[1]!, { seed: i }))
    for (const bytes of sent) await send(a, bytes)
    b.post(Array.from({ length: 20 }, () => [2000]))
    expect(taken(b)).toEqual(sent)
    const big = frame(60_000, 1, { from: macs[0]!, to: macs[1]! })
    for (let i = 0; i < 20; i++) await a.send([[header(), big]])
    expect(b.device.counters.rxDropped).toBe(12)
    await b.harness.reset()
    b.harness.start()
    expect(b.post([[2000]])[0]!.written).toBeUndefined()
  })

  it("lets a program drop, change and inject frames at once", async () => {
    const sw = netSwitch()
    const [a, b] = (await guests(sw, [{ name: "a" }, {}])) as [Nic, Nic]
    const seen: string[] = []
    sw.filter = ({ from: port, vlan, bytes }) => {
      seen.push(`${port} ${vlan} ${bytes.length}`)
      if (bytes[59] === 1) return false
      if (bytes[59] === 2) return frame(70, 9, { to: macs[1]! })
      return true
    }
    for (const last of [0, 1, 2]) {
      const bytes = from(0, macs[1]!)
      bytes[59] = last
      await send(a, bytes)
    }
    const got = taken(b)
    expect(got).toHaveLength(2)
    expect(got[1]).toEqual(frame(70, 9, { to: macs[1]! }))
    expect(seen).toEqual(["a 1 60", "a 1 60", "a 1 60"])
    expect(sw.counters.dropped).toBe(1)
    sw.inject(frame(60, 1, { to: everybody }), { to: "a" })
    expect([taken(a), taken(b)].map((list) => list.length)).toEqual([1, 0])
    sw.inject(frame(60, 1, { to: everybody }))
    sw.inject(frame(60, 1, { to: everybody }), { vlan: 2 })
    expect([taken(a), taken(b)].map((list) => list.length)).toEqual([1, 1])
    expect(() => sw.inject(new Uint8Array(13))).toThrow(ConfigError)
    expect(() => sw.inject(frame(), { to: "nobody" })).toThrow(ConfigError)
    expect(() => sw.inject(frame(), { vlan: 0 })).toThrow(ConfigError)
  })

  it("hands frames out as an async iterable", async () => {
    const sw = netSwitch()
    const [a, b] = (await guests(sw, [{ name: "a" }, {}])) as [Nic, Nic]
    const frames = sw.intercept({ limit: 3 })
    expect(() => sw.intercept()).toThrow(StateError)
    const tcp = tcpFrame({ from: macs[0]!, to: macs[1]!, payload: new Uint8Array(20) })
    await a.send([[header(NEEDS_CSUM), tcp]])
    for (const seed of [1, 2, 3]) await send(a, from(0, macs[1]!, { seed }))
    expect(taken(b)).toEqual([])
    expect(sw.counters.dropped).toBe(1)
    let count = 0
    for await (const held of frames) {
      expect([held.from, held.vlan]).toEqual(["a", 1])
      if (count === 0) {
        expect(parseTcp(held.bytes).tcpChecksumRight).toBe(true)
        held.drop()
        held.pass()
      } else {
        held.pass(frame(80, 5, { to: macs[1]! }))
      }
      count++
      if (count === 2) break
    }
    // What still waited was passed on at the end of the loop.
    expect(taken(b).map((bytes) => bytes.length)).toEqual([80, 60])
    await send(a, from(0, macs[1]!))
    expect(taken(b)).toHaveLength(1)
    const next = sw.intercept().next()
    await send(a, from(0, macs[1]!))
    expect((await next).value.bytes).toEqual(from(0, macs[1]!))
    sw.close()
    await turn()
    expect([a, b].map((n) => n.device.linkUp)).toEqual([false, false])
    expect(() => sw.port()).toThrow(StateError)
  })

  it.each([{ vlan: 0 }, { vlan: 4095 }, { vlan: 1.5 }, { trunk: [0] }])(
    "refuses a port with %j",
    (options) => {
      expect(() => netSwitch().port(options)).toThrow(ConfigError)
    },
  )

  it("refuses a second port of a name, and queues", async () => {
    const sw = netSwitch()
    const port = sw.port({ name: "x" })
    expect(() => sw.port({ name: "x" })).toThrow(ConfigError)
    await expect(net({ backend: port, queues: 2 })).rejects.toThrow(ConfigError)
    expect(() => sw.port({ name: "x" })).not.toThrow()
  })

  it("bad-input #12: a guest that uses every address fills no memory", async () => {
    const table = new MacTable<string>()
    for (let i = 0; i < 10_000; i++) table.learn(i % 5, i, "a", 1000)
    expect(table.size).toBe(4096)
    expect(table.find(1, 1, 1000)).toBe("a")
    expect(table.find(2, 1, 1000)).toBeUndefined()
    expect(table.find(1, 1, 400_000)).toBeUndefined()
    table.learn(1, 99_999, "b", 400_000)
    expect(table.size).toBe(1)
    table.learn(1, 99_999, "c", 400_001)
    expect(table.find(1, 99_999, 400_002)).toBe("c")
    table.forget("c")
    expect(table.size).toBe(0)
    expect(macNumber(macBytes("ff:fe:fd:fc:fb:fa"), 0)).toBe(0xfffefdfcfbfa)
    const sw = netSwitch()
    const [a] = (await guests(sw, [{}, {}])) as [Nic, Nic]
    for (let i = 0; i < 50; i++) {
      await a.send(
        Array.from({ length: 8 }, (_, k) => [
          header(),
          frame(60, 1, { from: `02:00:00:00:${i + 10}:0${k}` }),
        ]),
        TX,
      )
    }
  })
})
