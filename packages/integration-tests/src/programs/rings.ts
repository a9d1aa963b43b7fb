// Runs in the lab: a Linux guest with a disk, a network card and a console for each combination of ring features. Tells
// what was negotiated for each of them, and whether the data that went through it was what it should be.
// rings KERNEL INITRD offered|not-offered (IN_ORDER)
import { randomBytes } from "node:crypto"
import type { VirtioDevice } from "@virtkit/interface"
import { type BlockDevice, block, type MemoryDisk, memoryDisk } from "@virtkit/virtio-blk"
import { type ConsoleDevice, consolePort } from "@virtkit/virtio-console"
import { loopbackBackend, net } from "@virtkit/virtio-net"
import { VirtioPci } from "@virtkit/virtio-pci"
import { Vm } from "@virtkit/vmm"
import { listenTo } from "../heard.js"
import {
  CONSOLE_BYTES,
  DISK_SECTORS,
  type RingChoice,
  type RingDevice,
  type RingGuestReport,
  ringChoices,
} from "../ring-guest.js"

const SECTOR = 512

interface Driven {
  readonly kind: RingDevice["kind"]
  readonly rings: RingChoice
  readonly transport: VirtioPci
  readonly disk?: MemoryDisk
  readonly console?: ConsoleDevice
}

const table = Uint32Array.from({ length: 256 }, (_, byte) => {
  let crc = byte
  for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ (crc & 1 ? 0x82f6_3b78 : 0)
  return crc
})

function crc32c(bytes: Uint8Array): number {
  let crc = 0xffff_ffff
  for (const byte of bytes) crc = (crc >>> 8) ^ table[(crc ^ byte) & 0xff]!
  return ~crc >>> 0
}

/** Sectors that hold a block of ring-judge with their own number and a checksum that is right. */
function goodSectors({ data }: MemoryDisk): number {
  let good = 0
  for (let sector = 0; sector < DISK_SECTORS; sector++) {
    const bytes = data.subarray(sector * SECTOR, (sector + 1) * SECTOR)
    const view = new DataView(bytes.buffer, bytes.byteOffset, SECTOR)
    if (view.getUint32(4, true) === sector && view.getUint32(0, true) === crc32c(bytes.subarray(4))) good++
  }
  return good
}

function drive(kind: Driven["kind"], rings: RingChoice, device: VirtioDevice): Driven {
  return { kind, rings, transport: new VirtioPci({ device, ...rings }) }
}

async function makeDevices(choices: readonly RingChoice[]): Promise<Driven[]> {
  const devices: Driven[] = []
  for (const [index, rings] of choices.entries()) {
    const disk = memoryDisk(DISK_SECTORS * SECTOR)
    const blk: BlockDevice = await block({ name: `blk${index}`, backend: disk })
    devices.push({ ...drive("blk", rings, blk), disk })
    devices.push(drive("net", rings, await net({ name: `net${index}`, backend: loopbackBackend() })))
    const console = consolePort({ name: `console${index}` })
    devices.push({ ...drive("console", rings, console), console })
  }
  return devices
}

/** Sends bytes to a guest that listens; whether the same come back. */
async function converse({ stream }: ConsoleDevice): Promise<boolean> {
  const sent = randomBytes(CONSOLE_BYTES)
  const pieces: Buffer[] = []
  let came = 0
  const back = new Promise<void>((resolve) => {
    stream.on("data", (piece: Buffer) => {
      pieces.push(piece)
      came += piece.length
      if (came >= CONSOLE_BYTES) resolve()
    })
  })
  stream.write(sent)
  await back
  return Buffer.concat(pieces).equals(sent)
}

const started = performance.now()
const [kernel, initrd, inOrder] = process.argv.slice(2) as [string, string, string]
const driven = await makeDevices(ringChoices(inOrder === "offered"))
const vm = await Vm.create({
  kernel,
  initrd,
  cmdline: "quiet script=rings",
  memory: "512M",
  cpus: 1,
  devices: driven.map(({ transport }) => transport),
})
const heard = listenTo(vm)
let said = ""
vm.serial.on("data", (text: string) => {
  said += text.replaceAll("\r", "")
})
if (process.env.VIRTKIT_VERBOSE) vm.serial.on("data", (text: string) => process.stderr.write(text))
await vm.start()
const consoles = driven.flatMap(({ console }) => console ?? [])
for (const index of consoles.keys()) await heard(new RegExp(`^console ${index}\\n`, "m"))
const echoes = await Promise.all(consoles.map(converse))
await heard(/^finished\n/m)
const lines = said.split("\n")
const devices = driven.map(({ kind, rings, transport, disk }, index): RingDevice => {
  // Device 0 of the bus is the host bridge.
  const slot = `${(index + 1).toString(16).padStart(2, "0")}.0`
  const words = lines.find((line) => line.startsWith(`device ${slot} `))?.split(" ")
  const counters = transport.queues.flatMap((queue) => queue?.counters ?? [])
  return {
    kind,
    rings,
    features: words?.[3] ?? "",
    passed: kind === "console" ? echoes[Math.floor(index / 3)]! : lines.includes(`passed ${slot}`),
    goodSectors: disk && goodSectors(disk),
    chains: counters.reduce((sum, { chains }) => sum + chains, 0),
    malformed: counters.reduce((sum, { malformed }) => sum + malformed, 0),
  }
})
vm.serial.write("\n")
const { reason } = await vm.exited
await vm.close()
const report: RingGuestReport = {
  reason,
  release: kernel,
  complaints: lines.filter((line) => line.startsWith("complaint ")),
  devices,
  said,
  seconds: (performance.now() - started) / 1000,
}
process.stdout.write(JSON.stringify(report))
