import type { Duplex } from "node:stream"
import { ConfigError, type VirtioDevice } from "@virtkit/interface"
import { checkSize, VirtioConsole } from "./device.js"

export interface ConsoleOptions {
  /** For messages; "console0" unless told. */
  name?: string
  /** Size of the terminal in characters; 80 unless told. 0 is unknown. */
  cols?: number
  /** 24 unless told. */
  rows?: number
  /** Bytes of guest output held while the stream's reader is behind; 65536 unless told. */
  outputBuffer?: number
}

/** A virtio console (virtio 1.3, section 5.3) with one port, which Linux shows as /dev/hvc0. */
export interface ConsoleDevice extends VirtioDevice {
  /**
   * The other end of the console: what the guest prints can be read from it, what is written to it the guest reads. When
   * the reader is behind, the guest's output stays in the guest; a write's callback comes when the guest took the bytes.
   * It lives as long as the device, over resets of it.
   */
  readonly stream: Duplex
  /** Tells the guest the terminal's new size, in characters (0 to 65535). Throws ConfigError. */
  resize(cols: number, rows: number): void
}

/** Makes a console. Throws ConfigError. */
export function consolePort(options: ConsoleOptions = {}): ConsoleDevice {
  const { name = "console0", cols = 80, rows = 24, outputBuffer = 65536 } = options
  checkSize("cols", cols)
  checkSize("rows", rows)
  if (!Number.isInteger(outputBuffer) || outputBuffer < 1 || outputBuffer > 2 ** 30) {
    throw new ConfigError(`outputBuffer is ${outputBuffer}, it must be an integer from 1 to 2^30 bytes`)
  }
  return new VirtioConsole({ name, cols, rows, outputBuffer })
}
