import type { AccessSize } from "@virtkit/interface"
import { MMIO, STATUS } from "@virtkit/testkit"
import fc from "fast-check"
import { describe, expect, it } from "vitest"
import { setup } from "./setup.js"

const registers = Object.values(MMIO)

const value = fc.oneof(
  fc.constantFrom(0, 1, 2, 3, 4, 8, 11, 15, 16, 64, 128, 0x1000, 0x2000, 0x3000, 0xffff_ffff),
  fc.integer({ min: 0, max: 0xffff_ffff }),
)
const access = fc.record({
  kind: fc.constantFrom("write", "write", "write", "read", "memory", "turn"),
  offset: fc.oneof(
    { weight: 5, arbitrary: fc.constantFrom(...registers) },
    fc.integer({ min: 0, max: 0xffc }),
  ),
  size: fc.oneof(
    { weight: 5, arbitrary: fc.constant<AccessSize>(4) },
    { weight: 1, arbitrary: fc.constantFrom<AccessSize>(1, 2) },
  ),
  value,
})

/** What a status may be, DEVICE_NEEDS_RESET and FAILED aside. */
const STEPS = new Set([0, 1, 3, 11, 15])

describe("any register access, in any order", () => {
  for (const start of [false, true]) {
    it(`neither throws nor leaves the legal states, ${start ? "after" : "before"} a start`, async () => {
      await fc.assert(
        fc.asyncProperty(fc.array(access, { maxLength: 60 }), async (accesses) => {
          const { device, driver, transport, memory, errors } = setup()
          if (start) await driver.start({ queueSize: 4 })
          for (const { kind, offset, size, value } of accesses) {
            if (kind === "write") await transport.write(offset, size, value)
            else if (kind === "memory")
              memory.writeUint32((value & 0xfff) + driver.rings.length * 4096, value)
            else if (kind === "turn") await new Promise((resolve) => setImmediate(resolve))
            const read = transport.read(offset, size)
            expect(Number.isInteger(read) && read >= 0 && read < 2 ** (8 * size)).toBe(true)
            expect(STEPS.has(transport.status & ~(STATUS.DEVICE_NEEDS_RESET | STATUS.FAILED))).toBe(true)
          }
          expect(errors).toEqual([])
          expect(activationsAndResetsAlternate(device.calls)).toBe(true)
          // Whatever happened, a reset heals it.
          await driver.start()
          expect((await driver.request(1, { readable: [Uint8Array.of(1)], writable: [1] })).written).toBe(1)
        }),
        { numRuns: 150, seed: 1 },
      )
    })
  }
})

function activationsAndResetsAlternate(calls: readonly string[]): boolean {
  let active = false
  for (const call of calls) {
    if (call === "activate" && active) return false
    if (call.startsWith("notify") && !active) return false
    if (call === "activate") active = true
    if (call === "reset") active = false
  }
  return true
}
