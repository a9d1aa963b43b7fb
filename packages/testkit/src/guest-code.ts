/**
 * A few x86 instructions as bytes, for guests of a test: real mode (16-bit) unless the name ends in 64. Operands as in
 * Intel's syntax. Only what a test of a VMM needs; encodings from the instruction set reference.
 */
export type Code = readonly number[]

const imm16 = (value: number): Code => [value & 0xff, (value >> 8) & 0xff]
const imm32 = (value: number): Code => [...imm16(value), ...imm16(value >>> 16)]

/** Instructions after each other. */
export function program(...parts: Code[]): Uint8Array<ArrayBuffer> {
  return new Uint8Array(parts.flat())
}

/** `body`, `times` times; uses CX. Needs 0 < times < 65536 and a body of at most 120 bytes. */
export function repeat(times: number, ...body: Code[]): Code {
  const inner = body.flat()
  // loop: body; dec cx; jnz loop
  return [...movCx(times), ...inner, 0x49, 0x75, -(inner.length + 3) & 0xff]
}

/** `jmp` to itself: runs until something stops the vCPU. */
export const spin: Code = [0xeb, 0xfe]
/** `body` for ever. */
export function forever(...body: Code[]): Code {
  const inner = body.flat()
  return [...inner, 0xeb, -(inner.length + 2) & 0xff]
}

export const movAl = (value: number): Code => [0xb0, value & 0xff]
export const movAx = (value: number): Code => [0xb8, ...imm16(value)]
export const movEax = (value: number): Code => [0x66, 0xb8, ...imm32(value)]
export const movCx = (value: number): Code => [0xb9, ...imm16(value)]
export const movEcx = (value: number): Code => [0x66, 0xb9, ...imm32(value)]
export const movDx = (value: number): Code => [0xba, ...imm16(value)]
export const movEdx = (value: number): Code => [0x66, 0xba, ...imm32(value)]
export const movSi = (value: number): Code => [0xbe, ...imm16(value)]
export const movDi = (value: number): Code => [0xbf, ...imm16(value)]

/** Accumulator of 1, 2 or 4 bytes to the port in DX, and back. */
export const outDx: Readonly<Record<1 | 2 | 4, Code>> = { 1: [0xee], 2: [0xef], 4: [0x66, 0xef] }
export const inDx: Readonly<Record<1 | 2 | 4, Code>> = { 1: [0xec], 2: [0xed], 4: [0x66, 0xed] }

/** `value` to `port`. */
export function out(port: number, size: 1 | 2 | 4, value: number): Code {
  return [...movDx(port), ...movEax(value), ...outDx[size]]
}

/** REP OUTS/INS of CX elements, DS:SI to the port in DX, the port to ES:DI. */
export const repOuts: Readonly<Record<1 | 2 | 4, Code>> = {
  1: [0xf3, 0x6e],
  2: [0xf3, 0x6f],
  4: [0x66, 0xf3, 0x6f],
}
export const repIns: Readonly<Record<1 | 2 | 4, Code>> = {
  1: [0xf3, 0x6c],
  2: [0xf3, 0x6d],
  4: [0x66, 0xf3, 0x6d],
}

/** Accumulator to memory at DS:offset, and back. */
export function store(offset: number, size: 1 | 2 | 4): Code {
  return [...(size === 4 ? [0x66] : []), size === 1 ? 0xa2 : 0xa3, ...imm16(offset)]
}
export function load(offset: number, size: 1 | 2 | 4): Code {
  return [...(size === 4 ? [0x66] : []), size === 1 ? 0xa0 : 0xa1, ...imm16(offset)]
}

export const hlt: Code = [0xf4]
export const cli: Code = [0xfa]
export const sti: Code = [0xfb]
export const nop: Code = [0x90]
export const iret: Code = [0xcf]
export const ud2: Code = [0x0f, 0x0b]
export const rdmsr: Code = [0x0f, 0x32]
export const wrmsr: Code = [0x0f, 0x30]
export const cpuid: Code = [0x0f, 0xa2]
export const incAx: Code = [0x40]

/** 64-bit: RAX to memory at RBX and back. */
export const storeRax64: Code = [0x48, 0x89, 0x03]
export const loadRax64: Code = [0x48, 0x8b, 0x03]
