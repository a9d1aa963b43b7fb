/**
 * Kernels of a few instructions: flat 32-bit code with paging off that a PVH boot enters, without stack or interrupts.
 * They need nothing that a KVM in software lacks, so they run on every /dev/kvm.
 */
export type Code = readonly number[]

const LOAD_ADDRESS = 0x10_0000
/** RAM that is zero: limit and base of an empty interrupt descriptor table. */
const EMPTY_IDT = 0x20_0000
/** Where `countForever` counts. */
export const COUNTER = 0x30_0000
/** No RAM and no device is here in any guest of less than 3 GiB. */
const NOWHERE = 0xd080_0000

/** `value` as `size` bytes, little-endian. */
function le(value: number, size: number): number[] {
  return Array.from({ length: size }, (_, index) => Math.floor(value / 2 ** (8 * index)) & 0xff)
}

/** Writes a byte to a port. */
export function out(port: number, value: number): Code {
  return [0x66, 0xba, ...le(port, 2), 0xb0, value, 0xee] // mov dx, port; mov al, value; out dx, al
}

/** Writes a text to the serial port, byte by byte. */
export function say(text: string): Code {
  return [...Buffer.from(text, "latin1")].flatMap((byte) => out(0x3f8, byte))
}

/** ACPI S5: sleep type 5 and the enable bit, to the sleep control port. */
export const powerOff: Code = [...out(0x600, (5 << 2) | (1 << 5)), 0xeb, 0xfe]
/** The ACPI reset register. */
export const acpiReset: Code = [...out(0x602, 1), 0xeb, 0xfe]
/** The keyboard controller pulses the reset line. */
export const keyboardReset: Code = [...out(0x64, 0xfe), 0xeb, 0xfe]
/** What a panicking kernel tells the pvpanic device. */
export const reportPanic: Code = [...out(0x505, 1), 0xeb, 0xfe]
/** Jumps to itself. */
export const spin: Code = [0xeb, 0xfe]
/** Sleeps for ever: interrupts are off. */
export const halt: Code = [0xf4, 0xeb, 0xfd]
/** lidt of an empty table, then ud2: the fault, the double fault and the triple fault. */
export const tripleFault: Code = [0x0f, 0x01, 0x1d, ...le(EMPTY_IDT, 4), 0x0f, 0x0b]
/** Goes on where there is nothing to execute, which no KVM can emulate. */
export const jumpNowhere: Code = [0xb8, ...le(NOWHERE, 4), 0xff, 0xe0] // mov eax, NOWHERE; jmp eax
/** Adds one to the 32 bits at COUNTER, again and again. */
export const countForever: Code = [0xff, 0x05, ...le(COUNTER, 4), 0xeb, 0xf8] // inc [COUNTER]; jmp

/** The accumulator's low byte to the serial port. */
export const sayAl: Code = [0x66, 0xba, ...le(0x3f8, 2), 0xee]

/** Low byte first, what a leaf of CPUID has in EAX. */
export function sayCpuid(leaf: number): Code {
  const next = [0xc1, 0xe8, 0x08] // shr eax, 8
  const ask = [0xb8, ...le(leaf, 4), 0x31, 0xc9, 0x0f, 0xa2] // mov eax, leaf; xor ecx, ecx; cpuid
  return [...ask, ...[0, 1, 2, 3].flatMap(() => [...sayAl, ...next])]
}

/** Model specific register to EDX:EAX. */
export function readMsr(index: number): Code {
  return [0xb9, ...le(index, 4), 0x0f, 0x32] // mov ecx, index; rdmsr
}

/** `low` and 0 above it to a model specific register. */
export function writeMsr(index: number, low: number): Code {
  return [0xb9, ...le(index, 4), 0xb8, ...le(low, 4), 0x31, 0xd2, 0x0f, 0x30] // ...; xor edx, edx; wrmsr
}

/** A bit for each x2APIC id that `startProcessors` found. */
export const APIC_IDS = 0x9100
const STARTED = 0x9000
const TRAMPOLINE = 0x8000

/**
 * Starts all other processors by INIT and SIPI and waits until `count` of them have counted themselves and marked their
 * ids, as leaf 0xb tells them, at APIC_IDS. Marks its own too.
 */
