import type { VirtioDevice } from "@virtkit/interface"
import { block, memoryDisk } from "@virtkit/virtio-blk"
import { consolePort } from "@virtkit/virtio-console"
import { rng } from "@virtkit/virtio-rng"
import { afterEach, describe, expect, it } from "vitest"
import { guest } from "../src/index.js"
import { closeAll, listen, noKvm, vmOf } from "./kvm.js"

/** docs/architecture.md: the machine. */
const BASE = 0xd000_0000
const PAGE = 0x1000
const DEVICES = 17

/** As many as there is room for, of each kind. */
async function fullHouse(): Promise<VirtioDevice[]> {
  const kinds = [() => block({ backend: memoryDisk(1 << 20), queues: 2 }), () => consolePort(), () => rng()]
  return Promise.all(Array.from({ length: DEVICES }, (_, index) => kinds[index % kinds.length]!()))
}

const pages = Array.from({ length: DEVICES }, (_, index) => BASE + index * PAGE)
const everyWord = pages.flatMap((page) => guest.readRange(page, PAGE))
const everyMagic = pages.flatMap((page) => guest.sayMemory(page))

describe.skipIf(noKvm !== "")(`the registers of virtio-mmio devices${noKvm}`, () => {
  afterEach(closeAll)

  it.each([true, false])(
    "are there, every page, every word (read-only memory: %s)",
    async (registerPages) => {
      const vm = await vmOf([...everyMagic, ...everyWord, ...guest.powerOff], {
        transport: "mmio",
        devices: await fullHouse(),
        registerPages,
      })
      const heard = listen(vm)
      const ended = new Promise((resolve) => vm.serial.once("end", resolve))
      await vm.start()
      expect(await vm.exited).toEqual({ reason: "poweroff" })
      await ended
      expect(heard.text).toBe("virt".repeat(DEVICES))
      // Read-only memory is read without an exit; without it, each word is one and each byte of the magic too.
      expect(vm.statistics().vcpuExits.byReason.mmio ?? 0).toBe(
        registerPages ? 0 : DEVICES * (PAGE / 4 + "virt".length),
      )
    },
  )

  it.each([
    [{}, 0x01],
    [{ packed: true }, 0x05],
    [{ packed: true, inOrder: true }, 0x0d],
  ])("offer rings as the VM's options %j say", async (rings, offered) => {
    const selectHigh = guest.fillRange(BASE + 0x14, 4, 1)
    const code = [...selectHigh, ...guest.sayMemory(BASE + 0x10), ...guest.powerOff]
    const vm = await vmOf(code, { transport: "mmio", devices: [rng()], rings })
    const heard = listen(vm)
    const ended = new Promise((resolve) => vm.serial.once("end", resolve))
    await vm.start()
    expect(await vm.exited).toEqual({ reason: "poweroff" })
    await ended
    expect(heard.text.charCodeAt(0) & 0x0d).toBe(offered)
  })

  it.each([0, 1, 0xff, 0x8000_0000, 0xffff_ffff])(
    "survive that %i is written to all of them",
    async (value) => {
      const writes = pages.flatMap((page) => guest.fillRange(page, PAGE, value))
      const vm = await vmOf([...writes, ...everyWord, ...everyMagic, ...guest.powerOff], {
        transport: "mmio",
        devices: await fullHouse(),
      })
      const heard = listen(vm)
      const ended = new Promise((resolve) => vm.serial.once("end", resolve))
      await vm.start()
      expect(await vm.exited).toEqual({ reason: "poweroff" })
      await ended
      expect(heard.text).toBe("virt".repeat(DEVICES))
    },
  )
})
