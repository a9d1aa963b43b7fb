import { ConfigError, type GuestMemory } from "@virtkit/interface"
import { CMDLINE_ADDRESS, CMDLINE_LIMIT } from "./layout.js"

/**
 * Writes the kernel command line, NUL-terminated, and returns its address. `limit` is the most bytes that the kernel
 * takes without the NUL. Throws {@link ConfigError} for one that is too long or has a NUL inside.
 */
export function writeCmdline(memory: GuestMemory, cmdline: string, limit: number): number {
  const bytes = Buffer.from(`${cmdline}\0`, "utf8")
  const most = Math.min(limit, CMDLINE_LIMIT)
  if (bytes.length - 1 > most) {
    throw new ConfigError(`the kernel command line has ${bytes.length - 1} bytes, this kernel takes ${most}`)
  }
  if (bytes.indexOf(0) !== bytes.length - 1)
    throw new ConfigError("the kernel command line contains a NUL character")
  memory.write(CMDLINE_ADDRESS, bytes)
  return CMDLINE_ADDRESS
}
