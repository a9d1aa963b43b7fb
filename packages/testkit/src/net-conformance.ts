import type { VirtioDevice } from "@virtkit/interface"
import type { DeviceBench, DeviceBenchOptions } from "./conformance/device-bench.js"
import { cut, KINDS, withStarted } from "./conformance/device-types.js"
import { type TestRunner, turn } from "./conformance/fixture.js"
import { FEATURE } from "./spec.js"
import { until } from "./wait.js"

/** A network device and the other end of its wire. */
export interface NetUnderTest {
  readonly device: VirtioDevice
  /** Frames that the guest sent, without headers. */
  readonly sent: readonly Uint8Array[]
  /** A frame for the guest. */
  deliver(frame: Uint8Array): void
}

export interface NetConformanceOptions extends DeviceBenchOptions {
  /** A device with this MAC address and one pair of queues. */
  setup(mac: Uint8Array): NetUnderTest | Promise<NetUnderTest>
}

// 5.1.2, 5.1.3, 5.1.6.
const RECEIVE = 0
const TRANSMIT = 1
const CONTROL = 2
const HEADER_BYTES = 12
const F_MAC = 1n << 5n
const F_MRG_RXBUF = 1n << 15n
const F_CTRL_VQ = 1n << 17n
const CTRL_ERR = 1

const MAC = Uint8Array.of(0x52, 0x54, 0, 0xaa, 0xbb, 0xcc)

