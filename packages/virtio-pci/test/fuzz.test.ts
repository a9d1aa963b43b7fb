import type { AccessSize } from "@virtkit/interface"
import { VIRTIO_PCI_COMMON as COMMON, STATUS } from "@virtkit/testkit"
import fc from "fast-check"
import { describe, expect, it } from "vitest"
import { setup } from "./setup.js"

const BAR = 4

/** Writes that get somewhere: registers in their width with values that mean something. */
const sensible = fc.record({
  kind: fc.constant("write"),
  offset: fc.constantFrom(...Object.values(COMMON)),
  size: fc.constantFrom<AccessSize>(1, 2, 2, 4),
  value: fc.constantFrom(0, 1, 2, 3, 4, 8, 11, 15, 16, 64, 128, 0x1000, 0x2000, 0x3000, 0xffff),
})
const access = fc.oneof(
  { weight: 3, arbitrary: sensible },
  {
    weight: 2,
    arbitrary: fc.record({
      kind: fc.constantFrom("write", "read", "memory", "turn", "master"),
      offset: fc.oneof(
        fc.integer({ min: 0, max: 0x110 }),
        fc.integer({ min: 0xff0, max: 0x1010 }),
        fc.integer({ min: 0x1ff0, max: 0x2010 }),
        fc.integer({ min: 0, max: 0x3fff }),
      ),
      size: fc.constantFrom<AccessSize>(1, 2, 4),
      value: fc.integer({ min: 0, max: 0xffff_ffff }),
    }),
  },
)

/** What a status may be, DEVICE_NEEDS_RESET and FAILED aside. */
const STEPS = new Set([0, 1, 3, 11, 15])

describe("bad-input #5: any access of any width anywhere in the BAR, in any order", () => {
  for (const [name, options] of [
    ["MSI-X, with a register page", { msix: true, pages: true }],
    ["INTx, every read an exit", { msix: false, pages: false }],
  ] as const) {
    it(`neither throws nor leaves the legal states: ${name}`, async () => {
      await fc.assert(
        fc.asyncProperty(fc.boolean(), fc.array(access, { maxLength: 60 }), async (start, accesses) => {
          const { device, driver, transport, slot, memory, errors } = setup({ ...options, queueReset: true })
          if (start) await driver.start({ queueSize: 4, features: -1n })
          for (const { kind, offset, size, value } of accesses) {
            if (kind === "write") await slot.writeBar(BAR, offset, size, value)
            else if (kind === "memory")
              memory.writeUint32((value & 0xfff) + driver.rings.length * 4096, value)
            else if (kind === "turn") await new Promise((resolve) => setImmediate(resolve))
            else if (kind === "master") slot.busMaster = value % 2 === 0
            const read = slot.readBar(BAR, offset, size)
            expect(Number.isInteger(read) && read >= 0 && read < 2 ** (8 * size)).toBe(true)
            expect(STEPS.has(transport.status & ~(STATUS.DEVICE_NEEDS_RESET | STATUS.FAILED))).toBe(true)
          }
          expect(errors).toEqual([])
          expect(activationsAndResetsAlternate(device.calls)).toBe(true)
          // Whatever happened, a reset heals it.
          await slot.reset()
          slot.busMaster = true
          slot.msixEnabled = options.msix
          await driver.start()
          const chain = await driver.request(1, { readable: [Uint8Array.of(1)], writable: [1] })
          expect([chain.written, driver.handleInterrupt().usedBuffer]).toEqual([1, true])
        }),
        { numRuns: 200, seed: 1 },
      )
    })
  }
})

function activationsAndResetsAlternate(calls: readonly string[]): boolean {
  let active = false
  for (const call of calls) {
    if (call === "activate" && active) return false
    if ((call.startsWith("notify") || call.startsWith("resetQueue")) && !active) return false
    if (call === "activate") active = true
    if (call === "reset") active = false
  }
  return true
}
