import { ConfigError, SystemError } from "@virtkit/interface"
import { Tap } from "@virtkit/native"

/** Segments of the buffers that wait in one queue, and of a batch of frames. A chain has 1024 at most. */
export const SEGMENTS = 4096
/** Buffers that wait in one queue. */
export const BUFFERS = 256
/** Frames of one system call batch. */
export const FRAMES = 64

const SIZES = { segments: SEGMENTS, buffers: BUFFERS, frames: FRAMES }

export interface TapByName {
  /** The interface. */
  readonly name: string
  /** Make the interface if there is none of that name; it goes with the device. Needs CAP_NET_ADMIN. Default false. */
  readonly create?: boolean
}

export interface TapByDescriptor {
  /**
   * A descriptor for each pair of queues, opened by another program with IFF_TAP, IFF_VNET_HDR and IFF_NO_PI (a macvtap
   * will do). They are duplicated: the caller may close them once the device is made.
   */
  readonly fds: readonly number[]
}

/** Opens `queues` queues of a TAP. Throws ConfigError that says what to do, or SystemError. */
export function openTaps(options: TapByName | TapByDescriptor, queues: number): Tap[] {
  if ("fds" in options) return adopt(options.fds)
  const { name, create = false } = options
  const taps: Tap[] = []
  try {
    while (taps.length < queues) taps.push(openQueue(name, create, queues > 1))
    return taps
  } catch (error) {
    for (const tap of taps) tap.close()
    throw tapError(error, name, queues)
  }
}

function openQueue(name: string, create: boolean, multiQueue: boolean): Tap {
  try {
    return new Tap({ name, create, multiQueue, ...SIZES })
  } catch (error) {
    // One queue can be had of an interface for several, too.
    if (multiQueue || (error as NodeJS.ErrnoException).code !== "EINVAL") throw error
    return new Tap({ name, create, multiQueue: true, ...SIZES })
  }
}

function adopt(fds: readonly number[]): Tap[] {
  const taps: Tap[] = []
  try {
    for (const fd of fds) taps.push(new Tap({ fd, ...SIZES }))
    return taps
  } catch (error) {
    for (const tap of taps) tap.close()
    const { code } = error as NodeJS.ErrnoException
    throw new ConfigError(
      `a descriptor given for a TAP is none with IFF_VNET_HDR and IFF_NO_PI, or was closed (${code})`,
      { cause: error },
    )
  }
}

function tapError(error: unknown, name: string, queues: number): unknown {
  const { code, errno, syscall, message } = error as NodeJS.ErrnoException
  const options = { cause: error }
  const make = `ip tuntap add dev ${name} mode tap${queues > 1 ? " multi_queue" : ""} user $(id -un)`
  switch (code) {
    case "ENODEV":
      return new ConfigError(`there is no interface ${name}; as root, make it with: ${make}`, options)
    case "EPERM":
      return new ConfigError(
        `interface ${name} belongs to another user, or making one is not allowed; as root, make it with: ${make}`,
        options,
      )
    case "EBUSY":
      return new ConfigError(
        `interface ${name} is in use by another virtual machine or program; stop that, or make another interface`,
        options,
      )
    case "EINVAL":
      return new ConfigError(
        queues > 1
          ? `interface ${name} is no TAP, or was made for one queue; as root, make it again with: ${make}`
          : `interface ${name} is no TAP; as root, make one with: ${make}`,
        options,
      )
    case "ENOENT":
    case "EACCES":
      return new ConfigError(
        code === "ENOENT"
          ? "/dev/net/tun does not exist; as root, load the module with: modprobe tun"
          : "no permission to open /dev/net/tun; as root: chmod 0666 /dev/net/tun",
        options,
      )
    default:
      if (error instanceof RangeError && message.startsWith("Tap: name ")) {
        return new ConfigError(`"${name}" cannot be the name of an interface`, options)
      }
      // No word of the kernel: a mistake in a program, or an addon of another version.
      if (code === undefined) return error
      return new SystemError(
        String(code),
        errno ?? 0,
        String(syscall),
        `interface ${name}: ${message}`,
        options,
      )
  }
}
