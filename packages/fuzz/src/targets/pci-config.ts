import { PciBus } from "@virtkit/pci"
import {
  EchoDevice,
  FakePciHost,
  PCI,
  type PciAddress,
  PciDriver,
  type PciSpace,
  TestMemory,
} from "@virtkit/testkit"
import { VirtioPci } from "@virtkit/virtio-pci"
import { Input, Output } from "../input.js"
import { type FuzzTarget, must } from "../target.js"

const ECAM = 0xe000_0000
const ECAM_BYTES = 0x100_0000
const WINDOWS = {
  io: { address: 0x1000, size: 0xf000 },
  memory32: { address: 0xd000_0000, size: 0x800_0000 },
  memory64: { address: 0x40_0000_0000, size: 0x40_0000_0000 },
} as const
const CONF1 = 0xcf8
const MOST_STEPS = 80
const SIZES = [1, 2, 4] as const
/** Registers that do something, beside the capabilities. */
const OFFSETS = [4, 6, 0x10, 0x14, 0x18, 0x19, 0x1a, 0x1c, 0x20, 0x24, 0x28, 0x2c, 0x30, 0x3c, 0x3e]
const STEP = { config: 0, ports: 1, mapped: 2, anywhere: 3, turn: 4 } as const
const STEPS = 5

/** Two virtio devices, the second behind a root port, and a guest with both ways into configuration space. */
function machine() {
  const memory = new TestMemory({ regions: [{ guestAddress: 0, size: 0x1_0000 }] })
  const host = new FakePciHost({ memory, pages: true })
  const bus = new PciBus({ host, ecam: { address: ECAM, buses: 16 }, windows: WINDOWS })
  host.map("io", CONF1, 8, bus.conf1)
  const errors: unknown[] = []
  const onError = (error: unknown) => errors.push(error)
  bus.add(new VirtioPci({ device: new EchoDevice(), onError }))
  bus.add(new VirtioPci({ device: new EchoDevice({ queueReset: true }), onError }), {
    port: bus.addRootPort(),
  })
  bus.assignResources()
  const ecam = new PciDriver({ access: host, config: ECAM })
  const conf1 = new PciDriver({ access: host, config: "conf1" })
  return { host, bus, ecam, conf1, errors }
}

type Machine = ReturnType<typeof machine>

async function step(pc: Machine, input: Input): Promise<void> {
  const { host } = pc
  const access = async (space: PciSpace, address: number, size: 1 | 2 | 4, value: number) => {
    const pending = host.write(space, address, size, size === 4 ? value : value & (2 ** (8 * size) - 1))
    if (pending !== undefined) await pending
    const read = host.read(space, address, size)
    must(Number.isInteger(read) && read >= 0 && read < 2 ** (8 * size), `${size} bytes read as ${read}`)
  }
  const kind = input.u8() % STEPS
  const where = input.u8()
  const pick = input.u8()
  const size = input.pick(SIZES)
  const short = input.u8()
  const value = short === 0xff ? input.u32() : short
  const offset = pick < 0x80 ? OFFSETS[pick % OFFSETS.length]! : (pick & 0x7f) * 2
  if (kind === STEP.config) {
    const at = addresses(pc)[where % 4]!
    const config = where & 0x80 ? pc.conf1 : pc.ecam
    const pending = config.writeConfig(at, offset & ~(size - 1), size, value)
    if (pending !== undefined) await pending
    config.readConfig(at, offset & ~(size - 1), size)
  } else if (kind === STEP.ports) {
    await access("io", CONF1 - 2 + (where % 12), size, value)
  } else if (kind === STEP.mapped) {
    const { space, address, size: length } = host.mappings[where % host.mappings.length]!
    // Bytes are what the bus splits unaligned accesses into.
    await access(space, address + ((pick * 0x41) % length), size, value)
  } else if (kind === STEP.anywhere) {
    const window = [WINDOWS.io, WINDOWS.memory32, WINDOWS.memory64, { address: ECAM, size: ECAM_BYTES }][
      where % 4
    ]!
    await access(where % 4 === 0 ? "io" : "memory", window.address - 8 + pick * (where + 1) * 64, size, value)
  } else {
    await new Promise((resolve) => setImmediate(resolve))
  }
}

/** Of the bridge, the device, the port and what is behind it, as buses are numbered now. */
function addresses({ ecam }: Machine): PciAddress[] {
  const secondary = ecam.readConfig({ bus: 0, device: 2 }, PCI.SECONDARY_BUS, 1)
  return [
    { bus: 0, device: 0 },
    { bus: 0, device: 1 },
    { bus: 0, device: 2 },
    { bus: secondary, device: 0 },
  ]
}

