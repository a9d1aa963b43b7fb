import {
  EchoDevice,
  FakeInterrupt,
  FakePciSlot,
  PciTransportDriver,
  TestMemory,
  VIRTIO_PCI_COMMON,
} from "@virtkit/testkit"
import { VirtioPci } from "@virtkit/virtio-pci"
import { Input, Output } from "../input.js"
import { type FuzzTarget, must } from "../target.js"
import { type RegisterAccess, registerSteps, STEP, wellBehaved } from "../virtio-registers.js"
import { withoutNumbers } from "../words.js"

const BAR = 4
const COMMON: readonly number[] = Object.values(VIRTIO_PCI_COMMON)
/** Structures begin at pages of the BAR. */
const PAGES = 4

async function run(bytes: Uint8Array): Promise<Iterable<string>> {
  const input = new Input(bytes)
  const flags = input.u8()
  const [started, msix, pages] = [1, 2, 4].map((bit) => (flags & bit) !== 0)
  const device = new EchoDevice({ queueReset: (flags & 8) !== 0 })
  const memory = new TestMemory({ regions: [{ guestAddress: 0, size: 0x1_0000 }] })
  const interrupt = new FakeInterrupt()
  const events = new Set<string>()
  const errors: Error[] = []
  const transport = new VirtioPci({
    device,
    onError: (error) => errors.push(error),
    onNeedsReset: (reason) => events.add(withoutNumbers(reason)),
  })
  const slot = new FakePciSlot({ function: transport, memory, interrupt, msix: msix!, pages: pages! })
  const vectors = msix ? transport.msix.vectors : 0
  const driver = new PciTransportDriver({ access: slot, memory, vectors })
  if (started) await driver.start({ queueSize: 4, features: -1n })
  const access: RegisterAccess = {
    offset: (pick) =>
      pick < 0x80 ? COMMON[pick % COMMON.length]! : ((pick >> 4) % PAGES) * 4096 + (pick & 15) * 3,
    read: (offset, size) => slot.readBar(BAR, offset, size),
    write: (offset, size, value) => slot.writeBar(BAR, offset, size, value),
    status: () => transport.status,
    other: (value) => {
      if ((value & 7) === 7) return slot.reset()
      if ((value & 7) === 6) slot.msixEnabled = !slot.msixEnabled
      else slot.busMaster = (value & 1) !== 0
      return undefined
    },
  }
  await registerSteps(input, access, memory, events)
  must(errors.length === 0, `the device threw: ${errors[0]?.message}`)
  wellBehaved(device.calls, events)
  // Whatever happened, a reset heals it.
  await slot.reset()
  slot.busMaster = true
  slot.msixEnabled = msix!
  await driver.start()
  const chain = await driver.request(1, { readable: [Uint8Array.of(1)], writable: [1] })
  must(chain.written === 1 && driver.handleInterrupt().usedBuffer, "after a reset it does not work")
  return events
}

type Write = readonly [register: number, size: number, value: number]

function writes(flags: number, list: readonly Write[]): Uint8Array {
  const out = new Output().u8(flags)
  for (const [register, size, value] of list) {
    out.u8(STEP.write, COMMON.indexOf(register), [1, 2, 4].indexOf(size), 0xff).u32(value)
  }
  // The notification and ISR pages.
  return out.u8(STEP.write, 0xa0, 1, 0).u8(STEP.read, 0x90, 0, 0).u8(STEP.turn, 0, 0, 0).input
}

function seeds(): Uint8Array[] {
  const c = VIRTIO_PCI_COMMON
  const negotiate: Write[] = [
    [c.DEVICE_STATUS, 1, 1],
    [c.DEVICE_STATUS, 1, 3],
    [c.DRIVER_FEATURE_SELECT, 4, 1],
    [c.DRIVER_FEATURE, 4, 1],
    [c.DEVICE_STATUS, 1, 11],
    [c.CONFIG_MSIX_VECTOR, 2, 0],
    [c.QUEUE_SELECT, 2, 0],
    [c.QUEUE_SIZE, 2, 4],
    [c.QUEUE_MSIX_VECTOR, 2, 1],
    [c.QUEUE_DESC, 4, 0x1000],
    [c.QUEUE_DRIVER, 4, 0x2000],
    [c.QUEUE_DEVICE, 4, 0x3000],
    [c.QUEUE_ENABLE, 2, 1],
    [c.DEVICE_STATUS, 1, 15],
  ]
  const live: Write[] = [
    [c.QUEUE_SELECT, 2, 1],
    [c.QUEUE_RESET, 2, 1],
    [c.QUEUE_SIZE, 2, 2],
    [c.QUEUE_ENABLE, 2, 1],
    [c.QUEUE_MSIX_VECTOR, 2, 9],
    [c.DEVICE_STATUS, 1, 0],
  ]
  return [0, 2, 6, 14, 1, 3, 7, 15].map((flags) => writes(flags, (flags & 1) === 0 ? negotiate : live))
}

export const target: FuzzTarget = { about: "registers of virtio-pci", maxBytes: 1024, seeds, run }
