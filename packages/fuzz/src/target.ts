/** Something of virtkit that takes what a guest, a peer or a file gives it. */
export interface FuzzTarget {
  /** What it is, in a few words. */
  readonly about: string
  /** Inputs are cut off there. Bytes. */
  readonly maxBytes: number
  /** Inputs to start from, beside the corpus: they should reach all that a well-behaved guest reaches. */
  seeds(): Uint8Array[]
  /**
   * Carries an input out. Everything follows from its bytes: nothing is kept from run to run.
   *
   * Throws when the code under test throws or breaks a promise. Else the result says what happened, each thing in words
   * that are always the same: inputs with something new in it are worth changing further.
   */
  run(input: Uint8Array): Iterable<string> | Promise<Iterable<string>>
}

/** Thrown by targets: the code under test did what it must not. */
export class Finding extends Error {
  override readonly name = "Finding"
}

/** Throws a {@link Finding} that says `what` unless `condition` holds. */
export function must(condition: boolean, what: string): asserts condition {
  if (!condition) throw new Finding(what)
}
