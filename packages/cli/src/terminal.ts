import { type Readable, Transform, type TransformCallback, type Writable } from "node:stream"

const CTRL_A = 0x01
const LEAVE = "x".charCodeAt(0)

/**
 * Passes keys on and watches for the escape: Ctrl-A x calls `leave`, Ctrl-A Ctrl-A passes one Ctrl-A, Ctrl-A and anything
 * else passes both.
 */
export class EscapeKeys extends Transform {
  #escaped = false
  readonly #leave: () => void

  constructor(leave: () => void) {
    super()
    this.#leave = leave
  }

  override _transform(chunk: Buffer, _encoding: BufferEncoding, done: TransformCallback): void {
    const passed: number[] = []
    for (const byte of chunk) {
      if (this.#escaped) {
        this.#escaped = false
        if (byte === LEAVE) {
          this.#leave()
          continue
        }
        passed.push(CTRL_A)
        if (byte !== CTRL_A) passed.push(byte)
      } else if (byte === CTRL_A) {
        this.#escaped = true
      } else {
        passed.push(byte)
      }
    }
    done(null, Buffer.from(passed))
  }
}

/**
 * Stdin as keys for a guest: raw when it is a terminal, with the escape. `restore` puts the terminal back and lets the
 * process end.
 */
export function openKeyboard(leave: () => void): { keys: NodeJS.ReadableStream; restore: () => void } {
  const { stdin } = process
  if (!stdin.isTTY) return { keys: stdin, restore: () => release(stdin) }
  stdin.setRawMode(true)
  return {
    keys: stdin.pipe(new EscapeKeys(leave)),
    restore: () => {
      stdin.setRawMode(false)
      release(stdin)
    },
  }
}

/** Of the terminal that output goes to; of one that is not ours to ask, as its owner told in the environment. */
export function windowSize(
  output: { readonly columns?: number; readonly rows?: number },
  environment: NodeJS.ProcessEnv,
): { cols?: number; rows?: number } {
  const cols = output.columns || Number(environment.COLUMNS)
  const rows = output.rows || Number(environment.LINES)
  const possible = (size: number) => Number.isInteger(size) && size > 0 && size <= 0xffff
  return possible(cols) && possible(rows) ? { cols, rows } : {}
}

/**
 * Writes what `source` says to `target`, which is not ended. When nobody reads `target` any more the rest is discarded:
 * who wrote it must not wait for a reader that went away.
 */
export function showOutput(source: Readable, target: Writable): void {
  source.pipe(target, { end: false })
  target.on("error", () => {
    source.unpipe(target)
    source.resume()
  })
}

function release(stdin: NodeJS.ReadStream): void {
  stdin.unpipe()
  stdin.pause()
  // A pipe or file without a reader would keep the process alive.
  stdin.unref?.()
}
