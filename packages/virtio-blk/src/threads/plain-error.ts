import { ConfigError, StateError, SystemError, VirtkitError } from "@virtkit/interface"
import { ImageError } from "../backends/qcow2/errors.js"

/** An error as a message between threads, which would lose its class. */
export interface PlainError {
  readonly message: string
  readonly code?: string
  readonly errno?: number
  readonly syscall?: string
  /** Of the image that is damaged. */
  readonly path?: string
}

export function plainError(error: unknown): PlainError {
  if (!(error instanceof Error)) return { message: String(error) }
  const { message, code, errno, syscall, path } = error as NodeJS.ErrnoException
  return {
    message,
    ...(code !== undefined && { code }),
    ...(errno !== undefined && { errno }),
    ...(syscall !== undefined && { syscall }),
    ...(path !== undefined && { path }),
  }
}

/** The error that the other thread met, of the same class. */
export function errorOf({ message, code, errno, syscall, path = "" }: PlainError): Error {
  if (code === undefined) return new Error(message)
  if (syscall !== undefined) return new SystemError(code, Math.abs(errno ?? 0), syscall, message)
  switch (code) {
    case "ERR_VIRTKIT_CONFIG":
      return new ConfigError(message)
    case "ERR_VIRTKIT_STATE":
      return new StateError(message)
    case "ERR_VIRTKIT_IMAGE":
      return new ImageError(path, message.replace(`disk ${path}: `, ""))
    default:
      return new VirtkitError(code, message)
  }
}
