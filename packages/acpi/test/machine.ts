import type { MachineDescription } from "@virtkit/acpi"

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
