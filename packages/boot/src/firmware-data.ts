import { ConfigError, type GuestMemory } from "@virtkit/interface"
import { type AddressRange, lowMemoryEnd, MEMORY_TYPE, type MemoryMapEntry } from "./memory-map.js"

const GIB_4 = 0x1_0000_0000
const KIB = 1024
const MIB = KIB * KIB
/** CMOS counts memory above 16 MiB in these units. */
const CMOS_UNIT = 64 * KIB
/** Less has no room for what firmware needs for itself. */
const MIN_MEMORY = 16 * MIB

export interface FirmwareFilesOptions {
  readonly memory: GuestMemory
  /** What {@link firmwareTables} gave. */
  readonly tables: AddressRange
  /** Told as reserved beside that, outside of RAM: configuration space, the ROM. */
  readonly reserved: readonly AddressRange[]
  /** The ACPI root pointer, 36 bytes, complete: firmware puts it where an operating system looks. */
  readonly rsdp: Uint8Array
  /** I/O port of the serial line that SeaBIOS uses as its screen and keyboard. */
  readonly serialPort: number
}

/** The files of fw_cfg, by name, in which firmware for QEMU's machines finds out about the machine. */
export function firmwareFiles(options: FirmwareFilesOptions): Record<string, Uint8Array> {
  const { memory, tables, reserved, rsdp, serialPort } = options
  const map: MemoryMapEntry[] = [
    { address: 0, size: tables.address, type: MEMORY_TYPE.ram },
    ...[tables, ...reserved].map((range) => ({ ...range, type: MEMORY_TYPE.reserved })),
    ...highMemory(memory).map((range) => ({ ...range, type: MEMORY_TYPE.ram })),
  ]
  return {
    "etc/e820": e820(map),
    "etc/acpi/rsdp": rsdp,
    "etc/table-loader": allocate("etc/acpi/rsdp"),
    "etc/sercon-port": littleEndian(serialPort, 2),
    // For ever: a machine that has nothing to boot says so, and does not start again and again.
    "etc/boot-fail-wait": littleEndian(0xffff_ffff, 4),
  }
}

function highMemory(memory: GuestMemory): AddressRange[] {
  return memory.regions
    .filter(({ guestAddress }) => guestAddress >= GIB_4)
    .map(({ guestAddress, size }) => ({ address: guestAddress, size }))
}

/**
 * The end of low RAM, `bytes` of it (a multiple of 64 KiB), which firmware and operating system are told to leave alone:
 * the place of the tables. Throws {@link ConfigError} when there is less memory than firmware can do with.
 */
export function firmwareTables(memory: GuestMemory, bytes: number): AddressRange {
  const end = Math.floor(lowMemoryEnd(memory) / CMOS_UNIT) * CMOS_UNIT
  if (end - bytes < MIN_MEMORY) throw new ConfigError("memory: firmware needs more than 16M")
  return { address: end - bytes, size: bytes }
}

/** struct e820_entry of fw_cfg's etc/e820: address and size of 64 bits, type of 32. */
function e820(map: readonly MemoryMapEntry[]): Uint8Array {
  const bytes = new Uint8Array(map.length * 20)
  map.forEach(({ address, size, type }, index) => {
    bytes.set(littleEndian(address, 8), index * 20)
    bytes.set(littleEndian(size, 8), index * 20 + 8)
    bytes.set(littleEndian(type, 4), index * 20 + 16)
  })
  return bytes
}

const ALLOCATE = 1
const ZONE_F_SEGMENT = 2

/**
 * A script of one command for the loader of ACPI tables (docs of QEMU: etc/table-loader): copy a file to between 0xf0000
 * and 1 MiB. The tables themselves are in place already, with all their pointers and sums.
 */
function allocate(file: string): Uint8Array {
  const command = new Uint8Array(128)
  command.set(littleEndian(ALLOCATE, 4), 0)
  command.set(new TextEncoder().encode(file), 4)
  command.set(littleEndian(16, 4), 60)
  command[64] = ZONE_F_SEGMENT
  return command
}

/** CMOS memory by register: where a PC's BIOS, and U-Boot, find the size of RAM. */
export function firmwareCmos(memory: GuestMemory, tables: AddressRange): ReadonlyMap<number, number> {
  const low = tables.address
  const high = highMemory(memory).reduce((sum, { size }) => sum + size, 0)
  const registers = new Map<number, number>()
  const set = (register: number, count: number, value: number) => {
    for (const [index, byte] of littleEndian(value, count).entries()) registers.set(register + index, byte)
  }
  set(0x15, 2, 640) // KiB below 1 MiB
  const extended = Math.min(0xffff, low / KIB - 1024) // KiB from 1 MiB on
  set(0x17, 2, extended)
  set(0x30, 2, extended)
  set(0x34, 2, (low - 16 * MIB) / CMOS_UNIT)
  set(0x5b, 3, Math.min(0xff_ffff, Math.floor(high / CMOS_UNIT)))
  return registers
}

function littleEndian(value: number, bytes: number): Uint8Array {
  return Uint8Array.from({ length: bytes }, (_, index) => Math.floor(value / 256 ** index) % 256)
}
