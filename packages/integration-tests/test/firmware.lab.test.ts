import { mkdtemp, open, readFile, rm } from "node:fs/promises"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { findFirmware } from "@virtkit/lab"
import { afterAll, beforeAll, describe, expect, it } from "vitest"
import { bootSector, LinuxLab, uBoot } from "../src/index.js"

const SECTOR = 512
const MARK = "read by firmware from sector 7 of a virtkit disk\r\n"
const ROMS = { seabios: "/guest/seabios.rom", uBoot: "/guest/u-boot.rom" }

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
    linux = await LinuxLab.start(
      {},
      {
        disks: images.map((path) => ({ path })),
        shares: [
          { source: await findFirmware("seabios"), target: ROMS.seabios },
          { source: await findFirmware("u-boot"), target: ROMS.uBoot },
        ],
      },
    )
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
})