/** What no guest can change: IDs, class, header type, headers of capabilities. */
function fixed({ ecam }: Machine, at: PciAddress): string {
  const offsets = [0, 1, 2, 3, 8, 9, 10, 11, 14, 0x34, 0x3d]
  for (const { offset } of ecam.capabilities(at)) offsets.push(offset, offset + 1)
  return offsets.map((offset) => ecam.readConfig(at, offset, 1)).join(" ")
}

/** Configuration stays in the ECAM, BARs stay in a window. */
function checkMappings({ host }: Machine): void {
  for (const { space, address, size, device } of host.mappings) {
    if (address === CONF1) continue
    const config = { address: ECAM, size: ECAM_BYTES }
    const ranges = space === "io" ? [WINDOWS.io] : [WINDOWS.memory32, WINDOWS.memory64, config]
    const inside = ranges.some((one) => address >= one.address && address + size <= one.address + one.size)
    must(inside, `${device.name} at ${space} 0x${address.toString(16)}`)
  }
}

/** Both ways into configuration space show the same. */
function checkViews(pc: Machine): void {
  for (const at of addresses(pc)) {
    for (let offset = 0; offset < 256; offset += 4) {
      const [memory, ports] = [pc.ecam, pc.conf1].map((config) => config.readConfig(at, offset, 4))
      must(memory === ports, `0x${offset.toString(16)} is ${memory} in memory and ${ports} by ports`)
    }
  }
}

/** A saved state makes the same machine. */
function checkState(pc: Machine): void {
  const state = structuredClone(pc.bus.state())
  const copy = machine()
  copy.bus.restore(state)
  const same = JSON.stringify(copy.bus.state(), plain) === JSON.stringify(state, plain)
  must(same, "a state that was restored is another one")
}

async function run(bytes: Uint8Array): Promise<Iterable<string>> {
  const input = new Input(bytes)
  const flags = input.u8()
  const pc = machine()
  const before = addresses(pc).map((at) => fixed(pc, at))
  const events = new Set<string>()
  for (let steps = 0; input.left > 0 && steps < MOST_STEPS; steps++) {
    await step(pc, input)
    checkMappings(pc)
    for (const { space, device } of pc.host.mappings) events.add(`${space} ${device.name}`)
    events.add(`${pc.host.mappings.length} mappings, lines ${pc.host.lines.map(Number).join("")}`)
  }
  must(pc.errors.length === 0, `a device threw: ${pc.errors[0]}`)
  // As it was numbered at first: behind the port there is a device again.
  void pc.ecam.writeConfig({ bus: 0, device: 2 }, PCI.PRIMARY_BUS, 4, 0x01_01_00)
  const after = addresses(pc).map((at) => fixed(pc, at))
  must(JSON.stringify(after) === JSON.stringify(before), `what is fixed has changed: ${after} ${before}`)
  // These take most of the time.
  if ((flags & 3) === 1) checkViews(pc)
  if ((flags & 3) === 2) checkState(pc)
  return events
}

function plain(_key: string, value: unknown): unknown {
  return typeof value === "bigint" ? `${value}n` : value instanceof Uint8Array ? Array.from(value) : value
}

function seeds(): Uint8Array[] {
  const config = (where: number, offset: number, size: number, value: number) =>
    new Output().u8(STEP.config, where, OFFSETS.indexOf(offset), [1, 2, 4].indexOf(size), 0xff).u32(value)
      .input
  const list = [
    [
      config(1, 4, 2, 0),
      config(1, 0x10, 4, 0xffff_ffff),
      config(1, 0x10, 4, 0xd100_0000),
      config(1, 4, 2, 7),
    ],
    [config(2, 4, 2, 7), config(2, 0x20, 4, 0xd010_d010), config(2, 0x1c, 2, 0x2010), config(0x83, 4, 2, 6)],
    [config(2, 0x18, 4, 0x0303_00), config(3, 4, 2, 7), config(2, 0x3e, 2, 0x40), config(2, 0x3e, 2, 0)],
    [
      config(0x81, 0x20, 4, 0xffff_ffff),
      config(0x81, 0x24, 4, 0x40),
      config(0x81, 0x20, 4, 0),
      config(1, 4, 2, 0x406),
    ],
    [Uint8Array.of(STEP.ports, 2, 0, 2, 0xff, 0, 8, 0, 0x80, STEP.ports, 6, 0, 1, 7)],
    [Uint8Array.of(STEP.mapped, 6, 5, 2, 1, STEP.mapped, 7, 9, 0, 15, STEP.turn, 0, 0, 0, 0)],
  ]
  return list.map((parts, index) => new Uint8Array(Buffer.concat([Uint8Array.of(index % 3), ...parts])))
}

export const target: FuzzTarget = {
  about: "PCI configuration space, BARs and MSI-X tables of virtio devices and a root port",
  maxBytes: 768,
  seeds,
  run,
}
