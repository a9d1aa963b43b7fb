import type { Writable } from "node:stream"

/** Waits until a stream that was full takes more, or never will. Leaves no listener behind. */
export function drained(target: Writable): Promise<void> {
  return new Promise((resolve) => {
    const done = (): void => {
      target.off("drain", done).off("close", done).off("error", done)
      resolve()
    }
    target.on("drain", done).on("close", done).on("error", done)
  })
}