export function startProcessors(count: number): Code {
  const leaf = [0xb8, ...le(0xb, 4), 0x31, 0xc9, 0x0f, 0xa2] // mov eax, 0xb; xor ecx, ecx; cpuid
  // 16-bit code, data segment 0: the same with 32-bit operands, lock bts [APIC_IDS], edx; lock inc dword [STARTED].
  const trampoline = [
    ...[0xfa, 0x66, 0xb8, ...le(0xb, 4), 0x66, 0x31, 0xc9, 0x0f, 0xa2],
    ...[0x66, 0x67, 0xf0, 0x0f, 0xab, 0x15, ...le(APIC_IDS, 4)],
    ...[0xf0, 0x66, 0xff, 0x06, ...le(STARTED, 2), 0xf4, 0xeb, 0xfd],
  ]
  const copy = Array.from({ length: Math.ceil(trampoline.length / 4) }, (_, at) => {
    const word = trampoline.slice(at * 4, at * 4 + 4)
    return [0xc7, 0x05, ...le(TRAMPOLINE + at * 4, 4), ...word, ...le(0, 4 - word.length)] // mov [TRAMPOLINE], word
  })
  const apic = (register: number, value: number) => [
    0xc7,
    0x05,
    ...le(0xfee0_0000 + register, 4),
    ...le(value, 4),
  ]
  const wait = [0xf3, 0x90, 0x81, 0x3d, ...le(STARTED, 4), ...le(count, 4)] // pause; cmp [STARTED], count
  return [
    ...copy.flat(),
    ...[...leaf, 0xf0, 0x0f, 0xab, 0x15, ...le(APIC_IDS, 4)],
    ...apic(0xf0, 0x1ff), // enabled
    ...apic(0x300, 0x000c_4500), // INIT to all but itself
    ...apic(0x300, 0x000c_4600 | (TRAMPOLINE >> 12)), // SIPI
    ...[...wait, 0x75, -(wait.length + 2) & 0xff], // jne
  ]
}

/** Reads every 32-bit word from `address` up to `address + size`. Uses ESI and EAX. */
export function readRange(address: number, size: number): Code {
  const step = [0x8b, 0x06, 0x83, 0xc6, 0x04, 0x81, 0xfe, ...le(address + size, 4)] // mov eax, [esi]; add esi, 4; cmp
  return [0xbe, ...le(address, 4), ...step, 0x72, -(step.length + 2) & 0xff] // mov esi, address; ...; jb
}

/** Stores `value` to every 32-bit word from `address` up to `address + size`. Uses ESI. */
export function fillRange(address: number, size: number, value: number): Code {
  const step = [0xc7, 0x06, ...le(value, 4), 0x83, 0xc6, 0x04, 0x81, 0xfe, ...le(address + size, 4)]
  return [0xbe, ...le(address, 4), ...step, 0x72, -(step.length + 2) & 0xff]
}

/** Writes the four bytes at `address`, read one by one, to the serial port. */
export function sayMemory(address: number): Code {
  const byte = (at: number) => [0x66, 0xba, ...le(0x3f8, 2), 0xa0, ...le(at, 4), 0xee] // mov al, [at]; out dx, al
  return [0, 1, 2, 3].flatMap((offset) => byte(address + offset))
}

/**
 * Echoes what it reads from the serial port, until it reads "q", then it powers off, or "x", then it crashes. Between
 * looks at the port it counts to a few thousand, so that several of them leave the host a processor.
 */
export const echo: Code = [
  ...[0xb9, ...le(5000, 4), 0xe2, 0xfe], //        0: mov ecx, 5000; loop to itself
  ...[0x66, 0xba, ...le(0x3fd, 2), 0xec], //       7: mov dx, line status; in al, dx
  ...[0xa8, 0x01, 0x74, -16 & 0xff], //           12: test al, data ready; jz 0
  ...[0x66, 0xba, ...le(0x3f8, 2), 0xec], //      16: mov dx, data; in al, dx
  ...[0x3c, 0x71, 0x74, 0x07], //                 21: cmp al, "q"; je 32
  ...[0x3c, 0x78, 0x74, 3 + powerOff.length], //  25: cmp al, "x"; je behind the power-off
  ...[0xee, 0xeb, -32 & 0xff], //                 29: out dx, al; jmp 0
  ...powerOff, //                                 32
  ...tripleFault,
]

const HEADERS = 64 + 2 * 56
const XEN_ELFNOTE_PHYS32_ENTRY = 18
const PT_LOAD = 1
const PT_NOTE = 4

/** An ELF executable with one loadable segment and the note that says where a PVH boot enters it. */
export function guestImage(...parts: readonly Code[]): Uint8Array {
  const code = parts.flat()
  const note = [
    ...[...le(4, 4), ...le(4, 4), ...le(XEN_ELFNOTE_PHYS32_ENTRY, 4)],
    ...[...Buffer.from("Xen\0"), ...le(LOAD_ADDRESS, 4)],
  ]
  const header = [
    ...[0x7f, 0x45, 0x4c, 0x46, 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    ...[...le(2, 2), ...le(62, 2), ...le(1, 4), ...le(LOAD_ADDRESS, 8)], // ET_EXEC, EM_X86_64, version, entry
    ...[...le(64, 8), ...le(0, 8), ...le(0, 4)], // program headers, no section headers, flags
    ...[64, 56, 2, 0, 0, 0].flatMap((value) => le(value, 2)),
  ]
  const segment = (type: number, offset: number, address: number, size: number) => [
    ...[...le(type, 4), ...le(5, 4), ...le(offset, 8), ...le(address, 8), ...le(address, 8)],
    ...[...le(size, 8), ...le(size, 8), ...le(4, 8)],
  ]
  return Uint8Array.from([
    ...header,
    ...segment(PT_LOAD, HEADERS + note.length, LOAD_ADDRESS, code.length),
    ...segment(PT_NOTE, HEADERS, 0, note.length),
    ...note,
    ...code,
  ])
}
