import { execFile } from "node:child_process"
import { copyFile, mkdir, mkdtemp, open, readFile, rm } from "node:fs/promises"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { promisify } from "node:util"
import { findFirmware, findTool } from "@virtkit/lab"
import { afterAll, beforeAll, describe, expect, it } from "vitest"
import { bootSector, guestFiles, LinuxLab, uBoot } from "../src/index.js"

const SECTOR = 512
const MARK = "read by firmware from sector 7 of a virtkit disk\r\n"
const ROMS = { seabios: "/guest/seabios.rom", uBoot: "/guest/u-boot.rom" }

/** What Linux has to say of a machine that firmware has set up. */
const scripts = {
  facts: `echo tables $(ls /sys/firmware/acpi/tables)
echo disk $(cat /sys/block/vda/size)
echo cpus $(nproc)
echo memory $(sed -n 's/MemTotal: *//p' /proc/meminfo)
grep virtio /proc/interrupts
dmesg | grep -iE "can.t claim|no space for|failed to assign|acpi (bios )?error|firmware bug"
echo told
`,
}

/** A disk with a file system that holds what Linux needs. */
async function linuxDisk(directory: string): Promise<string> {
  const { kernel, initrd } = await guestFiles(scripts)
  const tree = join(directory, "tree")
  const image = join(directory, "linux")
  await mkdir(tree)
  await copyFile(kernel.vmlinuz, join(tree, "vmlinuz"))
  await copyFile(initrd, join(tree, "initrd"))
  await promisify(execFile)(findTool("mke2fs")!, ["-q", "-t", "ext2", "-d", tree, image, "64M"])
  return image
}

/** Typed at U-Boot: Linux from that disk. The kernel unpacks itself from 16 MiB on, the initrd is out of its way. */
const BOOT_LINUX = [
  "virtio scan",
  "ext2load virtio 0 1000000 /vmlinuz",
  "ext2load virtio 0 10000000 /initrd",
  "setenv bootargs console=ttyS0 quiet panic=-1 script=facts",
  "zboot 1000000 0 10000000 $filesize",
]

describe("firmware of Debian's packages drives a virtkit disk behind virtio-pci", {
  timeout: 240_000,
}, () => {
  let linux: LinuxLab
  let directory = ""
  const images: string[] = []

  beforeAll(async () => {
    directory = await mkdtemp(join(tmpdir(), "virtkit-firmware-"))
    for (const name of ["seabios", "u-boot"]) {
      const path = join(directory, name)
      const file = await open(path, "wx")
      await file.truncate(2 ** 20)
      await file.write(bootSector({ read: 7, write: 9 }), 0, SECTOR, 0)
      await file.write(MARK, 7 * SECTOR)
      await file.close()
      images.push(path)
    }
    images.push(await linuxDisk(directory))
    linux = await LinuxLab.start(scripts, {
      disks: images.map((path) => ({ path })),
      shares: [
        { source: await findFirmware("seabios"), target: ROMS.seabios },
        { source: await findFirmware("u-boot"), target: ROMS.uBoot },
      ],
    })
  }, 240_000)
  afterAll(async () => {
    await linux?.lab.close()
    await rm(directory, { recursive: true, force: true })
  }, 60_000)

  /** What the firmware wrote, seen from the host, without the guest. */
  async function sectorText(image: string, sector: number): Promise<string> {
    const bytes = await readFile(image)
    return bytes
      .subarray(sector * SECTOR, (sector + 1) * SECTOR)
      .toString("latin1")
      .replace(/\0+$/, "")
  }

  it("SeaBIOS boots from it, and the boot sector reads and writes it through INT 13h", async () => {
    const args = [`--disk=${linux.lab.disks[0]}`, "--transport=pci", "--cpus=2"]
    const { status, stdout, stderr } = await linux.boot(ROMS.seabios, args)
    expect({ status, stderr }, stdout).toEqual({ status: 0, stderr: "" })
    expect(stdout).toContain("Booting from Hard Disk")
    expect(stdout).toContain(MARK.replace("\r", ""))
    expect(await sectorText(images[0]!, 9)).toBe(MARK)
  })

  it("U-Boot reads and writes it", async () => {
    const talk = uBoot.uBootTalk([...uBoot.COPY_SECTOR, uBoot.POWER_OFF])
    const args = [`--disk=${linux.lab.disks[1]}`, "--transport=pci", "--memory=64M"]
    const { status, stdout, stderr } = await linux.boot(ROMS.uBoot, args, talk)
    expect({ status, stderr }, stdout).toEqual({ status: 0, stderr: "" })
    expect(stdout).toContain("1af4 VirtIO Block Device")
    expect(stdout).toContain("Capacity: 1.0 MB = 0.0 GB (2048 x 512)")
    expect(stdout).toContain("1 blocks read: OK")
    expect(stdout).toContain("01000000: 72 65 61 64 20 62 79 20 66 69 72 6d 77 61 72 65  read by firmware")
    expect(stdout).toContain("1 blocks written: OK")
    expect(await sectorText(images[1]!, 9)).toBe(MARK)
  })

  it("U-Boot boots Linux from its file system, which finds the machine as ACPI describes it", async () => {
    const talk = uBoot.uBootTalk(BOOT_LINUX)
    const args = [`--disk=${linux.lab.disks[2]}`, "--transport=pci", "--memory=512M", "--cpus=2"]
    const { status, stdout, stderr } = await linux.boot(ROMS.uBoot, args, talk)
    expect({ status, stderr }, stdout).toEqual({ status: 0, stderr: "" })
    // Line ends as the serial line has them, and what the kernel says in between, do not matter.
    expect(stdout).toMatch(/^tables APIC DSDT FACP .*MCFG/m)
    expect(stdout).toMatch(/^disk 131072$/m)
    expect(stdout).toMatch(/^cpus 2$/m)
    expect(stdout).toMatch(/^memory 4[5-9]\d{4} kB$/m)
    expect(stdout).toMatch(/PCI-MSI .*virtio0-req\.0/)
    // Nothing of what it was asked to complain about.
    expect(stdout).toMatch(/virtio1-input\ntold$/m)
  })
})
