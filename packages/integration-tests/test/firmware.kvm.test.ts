import { ConfigError } from "@virtkit/interface"
import { findFirmware } from "@virtkit/lab"
import { block, type MemoryDisk, memoryDisk } from "@virtkit/virtio-blk"
import { Vm, type VmOptions } from "@virtkit/vmm"
import { afterEach, describe, expect, it } from "vitest"
import { bootSector, handWrittenRom, uBoot } from "../src/index.js"
import { closeAll, keep, listen, noKvm } from "./kvm.js"

const SECTOR = 512
const MARK = "read by firmware from sector 7 of a virtkit disk\r\n"

/** A disk of 1 MiB with MARK in its sector 7. */
function markedDisk(): MemoryDisk {
  const disk = memoryDisk(2 ** 20)
  disk.data.set(new TextEncoder().encode(MARK), 7 * SECTOR)
  return disk
}

/** The text of a sector up to its first NUL. */
function sectorText(disk: MemoryDisk, sector: number): string {
  const bytes = Buffer.from(disk.data.subarray(sector * SECTOR, (sector + 1) * SECTOR))
  return bytes.toString("latin1", 0, bytes.indexOf(0))
}

describe.skipIf(noKvm !== "")(`SeaBIOS${noKvm}`, { timeout: 120_000 }, () => {
  afterEach(closeAll)

  it.each([
    ["mmio", 0, "found virtio-blk-mmio at 0xd0000000"],
    ["pci", 1, "found virtio-blk at 00:03.0"], // behind the root port's number
  ] as const)(
    "boots from a disk behind virtio-%s, and powers off",
    async (transport, hotPlugSlots, found) => {
      const disk = markedDisk()
      disk.data.set(bootSector({ read: 7, write: 9 }))
      let log = ""
      const options: VmOptions = {
        kernel: await findFirmware("seabios"),
        memory: "64M",
        cpus: 2,
        transport,
        hotPlugSlots,
        devices: [block({ backend: disk })],
        onFirmwareDebug: (byte) => {
          log += String.fromCharCode(byte)
        },
      }
      const vm = keep(await Vm.create(options))
      const said = listen(vm)
      await vm.start()
      expect(await vm.exited, said.text + log).toEqual({ reason: "poweroff" })
      expect(said.text).toContain("Booting from Hard Disk")
      expect(said.text).toContain(MARK)
      expect(sectorText(disk, 9)).toBe(MARK)
      expect(log).toContain(found)
      // What it was told of the machine.
      expect(log).toContain("Found QEMU fw_cfg")
      expect(log).toContain("Found 2 cpu(s) max supported 2 cpu(s)")
      expect(log).toMatch(/e820: addr 0x0+ len 0x0*3fe0000 \[RAM\]/)
      expect(log).toContain("ACPI: parse DSDT")
    },
  )
})

describe.skipIf(noKvm !== "")(`U-Boot${noKvm}`, { timeout: 120_000 }, () => {
  afterEach(closeAll)

  it("reads and writes a disk behind virtio-pci, and resets the machine", async () => {
    const disk = markedDisk()
    const vm = keep(
      await Vm.create({
        kernel: await findFirmware("u-boot"),
        memory: "64M",
        devices: [block({ backend: disk })],
      }),
    )
    const said = listen(vm)
    const talk = uBoot.uBootTalk([...uBoot.COPY_SECTOR, "reset"])
    vm.serial.on("data", () => {
      const answer = talk(said.text)
      if (answer !== undefined) vm.serial.write(answer)
    })
    await vm.start()
    expect(await vm.exited, said.text).toEqual({ reason: "reset" })
    expect(said.text).toContain("DRAM:  63.9 MiB")
    expect(said.text).toContain("1af4 VirtIO Block Device")
    expect(said.text).toContain("1 blocks read: OK")
    expect(said.text).toContain("1 blocks written: OK")
    expect(sectorText(disk, 9)).toBe(MARK)
  })
})

describe.skipIf(noKvm !== "")(`a ROM${noKvm}`, () => {
  afterEach(closeAll)

  it("starts at its reset vector; it cannot be written, its shadow can", async () => {
    const vm = keep(await Vm.create({ kernel: handWrittenRom(), memory: "32M" }))
    const said = listen(vm)
    await vm.start()
    expect(await vm.exited).toEqual({ reason: "poweroff" })
    expect(said.text).toBe("RW")
  })

  it.each<[string, Partial<VmOptions>, RegExp]>([
    ["an initrd", { initrd: new Uint8Array(10) }, /initrd: the kernel is firmware/],
    ["a command line", { cmdline: "quiet" }, /cmdline: the kernel is firmware/],
    ["too little memory", { memory: "16M" }, /firmware needs more than 16M/],
  ])("is refused with %s", async (_, options, message) => {
    const error = await Vm.create({ kernel: handWrittenRom(), memory: "32M", ...options }).catch(
      (reason: unknown) => reason,
    )
    expect(error).toBeInstanceOf(ConfigError)
    expect((error as Error).message).toMatch(message)
  })
})
