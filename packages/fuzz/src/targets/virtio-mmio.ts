import { EchoDevice, FakeInterrupt, MMIO, MmioDriver, TestMemory } from "@virtkit/testkit"
import { VirtioMmio } from "@virtkit/virtio"
import { Input, Output } from "../input.js"
import type { FuzzTarget } from "../target.js"
import { must } from "../target.js"
import { type RegisterAccess, registerSteps, STEP, wellBehaved } from "../virtio-registers.js"
import { withoutNumbers } from "../words.js"

const REGISTERS: readonly number[] = Object.values(MMIO)
/** A page: the size of the range that it answers to. */
const RANGE = 0x1000

async function run(bytes: Uint8Array): Promise<Iterable<string>> {
  const input = new Input(bytes)
  const flags = input.u8()
  const device = new EchoDevice({ queueReset: (flags & 2) !== 0 })
  const memory = new TestMemory({ regions: [{ guestAddress: 0, size: 0x1_0000 }] })
  const events = new Set<string>()
  const errors: Error[] = []
  const transport = new VirtioMmio({
    device,
    memory,
    interrupt: new FakeInterrupt(),
    onError: (error) => errors.push(error),
    onNeedsReset: (reason) => events.add(withoutNumbers(reason)),
  })
  const driver = new MmioDriver({ device: transport, memory })
  if ((flags & 1) !== 0) await driver.start({ queueSize: 4, ...((flags & 4) !== 0 ? { features: -1n } : {}) })
  const access: RegisterAccess = {
    offset: (pick) => (pick < 0x80 ? REGISTERS[pick % REGISTERS.length]! : (pick & 0x7f) * 0x21) % RANGE,
    read: (offset, size) => transport.read(offset, size),
    write: (offset, size, value) => transport.write(offset, size, value),
    status: () => transport.status,
  }
  await registerSteps(input, access, memory, events)
  must(errors.length === 0, `the device threw: ${errors[0]?.message}`)
  wellBehaved(device.calls, events)
  // Whatever happened, a reset heals it.
  await driver.start()
  const chain = await driver.request(1, { readable: [Uint8Array.of(1)], writable: [1] })
  must(chain.written === 1, "after a reset it does not work")
  return events
}

/** Writes of 4 bytes to a register. */
function writes(out: Output, ...list: (readonly [register: number, value: number])[]): Output {
  for (const [register, value] of list) out.u8(STEP.write, REGISTERS.indexOf(register), 2).u8(0xff).u32(value)
  return out
}

function seeds(): Uint8Array[] {
  const negotiate = [
    [MMIO.STATUS, 1],
    [MMIO.STATUS, 3],
    [MMIO.DRIVER_FEATURES_SEL, 1],
    [MMIO.DRIVER_FEATURES, 1],
    [MMIO.STATUS, 11],
    [MMIO.QUEUE_SEL, 0],
    [MMIO.QUEUE_SIZE, 4],
    [MMIO.QUEUE_DESC_LOW, 0x1000],
    [MMIO.QUEUE_DRIVER_LOW, 0x2000],
    [MMIO.QUEUE_DEVICE_LOW, 0x3000],
    [MMIO.QUEUE_READY, 1],
    [MMIO.STATUS, 15],
    [MMIO.QUEUE_NOTIFY, 0],
    [MMIO.INTERRUPT_ACK, 3],
    [MMIO.STATUS, 0],
  ] as const
  const live = [
    [MMIO.QUEUE_SEL, 1],
    [MMIO.QUEUE_RESET, 1],
    [MMIO.QUEUE_SIZE, 8],
    [MMIO.QUEUE_NOTIFY, 1],
    [MMIO.CONFIG, 5],
    [MMIO.STATUS, 0],
  ] as const
  const flags = [0, 2, 1, 3, 7]
  return flags.map((flag) => writes(new Output().u8(flag), ...((flag & 1) === 0 ? negotiate : live)).input)
}

export const target: FuzzTarget = { about: "registers of virtio-mmio", maxBytes: 1024, seeds, run }
