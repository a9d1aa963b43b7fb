import type { VirtioDevice } from "@virtkit/interface"
import type { DeviceBench, DeviceBenchOptions } from "./conformance/device-bench.js"
import { KINDS, withStarted } from "./conformance/device-types.js"
import type { TestRunner } from "./conformance/fixture.js"
import { until } from "./wait.js"

/** A console and the host's end of its port 0. */
export interface ConsoleUnderTest {
  readonly device: VirtioDevice
  /** All that the guest wrote so far. */
  output(): Uint8Array
  /** Types for the guest. */
  input(bytes: Uint8Array): void
}

export interface ConsoleConformanceOptions extends DeviceBenchOptions {
  setup(): ConsoleUnderTest | Promise<ConsoleUnderTest>
}

// 5.3.2.
const RECEIVE = 0
const TRANSMIT = 1

/** What port 0 of every console does (5.3), with both kinds of ring. */
export function consoleConformance(runner: TestRunner, options: ConsoleConformanceOptions): void {
  const { describe, it, expect } = runner
  const text = (length: number, seed: number): Uint8Array => {
    return Uint8Array.from({ length }, (_, index) => 32 + ((index * 7 + seed) % 90))
  }
  for (const kind of KINDS) {
    const run = async (body: (bench: DeviceBench, console: ConsoleUnderTest) => Promise<void>) => {
      const made = await options.setup()
      await withStarted(runner, options, made.device, kind, (bench) => body(bench, made))
    }
    describe(`console conformance, ${kind} rings (5.3)`, () => {
      it("5.3.1: it is a console with two queues at least", () => {
        return run(async ({ device }) => {
          expect([device.deviceType, device.queueMaxSizes.length >= 2]).toEqual([3, true])
        })
      })

      it("bad-input #21 (5.3.6): what the guest writes arrives in its order, in any framing", () => {
        return run(async ({ driver }, { output }) => {
          const sent: number[] = []
          for (const layout of ["direct", "indirect", "mixed"] as const) {
            for (const lengths of [[1], [5, 1, 100], [3000]]) {
              const readable = lengths.map((length) => text(length, sent.length))
              const chain = await driver.request(TRANSMIT, { readable, layout })
              expect(chain.written).toBe(0)
              sent.push(...readable.flatMap((piece) => [...piece]))
            }
          }
          await until(() => output().length >= sent.length, "output")
          expect(Buffer.from(output()).equals(Uint8Array.from(sent))).toBe(true)
        })
      })

      it("5.3.6.2: what is typed fills the guest's buffers in their order, as far as it goes", () => {
        return run(async ({ driver }, { input }) => {
          const ring = driver.ring(RECEIVE)
          const chains = [4, 4, 16].map((room) => ring.add({ writable: [1, room - 1] }))
          driver.kick(RECEIVE)
          const typed = text(10, 3)
          input(typed)
          const got = (): number[] =>
            chains.flatMap(({ data, written = 0 }) => [...(data?.subarray(0, written) ?? [])])
          await until(() => ring.reap().length >= 0 && got().length >= 10, "input")
          expect(got()).toEqual([...typed])
        })
      })

      it("5.3.6: what is typed before there are buffers waits for them", () => {
        return run(async ({ driver }, { input }) => {
          const typed = text(5, 9)
          input(typed)
          const { data, written } = await driver.request(RECEIVE, { writable: [64] })
          expect([written, ...(data?.subarray(0, 5) ?? [])]).toEqual([5, ...typed])
        })
      })

      it("bad-input #33 (5.3.6): a flood of typing is bounded, and nothing that was taken is lost or doubled", () => {
        return run(async ({ driver }, { input }) => {
          const typed = text(4096, 1)
          for (let at = 0; at < typed.length; at += 64) input(typed.subarray(at, at + 64))
          const got: number[] = []
          while (got.length < typed.length) {
            const { data, written = 0 } = await driver.request(RECEIVE, { writable: [200] })
            expect(written > 0 && written <= 200).toBe(true)
            got.push(...(data?.subarray(0, written) ?? []))
          }
          expect(Buffer.from(typed).equals(Uint8Array.from(got))).toBe(true)
        })
      })

      it("bad-input #20 (2.7.8.2, 2.8.9): writable buffers to write from, and readable ones to read into, go back", () => {
        return run(async ({ driver }, { output }) => {
          expect((await driver.request(TRANSMIT, { writable: [16] })).written).toBe(0)
          await driver.request(TRANSMIT, { readable: [text(3, 0)], writable: [16] })
          await until(() => output().length >= 3, "output")
          expect([...output()]).toEqual([...text(3, 0)])
        })
      })
    })
  }
}
