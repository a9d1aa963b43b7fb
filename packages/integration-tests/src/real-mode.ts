/** Bytes of a disk's sector. */
const SECTOR = 512
/** Where a BIOS loads the first sector of a disk, and starts it in real mode with the drive's number in DL. */
const LOAD_ADDRESS = 0x7c00
/** Where the sector that is read goes. */
const BUFFER = 0x8000
/** To the ACPI sleep control port: sleep type 5 and the enable bit. */
const S5 = (5 << 2) | (1 << 5)

interface BootSectorOptions {
  /** Number of the sector whose text, up to its first NUL, is said on the BIOS's screen. */
  readonly read: number
  /** Number of the sector that the same is then written to. */
  readonly write: number
}

/**
 * The first sector of a disk that a BIOS boots: it reads and writes sectors by INT 13h, the BIOS's own disk driver, and
 * then powers off. It says "!" when the BIOS reports an error.
 */
export function bootSector({ read, write }: BootSectorOptions): Uint8Array {
  // sti, and three ticks of the BIOS's clock (hlt), with which it brings its screen to the serial line.
  const wait = [0xfb, 0xf4, 0xf4, 0xf4]
  const powerOff = [...wait, 0xba, 0x00, 0x06, 0xb0, S5, 0xee, 0xf4, 0xeb, 0xfd] // out 0x600, S5; hlt; jmp to the hlt
  const fail = [0xb8, 0x21, 0x0e, 0xcd, 0x10] // mov ax, teletype of "!"; int 0x10
  const start = [0x31, 0xc0, 0x8e, 0xd8, 0x8e, 0xd0, 0xbc, 0x00, 0x7c] // xor ax, ax; mov ds, ax; mov ss, ax; mov sp
  const print = [
    ...[0xfc, 0xbe, BUFFER & 0xff, BUFFER >> 8], // cld; mov si, BUFFER
    ...[0xac, 0x84, 0xc0, 0x74, 6 + 2], // lodsb; test al, al; jz behind the jmp
    ...[0xb4, 0x0e, 0xcd, 0x10, 0xeb, -11 & 0xff], // mov ah, teletype; int 0x10; jmp to the lodsb
    ...[0xeb, fail.length], // jmp over fail
  ]
  const CALL = 10
  const packets = LOAD_ADDRESS + start.length + 2 * CALL + print.length + fail.length + powerOff.length
  /** INT 13h with `function` in AH and a packet; to `fail` on carry, `skip` bytes on. */
  const call = (operation: number, packet: number, skip: number) => [
    ...[0xb8, 0x00, operation, 0xbe, packet & 0xff, packet >> 8], // mov ax; mov si
    ...[0xcd, 0x13, 0x72, skip], // int 0x13; jc
  ]
  const bytes = new Uint8Array(SECTOR)
  bytes.set([
    ...start,
    ...call(0x42, packets, CALL + print.length),
    ...call(0x43, packets + 16, print.length),
    ...print,
    ...fail,
    ...powerOff,
    ...diskAddress(read),
    ...diskAddress(write),
  ])
  bytes.set([0x55, 0xaa], SECTOR - 2)
  return bytes
}

/** The disk address packet of INT 13h, functions 42h and 43h: one sector from or to BUFFER. */
function diskAddress(sector: number): number[] {
  const little = (value: number, size: number) =>
    Array.from({ length: size }, (_, index) => Math.floor(value / 256 ** index) & 0xff)
  return [16, 0, ...little(1, 2), ...little(BUFFER, 2), ...little(0, 2), ...little(sector, 8)]
}

const ROM_BYTES = 0x1_0000
/** A place in the ROM that holds "R". */
const ROM_BYTE = 0x1000

/**
 * A ROM of 64 KiB that writes "W" to a byte of itself, once just below 4 GiB and once in its shadow below 1 MiB, says on
 * the serial port what each of them is then, and powers off.
 */
export function handWrittenRom(): Uint8Array {
  const place = [ROM_BYTE & 0xff, ROM_BYTE >> 8]
  const rom = new Uint8Array(ROM_BYTES)
  rom.set([
    ...[0xba, 0xf8, 0x03], // mov dx, 0x3f8
    ...[0x2e, 0xc6, 0x06, ...place, 0x57, 0x2e, 0xa0, ...place, 0xee], // mov cs:[place], "W"; mov al, cs:[place]; out
    ...[0xb8, 0x00, 0xf0, 0x8e, 0xd8], // mov ax, 0xf000; mov ds, ax
    ...[0xc6, 0x06, ...place, 0x57, 0xa0, ...place, 0xee], // the same by ds
    ...[0xba, 0x00, 0x06, 0xb0, S5, 0xee, 0xf4, 0xeb, 0xfd], // out 0x600, S5; hlt; jmp to the hlt
  ])
  rom[ROM_BYTE] = 0x52
  rom.set([0xe9, 0x0d, 0x00], ROM_BYTES - 16) // jmp to the ROM's first byte
  return rom
}
