/**
 * An object whose state can be taken out as plain data (JSON types, bigint and Uint8Array only, with a `version`) and
 * put back into a newly made object of the same kind and options.
 */
export interface Stateful {
  state(): unknown
  /** Validates everything before it changes anything. Throws `RestoreError`. */
  restore(state: unknown): void
}
