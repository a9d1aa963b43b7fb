import { ConfigError } from "@virtkit/interface"
import { type Aml, concat, nameString } from "./encoding.js"
import { type Operand, operand, packaged } from "./objects.js"

/** A target that throws the result away. */
export const NOTHING: Aml = Uint8Array.of(0x00)

/** `Arg0` to `Arg6`. */
export function arg(index: number): Aml {
  if (!(index >= 0 && index <= 6)) throw new ConfigError(`there is no Arg${index}`)
  return Uint8Array.of(0x68 + index)
}

/** `Local0` to `Local7`. */
export function local(index: number): Aml {
  if (!(index >= 0 && index <= 7)) throw new ConfigError(`there is no Local${index}`)
  return Uint8Array.of(0x60 + index)
}

/** A call of the method `path`. The number of arguments must be what the method declares. */
export function call(path: string, ...args: Operand[]): Aml {
  return concat([nameString(path), ...args.map(operand)])
}

/** `If (predicate) { … }`. */
export function ifThen(predicate: Operand, ...terms: Aml[]): Aml {
  return packaged([0xa0], operand(predicate), ...terms)
}

/** `Else { … }`, right after an {@link ifThen}. */
export function otherwise(...terms: Aml[]): Aml {
  return packaged([0xa1], ...terms)
}

/** `While (predicate) { … }`. */
export function whileDo(predicate: Operand, ...terms: Aml[]): Aml {
  return packaged([0xa2], operand(predicate), ...terms)
}

/** `Return (value)`. */
export function returnValue(value: Operand): Aml {
  return term(0xa4, value)
}

/** `Store (source, target)`. */
export function store(source: Operand, target: Operand): Aml {
  return term(0x70, source, target)
}

/** `Notify (object, value)`. */
export function notify(object: string, value: Operand): Aml {
  return term(0x86, object, value)
}

/** `LAnd`, `LOr`, `LNot`, `LEqual`, `LGreater`, `LLess`: all ones when true, otherwise zero. */
export function logicalAnd(a: Operand, b: Operand): Aml {
  return term(0x90, a, b)
}
export function logicalOr(a: Operand, b: Operand): Aml {
  return term(0x91, a, b)
}
export function logicalNot(a: Operand): Aml {
  return term(0x92, a)
}
export function equal(a: Operand, b: Operand): Aml {
  return term(0x93, a, b)
}
export function greater(a: Operand, b: Operand): Aml {
  return term(0x94, a, b)
}
export function less(a: Operand, b: Operand): Aml {
  return term(0x95, a, b)
}

/** Arithmetic and bit operations: they give the result and also store it in `target`, if that is not {@link NOTHING}. */
export function add(a: Operand, b: Operand, target: Operand = NOTHING): Aml {
  return term(0x72, a, b, target)
}
export function subtract(a: Operand, b: Operand, target: Operand = NOTHING): Aml {
  return term(0x74, a, b, target)
}
export function shiftLeft(a: Operand, count: Operand, target: Operand = NOTHING): Aml {
  return term(0x79, a, count, target)
}
export function shiftRight(a: Operand, count: Operand, target: Operand = NOTHING): Aml {
  return term(0x7a, a, count, target)
}
export function and(a: Operand, b: Operand, target: Operand = NOTHING): Aml {
  return term(0x7b, a, b, target)
}
export function or(a: Operand, b: Operand, target: Operand = NOTHING): Aml {
  return term(0x7d, a, b, target)
}

/** `CreateDWordField (source, byteIndex, path)`: names 4 bytes of a buffer. */
export function createDWordField(source: Operand, byteIndex: Operand, path: string): Aml {
  return term(0x8a, source, byteIndex, path)
}

function term(opcode: number, ...operands: Operand[]): Aml {
  return concat([Uint8Array.of(opcode), ...operands.map(operand)])
}
