import { ConfigError } from "@virtkit/interface"
import type { BlockEngineKind } from "@virtkit/native"

/** What carries requests out; "auto": io_uring where it can be had, else threads. */
export type EngineChoice = BlockEngineKind | "auto"

/** What to do where io_uring was asked for by name and cannot be had. */
export function engineError(error: unknown, path: string): unknown {
  const { syscall, code } = error as NodeJS.ErrnoException
  if (syscall !== "io_uring_setup") return error
  return new ConfigError(
    `disk ${path}: engine=io_uring is not possible here (${code}); allow it, as virtkit doctor says, or leave the engine out`,
    { cause: error },
  )
}
