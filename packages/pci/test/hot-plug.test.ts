import { ConfigError, RestoreError } from "@virtkit/interface"
import { PciHotPlug, type RootPort } from "@virtkit/pci"
import { FakeInterrupt } from "@virtkit/testkit"
import { expect, it } from "vitest"
import { machine, TestFunction } from "./machine.js"

function controller(slots = 3) {
  const pc = machine()
  const ports = Array.from({ length: slots }, () => pc.bus.addRootPort())
  const interrupt = new FakeInterrupt()
  const ejected: RootPort[] = []
  const onEject = (port: RootPort) => {
    ejected.push(port)
    return port.unplug()
  }
  return { ...pc, ports, interrupt, ejected, hotPlug: new PciHotPlug({ interrupt, ports, onEject }) }
}

it("says what came and what is to go, with an edge for each new bit; ones clear bits", () => {
  const { hotPlug, interrupt } = controller()
  hotPlug.inserted(1)
  hotPlug.inserted(2)
  hotPlug.inserted(2)
  hotPlug.requestRemoval(0)
  expect(interrupt.count).toBe(3)
  expect([hotPlug.read(0, 4), hotPlug.read(4, 4), hotPlug.read(8, 4)]).toEqual([6, 1, 0])
  expect([hotPlug.read(0, 1), hotPlug.read(3, 2), hotPlug.read(2, 4)]).toEqual([6, 0x0100, 0x0001_0000])
  hotPlug.write(0, 4, 2)
  hotPlug.write(4, 4, 0xffff_fffe)
  expect([hotPlug.read(0, 4), hotPlug.read(4, 4)]).toEqual([4, 1])
  hotPlug.inserted(1)
  expect(interrupt.count).toBe(4)
})

it("ejects what the guest lets go of; its vCPU waits until that is gone", async () => {
  const { hotPlug, ports, ejected, driver } = controller()
  const fn = new TestFunction("one")
  ports[1]!.plug(fn)
  hotPlug.write(8, 4, 0b001)
  expect(ejected).toEqual([])
  const stopped = hotPlug.write(8, 4, 0xffff_ffff)
  expect(ejected).toEqual([ports[1]])
  await stopped
  expect(fn.log.at(-1)).toBe("close")
  expect(hotPlug.write(8, 4, 0b010)).toBeUndefined()
  expect(driver.scan()).toHaveLength(4)
})

it("bad-input #5: writes of other widths or places change nothing", () => {
  const { hotPlug, ports, ejected } = controller()
  ports[0]!.plug(new TestFunction("one"))
  hotPlug.inserted(0)
  for (const offset of [0, 1, 2, 4, 6, 8, 10]) {
    hotPlug.write(offset, 1, 0xff)
    hotPlug.write(offset, 2, 0xffff)
    if (offset % 4 !== 0) hotPlug.write(offset, 4, 0xffff_ffff)
  }
  expect([hotPlug.read(0, 4), ejected]).toEqual([1, []])
})

it("32 slots: the last is an unsigned bit (bad-input #35); no slot beyond, no more than 32", () => {
  const one = controller(1).ports[0]!
  const interrupt = new FakeInterrupt()
  const ports = new Array<RootPort>(32).fill(one)
  const hotPlug = new PciHotPlug({ interrupt, ports, onEject: () => {} })
  hotPlug.inserted(31)
  hotPlug.requestRemoval(31)
  expect([hotPlug.read(0, 4), hotPlug.read(4, 4)]).toEqual([0x8000_0000, 0x8000_0000])
  hotPlug.write(0, 4, 0x8000_0000)
  expect(hotPlug.read(0, 4)).toBe(0)
  expect(() => hotPlug.inserted(32)).toThrow(ConfigError)
  expect(() => new PciHotPlug({ interrupt, ports: [...ports, one], onEject: () => {} })).toThrow(ConfigError)
})

it("bad-input #31: its state, and states that do not fit", () => {
  const { hotPlug } = controller()
  hotPlug.inserted(1)
  hotPlug.requestRemoval(2)
  const copy = controller()
  copy.hotPlug.restore(structuredClone(hotPlug.state()))
  expect([copy.hotPlug.read(0, 4), copy.hotPlug.read(4, 4), copy.interrupt.count]).toEqual([2, 4, 0])
  const good = hotPlug.state()
  for (const wrong of [
    null,
    1,
    {},
    { ...good, version: 2 },
    { ...good, inserted: 8 },
    { ...good, inserted: -1 },
  ]) {
    expect(() => copy.hotPlug.restore(wrong)).toThrow(RestoreError)
  }
})
