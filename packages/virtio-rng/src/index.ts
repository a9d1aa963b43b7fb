import { randomFillSync } from "node:crypto"
import { ConfigError, type VirtioDevice } from "@virtkit/interface"
import { VirtioRng } from "./device.js"

export interface RngOptions {
  /** For messages; "rng0" unless told. */
  name?: string
  /** Bytes per second that the guest gets at most; no limit unless told. */
  rate?: number
  /** Bytes that it gets at once after a pause, and per request at most; a second's worth unless told. Needs `rate`. */
  burst?: number
  /**
   * Fills the buffer with random bytes; the host's cryptographic generator unless told. Called on the VM's thread with at
   * most 4096 bytes, which are wiped afterwards. When it throws, the device needs a reset by the guest.
   */
  source?: (buffer: Uint8Array) => void
}

/** Makes an entropy device (virtio 1.3, section 5.4), which Linux shows as /dev/hwrng. Throws ConfigError. */
export function rng(options: RngOptions = {}): VirtioDevice {
  const { name = "rng0", rate, source = randomFillSync } = options
  if (rate !== undefined && !(Number.isFinite(rate) && rate > 0)) {
    throw new ConfigError(`rate is ${rate}, it must be a positive number of bytes per second`)
  }
  if (options.burst !== undefined && rate === undefined) throw new ConfigError("burst needs a rate")
  const burst = options.burst ?? Math.max(1, Math.floor(rate ?? 1))
  if (!Number.isSafeInteger(burst) || burst < 1) {
    throw new ConfigError(`burst is ${burst}, it must be a positive integer of bytes`)
  }
  return new VirtioRng({ name, rate, burst, source: (buffer) => void source(buffer) })
}
