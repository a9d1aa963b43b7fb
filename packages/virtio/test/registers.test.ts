import { EchoDevice, TestMemory } from "@virtkit/testkit"
import { QueueConfig, RegisterFile, TransportCore, type TransportEvents } from "@virtkit/virtio"
import { describe, expect, it } from "vitest"

describe("what transports are made of", () => {
  it("registers of each width change alone, little-endian", () => {
    const file = new RegisterFile()
    file.set(8, 0x8765_4321)
    file.set16(10, 0xabcd)
    file.set8(8, 0xef)
    expect([file.get(8), file.read(8, 4), file.read(10, 2), file.read(8, 1)]).toEqual([
      0xabcd_43ef, 0xabcd_43ef, 0xabcd, 0xef,
    ])
  })

  it("a queue's addresses can be read back in halves, whatever was written", () => {
    const queue = new QueueConfig(0, 8)
    for (const [at, part] of (["desc", "avail", "used"] as const).entries()) {
      queue.setAddressHalf(part, 0, 0xffff_fff0 + at)
      queue.setAddressHalf(part, 1, 0x8000_0000 + at)
    }
    expect([queue.addressHalf("desc", 0), queue.addressHalf("avail", 1)]).toEqual([0xffff_fff0, 0x8000_0001])
    expect([queue.addressHalf("used", 0), queue.addressHalf("used", 1)]).toEqual([0xffff_fff2, 0x8000_0002])
    expect(queue.address("used")).toBe(Number.POSITIVE_INFINITY)
  })

  it("there are no features behind the last word", async () => {
    const nothing = () => {}
    const events: TransportEvents = {
      queueInterrupt: nothing,
      configInterrupt: nothing,
      registersChanged: nothing,
      resetDone: nothing,
      queueResetDone: nothing,
      beginConfigUpdate: nothing,
      endConfigUpdate: nothing,
    }
    const core = new TransportCore({ device: new EchoDevice(), memory: new TestMemory(), events })
    const { features } = core
    features.setDriverWord(0, 2)
    features.setDriverWord(64, 5)
    expect([features.driverWord(0), features.driverWord(64), features.offeredWord(64)]).toEqual([2, 0, 0])
    await core.close()
  })
})
