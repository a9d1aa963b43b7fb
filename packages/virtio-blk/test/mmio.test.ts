import { mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { FakeInterrupt, MmioDriver, TestMemory, until } from "@virtkit/testkit"
import { VirtioMmio } from "@virtkit/virtio"
import type { BlockDevice } from "@virtkit/virtio-blk"
import { block, memoryDisk } from "@virtkit/virtio-blk"
import fc from "fast-check"
import { afterAll, expect, it } from "vitest"
import {
  answer,
  FLUSH,
  header,
  IN,
  IOERR,
  MappedTestMemory,
  manualBackend,
  OK,
  OUT,
  pattern,
} from "./helpers.js"

const folder = mkdtempSync(join(tmpdir(), "virtkit-blk-mmio-"))
afterAll(() => rmSync(folder, { recursive: true }))

function machine(
  device: BlockDevice,
  memory = new TestMemory({ regions: [{ guestAddress: 0, size: 4 << 20 }] }),
) {
  const interrupt = new FakeInterrupt()
  const errors: unknown[] = []
  const transport = new VirtioMmio({
    device,
    memory,
    interrupt,
    onError: (error) => errors.push(error),
    onNeedsReset: (reason) => errors.push(reason),
  })
  return { memory, transport, driver: new MmioDriver({ device: transport, memory }), interrupt, errors }
}

it("works behind virtio-mmio: capacity, data, cache mode, growth", async () => {
  const device = await block({ backend: memoryDisk(64 * 1024) })
  const { driver, errors } = machine(device)
  await driver.start()
  expect(driver.readConfigAt(0, 4)).toBe(128)
  const written = await driver.request(0, { readable: [header(OUT, 9), pattern(512, 4)], writable: [1] })
  expect(answer(written).status).toBe(OK)
  const read = await driver.request(0, { readable: [header(IN, 9)], writable: [512, 1], layout: "indirect" })
  expect(answer(read).data).toEqual(pattern(512, 4))
  expect(driver.handleInterrupt().usedBuffer).toBe(true)
  driver.writeConfig(32, 0, 1)
  expect(driver.readConfigAt(32, 1)).toBe(0)
  await device.resize(128 * 1024)
  expect(driver.handleInterrupt().configChange).toBe(true)
  expect(driver.readConfigAt(0, 4)).toBe(256)
  expect(errors).toEqual([])
})

it("keeps a file as a model would, with many requests in flight", async () => {
  const path = join(folder, "model")
  const sectors = 64
  await fc.assert(
    fc.asyncProperty(
      fc.array(
        fc.array(
          fc.record({
            write: fc.boolean(),
            sector: fc.nat(sectors),
            count: fc.integer({ min: 1, max: 5 }),
            seed: fc.nat(255),
          }),
          { minLength: 1, maxLength: 8 },
        ),
        { maxLength: 6 },
      ),
      async (batches) => {
        writeFileSync(path, new Uint8Array(sectors * 512))
        const model = new Uint8Array(sectors * 512)
        const device = await block({ path })
        const { driver, errors } = machine(device, new MappedTestMemory(4 << 20))
        await driver.start({ queueSize: 64 })
        const pending: Promise<void>[] = []
        for (const batch of batches) {
          // What is in flight together may be done in any order: later requests that overlap a write wait.
          const touched = new Set<number>()
          for (const { write, sector, count, seed } of batch) {
            const range = Array.from({ length: count }, (_, i) => sector + i)
            if (range.some((n) => touched.has(n))) continue
            for (const n of range) touched.add(n)
            const fits = sector + count <= sectors
            const data = pattern(count * 512, seed)
            const done = write
              ? driver.request(0, { readable: [header(OUT, sector), data], writable: [1] })
              : driver.request(0, { readable: [header(IN, sector)], writable: [count * 512, 1] })
            const before = model.slice(sector * 512, (sector + count) * 512)
            pending.push(
              done.then((chain) => {
                expect(answer(chain).status).toBe(fits ? OK : IOERR)
                if (!write && fits) expect(answer(chain).data).toEqual(before)
              }),
            )
            if (write && fits) model.set(data, sector * 512)
          }
          await Promise.all(pending.splice(0))
        }
        const whole = await driver.request(0, { readable: [header(IN)], writable: [sectors * 512, 1] })
        expect(answer(whole).data).toEqual(model)
        expect(errors).toEqual([])
        await device.close()
      },
    ),
    { numRuns: 8 },
  )
})

it("bad-input #34: a storm of resets and notifications leaves it working", async () => {
  const path = join(folder, "storm")
  writeFileSync(path, pattern(64 * 512, 3))
  const device = await block({ path })
  const { driver, errors } = machine(device, new MappedTestMemory(4 << 20))
  for (let round = 0; round < 50; round++) {
    await driver.start()
    for (let i = 0; i < 5; i++)
      driver.rings[0]!.add({ readable: [header(OUT, i), pattern(512, 3)], writable: [1] })
    for (let i = 0; i < 20; i++) {
      driver.kick(0)
      driver.notify(0)
      driver.notify(1)
    }
    await driver.reset()
    expect(device.inFlight).toBe(0)
  }
  await driver.start()
  const flushed = await driver.request(0, { readable: [header(FLUSH)], writable: [1] })
  expect(answer(flushed).status).toBe(OK)
  expect(errors).toEqual([])
  await device.close()
})

it("moves to another host with requests in flight, which are done there", async () => {
  const from = manualBackend(64 * 512)
  const one = machine(await block({ backend: from }))
  await one.driver.start()
  const chains = [1, 2].map((sector) =>
    one.driver.rings[0]!.add({ readable: [header(OUT, sector), pattern(512, sector)], writable: [1] }),
  )
  one.driver.kick(0)
  expect(from.pending).toHaveLength(2)
  const saved = structuredClone(one.transport.state())

  const disk = memoryDisk(64 * 512)
  const two = machine(await block({ backend: disk }), one.memory)
  two.transport.restore(saved)
  await until(() => {
    one.driver.rings[0]!.reap()
    return chains.every((chain) => chain.written === 1)
  }, "both requests")
  expect(chains.map((chain) => answer(chain).status)).toEqual([OK, OK])
  for (const sector of [1, 2]) {
    expect(disk.data.subarray(sector * 512, sector * 512 + 512)).toEqual(pattern(512, sector))
  }
  expect(two.errors).toEqual([])
})
