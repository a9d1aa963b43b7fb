import type { Readable, Writable } from "node:stream"
import { pipeline } from "node:stream/promises"
import { VirtkitError } from "@virtkit/interface"
import { drained } from "./drained.js"
import type { ExitState, LabProcess } from "./process.js"

/** What a command in the lab runs with. */
export interface SpawnOptions {
  /** Added to the lab's own: PATH, HOME, TERM, LANG. */
  env?: Readonly<Record<string, string>>
  /** Directory in the lab, "/root" by default. */
  cwd?: string
  /** Gives the command a terminal of this many characters. */
  tty?: { rows: number; columns: number }
}

/** How to run a command to its end. */
export interface ExecOptions extends SpawnOptions {
  /** Its input: bytes, text or a stream. Nothing by default. */
  stdin?: Readable | Uint8Array | string
  /** Where its output goes; without it, the result has the output. The stream is not ended. */
  stdout?: Writable
  stderr?: Writable
  /** Milliseconds after which the command is killed and `exec` rejects with the code ETIMEDOUT. */
  timeout?: number
  /** Kills the command; `exec` rejects with the signal's reason. */
  signal?: AbortSignal
  /** Bytes of each collected output; more is an error, and the command is killed. 64 MiB by default. */
  maxOutput?: number
}

/** What became of a command. */
export interface ExecResult extends ExitState {
  stdout: Buffer
  stderr: Buffer
}

/** Forwards or collects one output. */
async function consume(
  source: Readable,
  target: Writable | undefined,
  limit: number,
  chunks: Buffer[],
): Promise<void> {
  let total = 0
  for await (const chunk of source as AsyncIterable<Buffer>) {
    if (target) {
      if (!target.write(chunk) && !target.destroyed) await drained(target)
      continue
    }
    total += chunk.length
    if (total > limit)
      throw new VirtkitError("ENOBUFS", `a command in the lab wrote more than ${limit} bytes`)
    chunks.push(chunk)
  }
}

function feed(child: LabProcess, input: ExecOptions["stdin"]): void {
  if (input === undefined || typeof input === "string" || input instanceof Uint8Array) child.stdin.end(input)
  else pipeline(input, child.stdin).catch(() => {}) // the command ended before its input did
}

/** Runs `child` to its end. Whatever goes wrong here, the command is killed. */
export async function complete(child: LabProcess, options: ExecOptions): Promise<ExecResult> {
  const limit = options.maxOutput ?? 64 * 1024 * 1024
  const stdout: Buffer[] = []
  const stderr: Buffer[] = []
  let cancel: (reason: unknown) => void = () => {}
  const cancelled = new Promise<never>((_resolve, reject) => {
    cancel = reject
  })
  const onAbort = (): void => cancel(options.signal?.reason)
  const timer =
    options.timeout === undefined
      ? undefined
      : setTimeout(
          () =>
            cancel(
              new VirtkitError("ETIMEDOUT", `a command in the lab took more than ${options.timeout} ms`),
            ),
          options.timeout,
        )
  try {
    options.signal?.throwIfAborted()
    options.signal?.addEventListener("abort", onAbort, { once: true })
    feed(child, options.stdin)
    const finished = Promise.all([
      child.exited,
      consume(child.stdout, options.stdout, limit, stdout),
      consume(child.stderr, options.stderr, limit, stderr),
    ])
    finished.catch(() => {})
    const [state] = await Promise.race([finished, cancelled])
    return { ...state, stdout: Buffer.concat(stdout), stderr: Buffer.concat(stderr) }
  } catch (error) {
    child.kill("SIGKILL")
    child.stdout.destroy()
    child.stderr.destroy()
    throw error
  } finally {
    clearTimeout(timer)
    cancelled.catch(() => {})
    options.signal?.removeEventListener("abort", onAbort)
  }
}
