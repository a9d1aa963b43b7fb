import { execFileSync } from "node:child_process"

/** What a program said that measures itself in a process of its own. */
export interface Traced<Result> {
  readonly result: Result
  /** Garbage collections while it measured. */
  readonly collections: number
}

/**
 * Runs a program with --trace-gc. It prints `measured:` and `done:` around what it measures, then its result as one line of JSON.
 */
export function runTraced<Result>(program: string, task: unknown): Traced<Result> {
  const text = execFileSync(process.execPath, ["--trace-gc", program, JSON.stringify(task)], {
    encoding: "utf8",
  })
  const [, measured, rest] = text.split(/^(?:measured|done):$/m)
  const json = rest
    ?.trim()
    .split("\n")
    .find((line) => line.startsWith("{"))
  if (measured === undefined || json === undefined) throw new Error(`${program} said: ${text}`)
  const collections = measured.split("\n").filter((line) => line.includes(" ms: ")).length
  return { result: JSON.parse(json) as Result, collections }
}
