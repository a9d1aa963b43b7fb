import { loadKernel } from "@virtkit/boot"
import { ConfigError } from "@virtkit/interface"
import fc from "fast-check"
import { describe, expect, it } from "vitest"
import { bzImage, elf, MIB, pattern, ram } from "./images.js"
import { packLz4 } from "./lz4.js"

const RAM = 4 * MIB
/** One memory for all runs: it refuses what lies outside of it. */
const memory = ram(RAM)

const small = elf({
  segments: [
    { address: 2 * MIB, data: pattern(600, 1), memorySize: 1000 },
    { address: 3 * MIB, data: pattern(300, 2) },
  ],
  pvhEntry: 2 * MIB,
})
const packed = Buffer.concat([packLz4(small), Buffer.from(Uint32Array.of(small.length).buffer)])

const images: Record<string, { image: Uint8Array; header: [number, number] }> = {
  "an ELF image": { image: small, header: [0, 64 + 3 * 56] },
  "its notes": { image: small, header: [small.length - 48, small.length] },
  "a bzImage": { image: bzImage({ prefAddress: MIB, initSize: 2 * MIB }), header: [0x1f1, 0x268] },
  "a bzImage with a packed kernel": { image: bzImage({ payload: packed }), header: [0x1f1, 0x268] },
}

/** Values that find missing checks: ends, signs, and anything. */
const value = fc.oneof(
  fc.constantFrom(0, 1, 0x7f, 0x80, 0xff, 0x7fffffff, 0x80000000, 0xfffffff0, 0xffffffff, RAM, RAM - 1),
  fc.nat(0xffffffff),
)

describe("bad-input #32: changes to the header of", () => {
  it.each(Object.entries(images))(
    "%s load within RAM or fail with a typed error",
    async (_, { image, header }) => {
      const [start, end] = header
      const change = fc.record({
        offset: fc.integer({ min: start, max: end - 4 }),
        size: fc.constantFrom(1, 2, 4),
        value,
      })
      await fc.assert(
        fc.asyncProperty(
          fc.array(change, { minLength: 1, maxLength: 4 }),
          fc.option(fc.nat(image.length)),
          async (changes, length) => {
            await check(mutate(image, changes).slice(0, length ?? image.length))
          },
        ),
        { numRuns: 300 },
      )
    },
  )
})

async function check(kernel: Uint8Array): Promise<void> {
  memory.clearWritten()
  const result = await loadKernel({ memory, kernel, initrd: pattern(100, 1) }).catch(
    (error: unknown) => error,
  )
  // The memory throws another error when it is asked for something outside: that would be seen here.
  if (result instanceof Error) {
    expect(result).toBeInstanceOf(ConfigError)
    return
  }
  for (const { address, length } of memory.written) expect(memory.contains(address, length)).toBe(true)
  const { entry, image, initrd } = result as Awaited<ReturnType<typeof loadKernel>>
  expect(image.address).toBeGreaterThanOrEqual(MIB)
  expect(entry).toBeGreaterThanOrEqual(image.address)
  expect(entry).toBeLessThan(image.address + image.size)
  expect(image.address + image.size).toBeLessThanOrEqual(initrd?.address ?? 0)
}

function mutate(image: Uint8Array, changes: { offset: number; size: number; value: number }[]): Uint8Array {
  const copy = Uint8Array.from(image)
  const view = new DataView(copy.buffer)
  for (const { offset, size, value } of changes) {
    if (size === 1) view.setUint8(offset, value)
    else if (size === 2) view.setUint16(offset, value, true)
    else view.setUint32(offset, value, true)
  }
  return copy
}
