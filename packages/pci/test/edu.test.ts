import { PCI_COMMAND } from "@virtkit/testkit"
import { expect, it } from "vitest"
import { Edu } from "./edu.js"
import { machine } from "./machine.js"

/** A guest's driver: copies 16 bytes by way of the device. */
function copy({ host, driver }: ReturnType<typeof machine>, from: number, to: number): void {
  const at = driver.find(0x1234, 0x11e8)
  const base = driver.barAddress(at, 0)
  host.memory.write(from, new TextEncoder().encode("sixteen letters."))
  for (const [address, command] of [
    [from, 1],
    [to, 2],
  ] as const) {
    host.write("memory", base + 4, 4, address)
    host.write("memory", base + 8, 4, 16)
    host.write("memory", base + 12, 4, command)
  }
}

function textAt({ host }: ReturnType<typeof machine>, address: number): string {
  const bytes = new Uint8Array(16)
  host.memory.read(address, bytes)
  return new TextDecoder().decode(bytes)
}

it("a function that is not virtio copies memory and interrupts by MSI-X", () => {
  const pc = machine()
  pc.bus.add(new Edu())
  pc.bus.assignResources()
  const at = pc.driver.find(0x1234, 0x11e8)
  void pc.driver.command(at, PCI_COMMAND.BUS_MASTER)
  pc.driver.setMsix(at, { enabled: true })
  pc.driver.setMsixEntry(at, 0, { address: 0xfee0_0000, data: 0x41 })
  copy(pc, 0x1000, 0x2000)
  expect(textAt(pc, 0x2000)).toBe("sixteen letters.")
  expect(pc.host.msis.map(({ address, data, count }) => [address, data, count])).toEqual([
    [0xfee0_0000, 0x41, 2],
  ])
  expect(pc.host.lineLog).toEqual([])
})

it("it interrupts by INTA# for guests without MSI-X", () => {
  const pc = machine()
  pc.bus.add(new Edu(), { device: 6 })
  pc.bus.assignResources()
  const at = { bus: 0, device: 6 }
  void pc.driver.command(at, PCI_COMMAND.BUS_MASTER)
  copy(pc, 0x1000, 0x2000)
  expect(pc.host.lines).toEqual([false, false, true, false])
  pc.host.write("memory", pc.driver.barAddress(at, 0) + 16, 4, 0)
  expect(pc.host.lines).toEqual([false, false, false, false])
})

it("it does no DMA before the guest makes it a bus master", () => {
  const pc = machine()
  pc.bus.add(new Edu())
  pc.bus.assignResources()
  copy(pc, 0x1000, 0x2000)
  expect(textAt(pc, 0x2000)).toBe("\0".repeat(16))
  expect(pc.host.lineLog).toEqual([])
})
