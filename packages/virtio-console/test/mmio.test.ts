import { setImmediate as turn } from "node:timers/promises"
import { FakeInterrupt, MmioDriver, TestMemory, until } from "@virtkit/testkit"
import { VirtioMmio } from "@virtkit/virtio"
import { type ConsoleDevice, consolePort } from "@virtkit/virtio-console"
import { expect, it } from "vitest"

const RECEIVE = 0
const TRANSMIT = 1

function machine(
  device: ConsoleDevice,
  memory = new TestMemory({ regions: [{ guestAddress: 0, size: 1 << 20 }] }),
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

function collect(stream: NodeJS.ReadableStream): () => string {
  let text = ""
  stream.on("data", (chunk: Buffer) => {
    text += chunk.toString("latin1")
  })
  return () => text
}

it("prints, reads, resizes and takes an emergency write behind virtio-mmio", async () => {
  const device = consolePort({ cols: 132, rows: 50 })
  const { driver, errors } = machine(device)
  const output = collect(device.stream)
  driver.writeConfig(8, 0x21, 4)
  await driver.start()
  expect([...driver.readConfig(0, 4)]).toEqual([132, 0, 50, 0])
  device.stream.write("typed")
  const input = await driver.request(RECEIVE, { writable: [64] })
  expect(Buffer.from(input.data!.subarray(0, input.written)).toString()).toBe("typed")
  expect(driver.handleInterrupt()).toEqual({ usedBuffer: true, configChange: false })
  await driver.request(TRANSMIT, { readable: [Buffer.from("printed")] })
  await until(() => output() === "!printed", "output")
  driver.handleInterrupt()
  device.resize(80, 25)
  expect(driver.handleInterrupt()).toEqual({ usedBuffer: false, configChange: true })
  expect([...driver.readConfig(0, 4)]).toEqual([80, 0, 25, 0])
  expect(errors).toEqual([])
})

it("bad-input #34: a storm of resets, notifications and input leaves it working", async () => {
  const device = consolePort({ outputBuffer: 64 })
  const { driver, errors } = machine(device)
  device.stream.resume()
  for (let round = 0; round < 50; round++) {
    await driver.start()
    driver.rings[TRANSMIT]!.add({ readable: [new Uint8Array(500)] })
    for (let i = 0; i < 20; i++) {
      driver.kick(TRANSMIT)
      driver.notify(RECEIVE)
      driver.notify(TRANSMIT)
      driver.notify(2)
    }
    if (round % 5 === 0) device.stream.write("x")
    if (round % 3 === 0) await turn()
  }
  const output = collect(device.stream)
  await driver.start()
  await driver.request(TRANSMIT, { readable: [Buffer.from("alive")] })
  await until(() => output().endsWith("alive"), "output")
  const input = await driver.request(RECEIVE, { writable: [64] })
  expect(input.written).toBe(1)
  expect(errors).toEqual([])
})

it("moves to another host in the middle of a chain", async () => {
  const from = consolePort({ outputBuffer: 64 })
  const one = machine(from)
  await one.driver.start()
  const data = Buffer.from(Array.from({ length: 50_000 }, (_, i) => (i * 31) & 0x7f))
  const chain = one.driver.rings[TRANSMIT]!.add({ readable: [data] })
  one.driver.kick(TRANSMIT)
  for (let i = 0; i < 10; i++) await turn()
  const saved = structuredClone(one.transport.state())
  await from.close()
  const firstHalf = collect(from.stream)

  const to = consolePort()
  const two = machine(to, one.memory)
  const secondHalf = collect(to.stream)
  two.transport.restore(saved)
  await until(() => firstHalf().length + secondHalf().length >= data.length, "the rest")
  expect(firstHalf().length).toBeGreaterThan(0)
  expect(firstHalf() + secondHalf()).toBe(data.toString("latin1"))
  one.driver.rings[TRANSMIT]!.reap()
  expect(chain.written).toBe(0)
})
