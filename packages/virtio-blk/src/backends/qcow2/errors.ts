import { ConfigError, VirtkitError } from "@virtkit/interface"

/** An image is damaged: the message says what and where. `code` is ERR_VIRTKIT_IMAGE. */
export class ImageError extends VirtkitError {
  override readonly name = "ImageError"
  /** Path of the image. */
  readonly path: string

  constructor(path: string, message: string, options?: ErrorOptions) {
    super("ERR_VIRTKIT_IMAGE", `disk ${path}: ${message}`, options)
    this.path = path
  }
}

/** The image is whole, and needs what virtkit has not, or what the user has not allowed. */
export function unsupported(path: string, message: string): ConfigError {
  return new ConfigError(`disk ${path}: ${message}`)
}

const EIO = 5

/** What a request that met `error` is answered with: a positive errno. */
export function errnoOf(error: unknown): number {
  const errno = (error as NodeJS.ErrnoException | undefined)?.errno
  return typeof errno === "number" && errno !== 0 ? Math.abs(errno) : EIO
}
