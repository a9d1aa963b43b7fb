import type { AccessSize, BusDevice } from "@virtkit/interface"
import {
  AcpiPm,
  CmosRtc,
  DebugConsole,
  DebugExit,
  FW_CFG_PORTS,
  FwCfg,
  I8042,
  PvPanic,
  ResetControl,
  Serial16550,
} from "@virtkit/legacy"
import { GuardedMemory } from "../guarded-memory.js"
import { Input } from "../input.js"
import { type FuzzTarget, must } from "../target.js"

const SIZES = [1, 2, 4] as const
const MOST_STEPS = 200
const RAM = 4096
const memory = new GuardedMemory([[0, RAM]])
const ignore = (): void => {}
const interrupt = { signal: ignore }
const shared: BusDevice = { name: "shared", read: () => 0, write: ignore }
const files = { "opt/a": Uint8Array.of(1, 2, 3), "opt/b": new Uint8Array(300) }

interface PortDevice extends BusDevice {
  state?(): unknown
  restore?(state: unknown): void
  close?(): void
}

const DEVICES: readonly (readonly [ports: number, make: () => PortDevice])[] = [
  [FW_CFG_PORTS, () => new FwCfg({ files, memory })],
  [8, () => new Serial16550({ interrupt, outputBuffer: 16 })],
  [5, () => new I8042({ onReset: ignore, interrupt })],
  [2, () => new CmosRtc({ interrupt })],
  [16, () => new AcpiPm({ interrupt, onPowerOff: ignore, onReset: ignore })],
  [8, () => new ResetControl({ onReset: ignore, shared })],
  [4, () => new DebugExit({ onExit: ignore })],
  [1, () => new DebugConsole({ onByte: ignore })],
  [1, () => new PvPanic({ onPanic: ignore })],
]

/** The first byte says which device, the rest is accesses of it; for fw_cfg the guest's memory too. */
function run(bytes: Uint8Array): Iterable<string> {
  const input = new Input(bytes)
  const [ports, make] = input.pick(DEVICES)
  memory.reset()
  let device = make()
  const events = new Set<string>()
  for (let steps = 0; input.left > 0 && steps < MOST_STEPS; steps++) {
    const how = input.u8()
    const size: AccessSize = SIZES[(how & 15) % 3]!
    const offset = (how >> 4) % ports
    if ((how & 15) === 15) {
      const address = input.u16() % RAM
      memory.writeUint8(address, input.u8())
    } else if ((how & 15) === 14) {
      device = replaced(device, make)
    } else if (offset + size <= ports) {
      if ((how & 8) === 0) {
        const value = size === 1 ? input.u8() : size === 2 ? input.u16() : input.u32()
        const pending = device.write(offset, size, value)
        must(pending === undefined, "a register that waits")
      }
      const read = device.read(offset, size)
      must(Number.isInteger(read) && read >= 0 && read < 2 ** (8 * size), `${size} bytes read as ${read}`)
      events.add(`${device.name} ${offset} ${size} ${Math.ceil(Math.log2(read + 1))}`)
    }
  }
  memory.check()
  device.close?.()
  return events
}

/** Another one with the saved state. */
function replaced(device: PortDevice, make: () => PortDevice): PortDevice {
  if (device.state === undefined) return device
  const state = structuredClone(device.state())
  device.close?.()
  const other = make()
  other.restore!(state)
  return other
}

function seeds(): Uint8Array[] {
  const all = DEVICES.map((_, index) =>
    Uint8Array.of(index, 0, 1, 0x10, 2, 0x20, 3, 0x10, 0x40, 14, 8, 0x18, 0x28),
  )
  // fw_cfg: a DMA access, big-endian: control and length, then the address of both.
  const put = (address: number, value: number) => [15, address & 0xff, address >> 8, value]
  const access = [
    [0x100, 0],
    [0x101, 0x19],
    [0x103, 0x0a],
    [0x107, 16],
    [0x10e, 2],
  ]
  const dma = [0, ...access.flatMap(([address, value]) => put(address!, value!)), 0x82, 0, 0, 1, 0]
  return [...all, Uint8Array.from(dma)]
}

export const target: FuzzTarget = {
  about: "port devices of a PC: fw_cfg, serial, i8042, CMOS, ACPI and others",
  maxBytes: 768,
  seeds,
  run,
}
