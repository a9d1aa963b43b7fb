import type { VirtioDevice } from "@virtkit/interface"
import type { DeviceBench, DeviceBenchOptions } from "./conformance/device-bench.js"
import { cut, KINDS, withStarted } from "./conformance/device-types.js"
import type { TestRunner } from "./conformance/fixture.js"
import type { ChainLayout } from "./ring-driver.js"

export interface BlkConformanceOptions extends DeviceBenchOptions {
  /** A disk with this content, whose length is a multiple of 512 bytes. Its identification string is "virtkit". */
  setup(image: Uint8Array, options: { readonly: boolean }): VirtioDevice | Promise<VirtioDevice>
}

// 5.2.6.
const IN = 0
const OUT = 1
const FLUSH = 4
const GET_ID = 8
const OK = 0
const IOERR = 1
const UNSUPP = 2

const SECTORS = 64
const BYTES = SECTORS * 512

interface Answer {
  readonly status: number | undefined
  readonly written: number | undefined
  readonly data: Uint8Array
}

/** What every block device does (5.2), with both kinds of ring. */
export function blkConformance(runner: TestRunner, options: BlkConformanceOptions): void {
  const { describe, it, expect } = runner
  const image = Uint8Array.from({ length: BYTES }, (_, index) => (index * 7 + (index >> 9)) & 0xff)
  const sector = (index: number, count = 1): number[] => [
    ...image.subarray(512 * index, 512 * (index + count)),
  ]

  for (const kind of KINDS) {
    const run = async (body: (bench: DeviceBench) => Promise<void>, readonly = false): Promise<void> => {
      const device = await options.setup(image.slice(), { readonly })
      await withStarted(runner, options, device, kind, body)
    }
    const refuses = async (bench: DeviceBench, status: number, request: Request): Promise<void> => {
      const answer = await ask(bench, request)
      expect([answer.status, [...answer.data].every((byte) => byte === 0xee)]).toEqual([status, true])
    }

    describe(`block device conformance, ${kind} rings (5.2)`, () => {
      it("5.2.4: its capacity is in sectors of 512 bytes", () => {
        return run(async ({ device, driver }) => {
          expect([device.deviceType, driver.readConfigAt(0, 4), driver.readConfigAt(4, 4)]).toEqual([
            2, 64, 0,
          ])
        })
      })

      it("5.2.6: reads", () => {
        return run(async (bench) => {
          for (const layout of ["direct", "indirect", "mixed"] as const) {
            for (const [at, count] of [
              [0, 1],
              [5, 3],
              [SECTORS - 1, 1],
              [0, SECTORS],
            ] as const) {
              const answer = await ask(bench, { type: IN, sector: at, room: [512 * count], layout })
              expect([answer.status, answer.written, ...answer.data]).toEqual([
                OK,
                512 * count + 1,
                ...sector(at, count),
              ])
            }
          }
        })
      })

      it("5.2.6: writes, and nothing beside them", () => {
        return run(async (bench) => {
          const data = new Uint8Array(1024).fill(0x5a)
          expect(await status(bench, { type: OUT, sector: 9, out: [data] })).toBe(OK)
          const { data: now } = await ask(bench, { type: IN, sector: 8, room: [2048] })
          expect([...now]).toEqual([...sector(8), ...data, ...sector(11)])
        })
      })

      it("bad-input #21 (2.7.4.1, 5.2.6.1): header, data and status in any framing", () => {
        return run(async (bench) => {
          for (const framing of [[1], [15], [16], [17], [8, 8], [4, 4, 8, 100], [16, 511]]) {
            const data = Uint8Array.from({ length: 1024 }, (_, index) => (index + framing.length) & 0xff)
            const whole = Uint8Array.from([...header(OUT, 3), ...data])
            const chain = await bench.driver.request(0, { readable: cut(whole, ...framing), writable: [1] })
            expect([chain.written, chain.data?.[0]]).toEqual([1, OK])
            // The status is the last byte, wherever the data ends.
            const read = await bench.driver.request(0, {
              readable: cut(header(IN, 3), ...framing.filter((length) => length < 16)),
              writable: [1, 510, 513, 1],
              layout: "indirect",
            })
            expect([read.written, ...(read.data ?? [])]).toEqual([1025, ...data, OK])
          }
        })
      })

      it("bad-input #23 (5.2.6.2): requests beyond the end of the disk fail with IOERR and do nothing", () => {
        return run(async (bench) => {
          for (const [at, count] of [
            [SECTORS, 1],
            [SECTORS - 1, 2],
            [0, SECTORS + 1],
            [2n ** 32n, 1],
            [2n ** 55n, 1],
            [2n ** 63n, 1],
            [2n ** 64n - 1n, 1],
            [2n ** 64n - 1n, 2],
          ] as const) {
            await refuses(bench, IOERR, { type: IN, sector: at, room: [512 * count] })
            await refuses(bench, IOERR, { type: OUT, sector: at, out: [new Uint8Array(512 * count)] })
          }
          const { data } = await ask(bench, { type: IN, sector: 0, room: [BYTES] })
          expect(Buffer.from(data).equals(image)).toBe(true)
        })
      })

      it("5.2.6.2: data that is no whole number of sectors fails with IOERR", () => {
        return run(async (bench) => {
          for (const length of [1, 511, 513, 1000]) {
            await refuses(bench, IOERR, { type: IN, sector: 0, room: [length] })
            await refuses(bench, IOERR, { type: OUT, sector: 0, out: [new Uint8Array(length)] })
          }
          const { data } = await ask(bench, { type: IN, sector: 0, room: [1024] })
          expect([...data]).toEqual(sector(0, 2))
        })
      })

      it("bad-input #24 (5.2.6.2): writes to a read-only disk fail with IOERR", () => {
        return run(async (bench) => {
          expect(bench.driver.offeredFeatures() & (1n << 5n)).toBe(1n << 5n)
          await refuses(bench, IOERR, { type: OUT, sector: 0, out: [new Uint8Array(512)] })
          const { data } = await ask(bench, { type: IN, sector: 0, room: [512] })
          expect([...data]).toEqual(sector(0))
        }, true)
      })

      it("bad-input #24 (5.2.5.2, 5.2.6.2): they do so though the driver did not accept VIRTIO_BLK_F_RO", () => {
        return run(async (bench) => {
          await bench.driver.start({ features: bench.driver.wantedFeatures & ~(1n << 5n) })
          await refuses(bench, IOERR, { type: OUT, sector: 0, out: [new Uint8Array(512)] })
        }, true)
      })

      it("5.2.6: flushes", () => {
        return run(async (bench) => {
          expect(await status(bench, { type: FLUSH, sector: 0 })).toBe(OK)
        })
      })

      it("5.2.6: its identification string", () => {
        return run(async (bench) => {
          const answer = await ask(bench, { type: GET_ID, sector: 0, room: [20] })
          const text = Buffer.from(answer.data).toString().replaceAll("\0", "")
          expect([answer.status, text]).toEqual([OK, "virtkit"])
        })
      })

      it("5.2.6: requests that do not exist are UNSUPP", () => {
        return run(async (bench) => {
          for (const type of [2, 3, 5, 99, 0xffff_ffff]) {
            await refuses(bench, UNSUPP, { type, sector: 0, room: [512] })
          }
        })
      })

      it("bad-input #20 (2.7.8.2, 2.8.9): requests without header or status go back, and the queue goes on", () => {
        return run(async (bench) => {
          const { driver } = bench
          for (const request of [
            { writable: [1] },
            { readable: [new Uint8Array(15)], writable: [1] },
            { readable: [header(IN, 0)] },
            { readable: [header(IN, 0)], writable: [0] },
          ]) {
            const chain = await driver.request(0, request)
            expect((chain.written ?? 2) <= 1).toBe(true)
          }
          const answer = await ask(bench, { type: IN, sector: 1, room: [512] })
          expect([answer.status, ...answer.data]).toEqual([OK, ...sector(1)])
        })
      })

      it("bad-input #17 (2.7.6, 2.8.1): many requests at once, each with its own data", () => {
        return run(async ({ driver }) => {
          const ring = driver.ring(0)
          const chains = Array.from({ length: 20 }, (_, index) => {
            return ring.add({ readable: [header(IN, index)], writable: [512, 1], layout: "indirect" })
          })
          driver.kick(0)
          await driver.request(0, { readable: [header(FLUSH, 0)], writable: [1] })
          for (let waits = 0; chains.some(({ written }) => written === undefined) && waits < 1000; waits++) {
            await new Promise((resolve) => setImmediate(resolve))
            ring.reap()
          }
          for (const [index, chain] of chains.entries()) {
            expect([...(chain.data ?? [])]).toEqual([...sector(index), OK])
          }
        })
      })
    })
  }
}

interface Request {
  readonly type: number
  readonly sector: number | bigint
  readonly out?: readonly Uint8Array[]
  readonly room?: readonly number[]
  readonly layout?: ChainLayout
}

/** 5.2.6: struct virtio_blk_req up to its data. */
function header(type: number, sector: number | bigint): Uint8Array {
  const bytes = new Uint8Array(16)
  const view = new DataView(bytes.buffer)
  view.setUint32(0, type, true)
  view.setBigUint64(8, BigInt(sector), true)
  return bytes
}

async function ask({ driver }: DeviceBench, request: Request): Promise<Answer> {
  const { written, data } = await driver.request(0, {
    readable: [header(request.type, request.sector), ...(request.out ?? [])],
    writable: [...(request.room ?? []), 1],
    layout: request.layout ?? "indirect",
  })
  return { written, status: data?.at(-1), data: data?.subarray(0, -1) ?? new Uint8Array(0) }
}

async function status(bench: DeviceBench, request: Request): Promise<number | undefined> {
  return (await ask(bench, request)).status
}
