import type { GuestMemory, Interrupt, PciFunction, VirtioDevice } from "@virtkit/interface"
import {
  EchoDevice,
  FakeInterrupt,
  FakePciSlot,
  FEATURE,
  MmioDriver,
  PciTransportDriver,
  Recorder,
  TestMemory,
  until,
  type VirtioDriver,
} from "@virtkit/testkit"
import { VirtioMmio } from "@virtkit/virtio"
import { type BlockDevice, block, memoryDisk } from "@virtkit/virtio-blk"
import { type ConsoleDevice, consolePort } from "@virtkit/virtio-console"
import { VirtioPci } from "@virtkit/virtio-pci"
import { rng } from "@virtkit/virtio-rng"
import type { TransportName } from "./transport-machine.js"

const OFFERS = { packed: true, inOrder: true }
/** Pages of 4 KiB from 4 KiB up. */
const MEMORY = { regions: [{ guestAddress: 4096, size: 8 << 20 }] }

/** A device behind a transport, with a recorder around both. */
export function recordedMachine(
  name: TransportName,
  device: VirtioDevice,
  path: string,
): { driver: VirtioDriver; close: () => Promise<void> } {
  const memory = new TestMemory(MEMORY)
  const interrupt = new FakeInterrupt()
  const recorder = new Recorder({ path })
  const recorded = recorder.device(device)
  if (name === "virtio-mmio") {
    const mmio = new VirtioMmio({
      device: recorded,
      memory,
      interrupt: recorder.interrupt(interrupt),
      ...OFFERS,
    })
    const driver = new MmioDriver({ device: recorder.mmio(mmio), memory })
    return { driver, close: () => mmio.close() }
  }
  const msix = name === "virtio-pci with MSI-X"
  const pci = new VirtioPci({ device: recorded, ...OFFERS })
  // Without register pages, so that reads are there to record.
  const access = new FakePciSlot({ function: recorder.pci(pci), memory, interrupt, msix, pages: false })
  const driver = new PciTransportDriver({ access, memory, vectors: msix ? pci.msix.vectors : 0 })
  return { driver, close: () => pci.close() }
}

/** What a replay is to be given: the same transport, with another device in it. */
export function transportFor(
  name: TransportName,
  device: VirtioDevice,
): { setup: (memory: GuestMemory, interrupt: Interrupt) => VirtioMmio | PciFunction } {
  return {
    setup: (memory, interrupt) =>
      name === "virtio-mmio"
        ? new VirtioMmio({ device, memory, interrupt, ...OFFERS })
        : new VirtioPci({ device, ...OFFERS }),
  }
}

/** Rings that a session can be recorded with. */
export const RINGS: Readonly<Record<string, bigint>> = {
  split: 0n,
  "split, in order": FEATURE.IN_ORDER,
  packed: FEATURE.RING_PACKED,
  "packed, in order": FEATURE.RING_PACKED | FEATURE.IN_ORDER,
}

/** What a driver and a host do to a device, and how to make one that does the same. */
export interface Session<Device extends VirtioDevice = VirtioDevice> {
  make(): Promise<Device>
  /** `features`: of the ring. */
  drive(driver: VirtioDriver, device: Device, features: bigint): Promise<void>
  /** Does again what the host did, given the record that shows it: see `ReplayOptions.host`. */
  host?(device: Device, record: { readonly kind: string; readonly [field: string]: unknown }): unknown
}

const BLK = { IN: 0, OUT: 1, FLUSH: 4, GET_ID: 8 } as const

function header(type: number, sector: number): Uint8Array {
  const bytes = new Uint8Array(16)
  const view = new DataView(bytes.buffer)
  view.setUint32(0, type, true)
  view.setUint32(8, sector, true)
  return bytes
}

export function pattern(length: number, seed: number): Uint8Array {
  return Uint8Array.from({ length }, (_, index) => (index * 7 + seed * 13) & 0xff)
}

const wanted = (driver: VirtioDriver, rings: bigint): bigint =>
  driver.offeredFeatures() & ((0xff_ffff_ffffn & ~(FEATURE.RING_PACKED | FEATURE.IN_ORDER)) | rings)

