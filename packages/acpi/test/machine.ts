import type { MachineDescription, PciHostDescription, PowerManagement } from "@virtkit/acpi"

/** A machine with one of everything; override what a test is about. */
export function fullMachine(overrides: Partial<MachineDescription> = {}): MachineDescription {
  return {
    cpus: [{ apicId: 0 }, { apicId: 2 }],
    powerManagement: {
      sleepControlPort: 0x600,
      sleepStatusPort: 0x601,
      reset: { port: 0x602, value: 1 },
      powerButton: { statusPort: 0x604, gsi: 9 },
    },
    serialPorts: [{ port: 0x3f8, gsi: 4 }],
    rtc: { port: 0x70, gsi: 8 },
    virtioMmio: [
      { address: 0xd0000000, gsi: 16 },
      { address: 0xd0001000, gsi: 17 },
    ],
    pvpanic: { port: 0x505 },
    ...overrides,
  }
}

/** Power management of a machine that is not hardware-reduced. */
export function fixedHardware(): PowerManagement {
  const { powerManagement } = fullMachine()
  return { ...powerManagement!, fixedHardware: { eventPort: 0x608, controlPort: 0x60c, gsi: 12 } }
}

/** A host bridge with all that one can have. */
export function fullPci(overrides: Partial<PciHostDescription> = {}): PciHostDescription {
  return {
    ecam: { address: 0xe0000000, buses: 256 },
    windows: {
      io: { address: 0x1000, size: 0xf000 },
      memory32: { address: 0xc0000000, size: 0x1000_0000 },
      memory64: { address: 2 ** 40, size: 2 ** 39 },
    },
    conf1: true,
    interruptGsis: [16, 17, 18, 19],
    rootPorts: [
      { device: 1, slot: 0 },
      { device: 0x1f, slot: 31 },
    ],
    hotPlug: { port: 0x620 },
    ...overrides,
  }
}

/** "0a 1b" as bytes. */
export function hex(text: string): Uint8Array {
  return Uint8Array.from(text.match(/[0-9a-f]{2}/gi) ?? [], (pair) => Number.parseInt(pair, 16))
}

/** The ASCII characters at [offset, offset + length). */
export function text(bytes: Uint8Array, offset: number, length: number): string {
  return String.fromCharCode(...bytes.subarray(offset, offset + length))
}

export function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
}
