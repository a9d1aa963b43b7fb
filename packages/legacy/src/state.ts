import { RestoreError } from "@virtkit/interface"

/** Reads the fields of a saved state one by one; every method throws RestoreError for a field that does not fit. */
export class StateReader {
  readonly #kind: string
  readonly #fields: Readonly<Record<string, unknown>>

  /** `kind` is for messages. The state must be an object of exactly this `version`. */
  constructor(kind: string, version: number, state: unknown) {
    this.#kind = kind
    if (typeof state !== "object" || state === null) throw this.#error("is not an object")
    this.#fields = state as Record<string, unknown>
    if (this.#fields.version !== version) {
      throw this.#error(`has version ${String(this.#fields.version)}, this is version ${version}`)
    }
  }

  /** An integer from 0 to `max`, both included. */
  integer(name: string, max = 0xff): number {
    const value = this.#fields[name]
    if (typeof value !== "number" || !Number.isInteger(value) || value < 0 || value > max) {
      throw this.#error(`has no integer from 0 to ${max} as ${name}`)
    }
    return value
  }

  /** A number, not farther from 0 than `max`. */
  number(name: string, max: number): number {
    const value = this.#fields[name]
    if (typeof value !== "number" || !(Math.abs(value) <= max)) throw this.#error(`has no number as ${name}`)
    return value
  }

  boolean(name: string): boolean {
    const value = this.#fields[name]
    if (typeof value !== "boolean") throw this.#error(`has no boolean as ${name}`)
    return value
  }

  /** A copy of a Uint8Array of `minLength` to `maxLength` bytes. */
  bytes(name: string, minLength: number, maxLength: number = minLength): Uint8Array {
    const value = this.#fields[name]
    if (!(value instanceof Uint8Array) || value.length < minLength || value.length > maxLength) {
      throw this.#error(`has no ${minLength} to ${maxLength} bytes as ${name}`)
    }
    return Uint8Array.from(value)
  }

  #error(what: string): RestoreError {
    return new RestoreError(`the ${this.#kind} state ${what}`)
  }
}