export const blkSession: Session<BlockDevice> = {
  make: () => block({ backend: memoryDisk(pattern(64 * 1024, 1)), serial: "record-1", queueSize: 16 }),
  async drive(driver, device, rings) {
    await driver.start({ features: wanted(driver, rings), queueSize: 8 })
    driver.readConfig(0, 24)
    await driver.request(0, { readable: [header(BLK.GET_ID, 0)], writable: [20, 1], layout: "indirect" })
    await driver.request(0, { readable: [header(BLK.OUT, 3), pattern(1024, 2)], writable: [1] })
    await driver.request(0, { readable: [header(BLK.IN, 2)], writable: [512, 1536, 1], layout: "indirect" })
    // Past the end: an error, whose status is far beyond the used length.
    await driver.request(0, { readable: [header(BLK.IN, 127)], writable: [4096, 1] })
    driver.writeConfig(32, 0, 1)
    const ring = driver.ring(0)
    let left = 0
    for (let sector = 0; sector < 4; sector++) {
      ring.add({ readable: [header(BLK.IN, sector)], writable: [512, 1], layout: "indirect" })
      left++
    }
    driver.kick(0)
    await until(() => {
      left -= ring.reap().length
      return left === 0
    }, "reads")
    await device.resize(128 * 1024)
    driver.handleInterrupt()
    driver.readConfig(0, 8)
    await driver.start({ features: wanted(driver, 0n), queueSize: 16 })
    await driver.request(0, { readable: [header(BLK.FLUSH, 0)], writable: [1] })
    await driver.request(0, { readable: [header(BLK.IN, 255)], writable: [512, 1] })
    await driver.reset()
  },
  host: (device, { kind }) => (kind === "config" ? device.resize(128 * 1024) : undefined),
}

const CONSOLE = { RECEIVE: 0, TRANSMIT: 1 } as const

export const consoleSession: Session<ConsoleDevice> = {
  make: async () => {
    const device = consolePort({ cols: 80, rows: 25 })
    device.stream.resume()
    return device
  },
  async drive(driver, device, rings) {
    await driver.start({ features: wanted(driver, rings), queueSize: 8 })
    driver.readConfig(0, 4)
    const receive = driver.ring(CONSOLE.RECEIVE)
    let came = 0
    for (let buffer = 0; buffer < 4; buffer++) receive.add({ writable: [16] })
    driver.kick(CONSOLE.RECEIVE)
    for (const text of ["login: ", "Linux ".repeat(20)]) {
      await driver.request(CONSOLE.TRANSMIT, { readable: [Buffer.from(text), Buffer.from("\r\n")] })
    }
    for (const [index, text] of ["root\n", "sixteen bytes ab"].entries()) {
      device.stream.write(text)
      await until(() => {
        came += receive.reap().length
        return came > index
      }, text)
    }
    device.resize(132, 43)
    driver.handleInterrupt()
    driver.readConfig(0, 4)
    await driver.reset()
  },
  host(device, { kind, queue, data }) {
    if (kind === "config") device.resize(132, 43)
    else if (queue === CONSOLE.RECEIVE) device.stream.write(Buffer.from(data as Uint8Array))
  },
}

export const rngSession: Session = {
  make: async () => {
    let next = 1
    const source = (buffer: Uint8Array) => {
      for (let index = 0; index < buffer.length; index++) buffer[index] = next = (next * 29 + 11) & 0xff
    }
    return rng({ source })
  },
  async drive(driver, _device, rings) {
    await driver.start({ features: wanted(driver, rings), queueSize: 4 })
    for (const length of [1, 64, 5000]) await driver.request(0, { writable: [length, 3] })
    await driver.request(0, { readable: [pattern(8, 1)], writable: [32] })
  },
}

/** Resets of a single queue, and chains that the driver puts into a full ring as soon as there is room, untold. */
export const echoSession: Session<EchoDevice> = {
  make: async () => new EchoDevice({ queueReset: true }),
  async drive(driver, device, rings) {
    await driver.start({ features: wanted(driver, rings) | FEATURE.RING_RESET, queueSize: 4 })
    await driver.request(1, { readable: [pattern(9, 1)], writable: [9] })
    await driver.resetQueue(1)
    driver.setupQueue(1, 8)
    await driver.request(1, { readable: [pattern(9, 2)], writable: [4, 5] })
    const ring = driver.ring(0)
    device.holds = true
    for (let round = 0; round < 3; round++) {
      for (let chain = 0; chain < 4; chain++) ring.add({ readable: [pattern(4, round)] })
      if (round === 0) driver.kick(0)
      else ring.publish()
      device.notify(0)
      device.release()
      ring.reap()
    }
    await driver.reset()
  },
}
