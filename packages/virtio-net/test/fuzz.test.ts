import { TestMemory } from "@virtkit/testkit"
import { loopbackBackend } from "@virtkit/virtio-net"
import fc from "fast-check"
import { expect, it } from "vitest"
import { F, frame, header, nic, RX, received, TX, turn } from "./helpers.js"
import { MEMORY, misbehave, randomSteps, runsOrSeconds, STORM_TIMEOUT } from "./random-chains.js"

it(
  "random chains, headers and commands: the device lives, and serves again after a reset",
  async () => {
    await fc.assert(
      fc.asyncProperty(
        randomSteps,
        fc.uint8Array({ minLength: 4096, maxLength: 4096 }),
        fc.boolean(),
        async (steps, bytes, mergeable) => {
          const memory = new TestMemory({ regions: [{ guestAddress: 0, size: MEMORY }] })
          for (let at = 0; at < MEMORY; at += bytes.length) memory.write(at, bytes)
          const features =
            F.VERSION_1 | F.INDIRECT | F.CTRL_VQ | F.CSUM | F.GUEST_CSUM | F.HOST_TSO4 | F.GUEST_TSO4
          const n = await nic(
            { backend: loopbackBackend() },
            { memory, features: mergeable ? features | F.MRG_RXBUF : features },
          )
          await misbehave(n, steps, turn)
          await turn()
          const { counters } = n.device
          expect(
            counters.rxFrames +
              counters.rxDropped +
              counters.rxErrors +
              counters.rxTooLong +
              counters.rxFiltered,
          ).toBe(counters.txFrames)
          await n.harness.reset()
          n.harness.start()
          const [chain] = n.post([[2000]])
          await n.send([[header(), frame(99, 4)]], TX)
          n.harness.ring(RX).reap()
          expect(received(chain!).bytes).toEqual(frame(99, 4))
        },
      ),
      runsOrSeconds(150),
    )
  },
  STORM_TIMEOUT,
)

it("random but well-formed chains: every byte arrives", async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.integer({ min: 1, max: 400 }), { minLength: 1, maxLength: 8 }),
      fc.array(fc.array(fc.integer({ min: 1, max: 900 }), { minLength: 1, maxLength: 4 }), {
        minLength: 1,
        maxLength: 12,
      }),
      fc.integer({ min: 14, max: 2500 }),
      async (cuts, buffers, length) => {
        const n = await nic({ backend: loopbackBackend() })
        const fits = buffers.map((sizes) => (sizes.reduce((a, b) => a + b) < 12 ? [...sizes, 12] : sizes))
        const chains = fits.map((writable) => n.harness.ring(RX).add({ writable, layout: "indirect" }))
        n.harness.kick(RX)
        const whole = Uint8Array.from([...header(), ...frame(length, 5)])
        const pieces: Uint8Array[] = []
        let at = 0
        for (const cut of cuts) {
          pieces.push(whole.subarray(at, at + cut))
          at += cut
        }
        pieces.push(whole.subarray(at))
        await n.send([pieces.filter((piece) => piece.length > 0)])
        n.harness.ring(RX).reap()
        const used = chains.filter((chain) => chain.written !== undefined)
        const capacity = fits.flat().reduce((a, b) => a + b)
        if (capacity < whole.length) {
          expect(used).toEqual([])
          expect(n.device.counters.rxDropped).toBe(1)
          return
        }
        const all = Buffer.concat(used.map((chain) => chain.data!.subarray(0, chain.written)))
        expect(new Uint8Array(all.subarray(12))).toEqual(frame(length, 5))
        expect(all.readUInt16LE(10)).toBe(used.length)
        expect(used.length).toBe(chains.indexOf(used.at(-1)!) + 1)
      },
    ),
    { numRuns: 100 },
  )
})