/** What every network device does (5.1), with both kinds of ring. */
export function netConformance(runner: TestRunner, options: NetConformanceOptions): void {
  const { describe, it, expect } = runner
  const frame = (length: number, seed: number): Uint8Array => {
    const bytes = Uint8Array.from({ length }, (_, index) => (index * 5 + seed) & 0xff)
    bytes.set(MAC, 0)
    bytes.set([0x52, 0x54, 0, 0, 0, 1, 0x88, 0xb5], 6)
    return bytes
  }
  const same = (one: Uint8Array | undefined, other: Uint8Array): boolean => {
    return one !== undefined && Buffer.from(one).equals(other)
  }
  const header = new Uint8Array(HEADER_BYTES)

  for (const kind of KINDS) {
    const run = async (body: (bench: DeviceBench, net: NetUnderTest) => Promise<void>) => {
      const made = await options.setup(MAC)
      await withStarted(runner, options, made.device, kind, (bench) => body(bench, made))
    }
    /** Starts without merged buffers. */
    const unmerged = async ({ driver }: DeviceBench): Promise<void> => {
      await driver.start({ features: driver.wantedFeatures & ~F_MRG_RXBUF, queueSize: 64 })
    }

    describe(`network device conformance, ${kind} rings (5.1)`, () => {
      it("5.1.4: its configuration has the MAC address", () => {
        return run(async ({ device, driver }) => {
          expect([device.deviceType, driver.offeredFeatures() & F_MAC]).toEqual([1, F_MAC])
          expect([...driver.readConfig(0, 6)]).toEqual([...MAC])
        })
      })

      it("bad-input #21 (5.1.6.2): frames go out without their header, in any framing and in their order", () => {
        return run(async ({ driver }, { sent }) => {
          const frames: Uint8Array[] = []
          for (const layout of ["direct", "indirect", "mixed"] as const) {
            for (const framing of [[12], [12, 14], [1, 11], [6, 20, 100], [200]]) {
              const bytes = frame(60 + 100 * frames.length, frames.length)
              const readable = cut(Uint8Array.from([...header, ...bytes]), ...framing)
              const chain = await driver.request(TRANSMIT, { readable, layout })
              expect(chain.written).toBe(0)
              frames.push(bytes)
            }
          }
          await until(() => sent.length >= frames.length, "frames of the guest")
          expect(frames.map((bytes, index) => same(sent[index], bytes))).toEqual(frames.map(() => true))
        })
      })

      it("bad-input #28 (5.1.6.2): a frame shorter than its headers is dropped, and the queue goes on", () => {
        return run(async ({ driver }, { sent }) => {
          for (const length of [1, 11, 12, 13, 25]) {
            const chain = await driver.request(TRANSMIT, { readable: [new Uint8Array(length)] })
            expect(chain.written).toBe(0)
          }
          expect((await driver.request(TRANSMIT, { writable: [100] })).written).toBe(0)
          const good = frame(64, 1)
          await driver.request(TRANSMIT, { readable: [header, good] })
          await until(() => sent.length > 0, "a frame of the guest")
          expect([sent.length, same(sent[0], good)]).toEqual([1, true])
        })
      })

      it("5.1.6.4: frames come in behind a header, in any framing", () => {
        return run(async (bench, { deliver }) => {
          await unmerged(bench)
          const { driver } = bench
          for (const room of [[1600], [12, 1600], [1, 11, 1, 1600], [100, 100, 1600]]) {
            const ring = driver.ring(RECEIVE)
            const chain = ring.add({ writable: room, layout: "indirect" })
            driver.kick(RECEIVE)
            const bytes = frame(300 + room.length, room.length)
            deliver(bytes)
            await until(() => ring.reap().length > 0, "a frame for the guest")
            expect(chain.written).toBe(HEADER_BYTES + bytes.length)
            expect(same(chain.data?.subarray(HEADER_BYTES, chain.written), bytes)).toBe(true)
            // flags and gso_type; num_buffers is 1 (5.1.6.4.1).
            expect([...(chain.data ?? [])].slice(0, 2)).toEqual([0, 0])
            expect([chain.data?.[10], chain.data?.[11]]).toEqual([1, 0])
          }
        })
      })

      it("5.1.6.4: a frame over several buffers, when they may be merged", () => {
        return run(async ({ driver }, { deliver }) => {
          if ((driver.features & F_MRG_RXBUF) === 0n) return
          const ring = driver.ring(RECEIVE)
          const chains = [100, 100, 100, 1600].map((room) => ring.add({ writable: [room] }))
          driver.kick(RECEIVE)
          const bytes = frame(250, 3)
          deliver(bytes)
          await until(() => ring.reap().length >= 0 && chains[2]?.written !== undefined, "a merged frame")
          const got = chains.flatMap(({ data, written = 0 }) => [...(data?.subarray(0, written) ?? [])])
          expect([got[10], got[11]]).toEqual([3, 0])
          expect(same(Uint8Array.from(got.slice(HEADER_BYTES)), bytes)).toBe(true)
          expect(chains[3]?.written).toBe(undefined)
        })
      })

      it("bad-input #28 (5.1.6.4): a frame that its buffer has no room for is lost, and nothing is written behind it", () => {
        return run(async (bench, { deliver }) => {
          await unmerged(bench)
          const { driver, memory } = bench
          const ring = driver.ring(RECEIVE)
          const small = ring.add({ writable: [HEADER_BYTES + 60] })
          const behind = (small.buffers[0]?.address ?? 0) + HEADER_BYTES + 60
          driver.kick(RECEIVE)
          memory.writeUint8(behind, 0x77)
          deliver(frame(500, 1))
          for (let turns = 0; turns < 3; turns++) await turn()
          ring.reap()
          expect([(small.written ?? 0) <= HEADER_BYTES + 60, memory.readUint8(behind)]).toEqual([true, 0x77])
          const bytes = frame(60, 2)
          ring.add({ writable: [1600] })
          driver.kick(RECEIVE)
          deliver(bytes)
          const good = (): boolean => {
            return ring.reap().some(({ data, written }) => same(data?.subarray(HEADER_BYTES, written), bytes))
          }
          await until(good, "the frame after it")
        })
      })

      it("5.1.6.5: commands that do not exist are refused", () => {
        return run(async ({ driver }) => {
          if ((driver.features & F_CTRL_VQ) === 0n) return
          for (const readable of [
            [Uint8Array.of(0x77, 0)],
            [Uint8Array.of(0, 0x77), Uint8Array.of(1)],
            [Uint8Array.of(0x77)],
          ]) {
            const { data, written } = await driver.request(CONTROL, { readable, writable: [1] })
            expect([written, data?.[0]]).toEqual([1, CTRL_ERR])
          }
          expect((await driver.request(CONTROL, { readable: [Uint8Array.of(0, 0, 1)] })).written).toBe(0)
        })
      })

      it("5.1.5: it works with no feature but its own address", () => {
        return run(async (bench, { sent, deliver }) => {
          const { driver } = bench
          const packed = kind === "packed" ? FEATURE.RING_PACKED : 0n
          await driver.start({ features: FEATURE.VERSION_1 | F_MAC | packed, queueSize: 64 })
          const bytes = frame(90, 4)
          await driver.request(TRANSMIT, { readable: [header, bytes] })
          await until(() => sent.length > 0, "a frame of the guest")
          const ring = driver.ring(RECEIVE)
          const chain = ring.add({ writable: [1600] })
          driver.kick(RECEIVE)
          deliver(bytes)
          await until(() => ring.reap().length > 0, "a frame for the guest")
          expect([
            same(sent[0], bytes),
            same(chain.data?.subarray(HEADER_BYTES, chain.written), bytes),
          ]).toEqual([true, true])
        })
      })
    })
  }
}
