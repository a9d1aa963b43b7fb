import { Worker } from "node:worker_threads"
import type { Chain } from "@virtkit/interface"
import { PackedRingDriver, SplitRingDriver, TestAllocator, TestMemory } from "@virtkit/testkit"
import { drainQueue } from "@virtkit/virtqueue"
import { describe, expect, it } from "vitest"
import { deviceSide, RINGS } from "./setup.js"

/** Chains sent: the ring indexes wrap once, a packed ring goes through thousands of laps. */
const CHAINS = 70_000
const DATA = 0x4000
const [KICKS, INTERRUPTS] = [0, 1]

/** `Atomics.waitAsync` is in Node.js since version 16, but not in the ES2023 types. */
type WaitAsync = (array: Int32Array, index: number, value: number) => { value: Promise<string> | string }
const waitAsync = (Atomics as unknown as { waitAsync: WaitAsync }).waitAsync

describe("a driver on another thread", () => {
  const cases = RINGS.flatMap(({ ring, packed }) =>
    [false, true].map((eventIdx) => ({ ring, packed, eventIdx })),
  )
  it.each(cases)(
    "gets every chain back, and neither side sleeps for ever, $ring ring, EVENT_IDX $eventIdx",
    async ({ packed, eventIdx }) => {
      const memory = new TestMemory({ regions: [{ guestAddress: 0, size: 0x10000 }], shared: true })
      // Chains of two descriptors lie across the end of an odd packed ring.
      const size = packed ? 15 : 16
      const options = { memory, allocator: new TestAllocator(0x1000, 0x2000), size, eventIdx }
      const ring = packed ? new PackedRingDriver(options) : new SplitRingDriver(options)
      const signals = new Int32Array(new SharedArrayBuffer(8))
      const { queue } = deviceSide(ring, memory, {
        packed,
        eventIdx,
        onInterrupt: () => {
          Atomics.add(signals, INTERRUPTS, 1)
          Atomics.notify(signals, INTERRUPTS)
        },
      })
      queue.enableNotification()
      const { desc, avail, used } = ring
      const { buffer } = memory.regions[0]!
      const workerData = {
        packed,
        buffer,
        size,
        desc,
        avail,
        used,
        data: DATA,
        eventIdx,
        chains: CHAINS,
        signals,
      }
      const worker = new Worker(new URL("./driver-thread.mjs", import.meta.url), { workerData })
      worker.unref()
      const done = new Promise<unknown>((resolve, reject) => {
        worker.once("message", resolve)
        worker.once("error", reject)
      })
      let finished = false
      void done.finally(() => {
        finished = true
        Atomics.add(signals, KICKS, 1)
        Atomics.notify(signals, KICKS)
      })

      const number = new Uint8Array(4)
      const view = new DataView(number.buffer)
      const answer = (chain: Chain): void => {
        chain.copyOut(0, number)
        view.setUint32(0, view.getUint32(0, true) + 1, true)
        queue.push(chain, chain.copyIn(0, number))
        // One by one, so that the driver is awake and adds more while this side goes to sleep.
        queue.flush()
      }
      for (let kicks = 0; !finished; ) {
        await waitAsync(signals, KICKS, kicks).value
        kicks = Atomics.load(signals, KICKS)
        while (drainQueue(queue, answer) === "limit");
      }
      expect(await done).toEqual({ received: CHAINS, wrong: 0 })
      expect([queue.broken, queue.inFlight, queue.counters.malformed]).toEqual([false, 0, 0])
      expect(queue.counters.chains).toBe(CHAINS)
      await worker.terminate()
    },
  )
})
