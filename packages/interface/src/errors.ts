/**
 * Base of every error that virtkit throws on purpose. `code` is stable and meant for programs, `message` for people.
 */
export class VirtkitError extends Error {
  override readonly name: string = "VirtkitError"
  readonly code: string

  constructor(code: string, message: string, options?: ErrorOptions) {
    super(message, options)
    this.code = code
  }
}

/** A caller's option is wrong: the message says which one, what is wrong with it and what would be right. */
export class ConfigError extends VirtkitError {
  override readonly name: string = "ConfigError"

  constructor(message: string, options?: ErrorOptions) {
    super("ERR_VIRTKIT_CONFIG", message, options)
  }
}

/** A system call or ioctl failed. `code` is the errno's name ("EACCES"), `syscall` the call's or ioctl's name. */
export class SystemError extends VirtkitError {
  override readonly name = "SystemError"
  /** Positive errno, as in errno(3). */
  readonly errno: number
  readonly syscall: string

  constructor(code: string, errno: number, syscall: string, message: string, options?: ErrorOptions) {
    super(code, message, options)
    this.errno = errno
    this.syscall = syscall
  }
}

/** A guest address range does not lie whole within one region of guest memory. */
export class GuestAddressError extends VirtkitError {
  override readonly name = "GuestAddressError"
  readonly address: number
  /** Bytes. */
  readonly length: number

  constructor(address: number, length: number) {
    super(
      "ERR_VIRTKIT_GUEST_ADDRESS",
      `guest range 0x${address.toString(16)}+${length} is not in guest memory`,
    )
    this.address = address
    this.length = length
  }
}

/** An object was used after its `close()`, or in a state that does not allow the operation. */
export class StateError extends VirtkitError {
  override readonly name = "StateError"

  constructor(message: string, options?: ErrorOptions) {
    super("ERR_VIRTKIT_STATE", message, options)
  }
}

/** A saved state does not fit the object that it is to be restored into. */
export class RestoreError extends VirtkitError {
  override readonly name = "RestoreError"

  constructor(message: string, options?: ErrorOptions) {
    super("ERR_VIRTKIT_RESTORE", message, options)
  }
}
