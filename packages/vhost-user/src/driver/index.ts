import { ConfigError, SystemError, VirtkitError } from "@virtkit/interface"
import { VhostUserDevice } from "./device.js"
import { checkVhostUserOptions, type VhostUserOptions } from "./options.js"

/**
 * A device whose queues another process works on, the back end: `virtkit serve`, virtiofsd or qemu-storage-daemon, say. It has
 * to listen on the socket already. The guest's memory is shared with it: trust it as you trust this process with the guest.
 *
 * Throws ConfigError for options that cannot be, SystemError when nobody listens on the socket, `VhostUserError` for a back end
 * that does not fit.
 */
export async function vhostUser(options: VhostUserOptions): Promise<VhostUserDevice> {
  const settings = checkVhostUserOptions(options)
  try {
    return await VhostUserDevice.open(settings)
  } catch (error) {
    throw explained(error, settings.socket)
  }
}

function explained(error: unknown, socket: string): unknown {
  const { code, errno, syscall, message } = error as NodeJS.ErrnoException
  if (error instanceof VirtkitError || code === undefined || syscall === undefined) return error
  if (code === "ENAMETOOLONG") return new ConfigError(`socket ${socket}: ${message}`, { cause: error })
  const hint = code === "ENOENT" || code === "ECONNREFUSED" ? "; start the back end first" : ""
  return new SystemError(code, Math.abs(errno ?? 0), syscall, `socket ${socket}: ${message}${hint}`, {
    cause: error,
  })
}
