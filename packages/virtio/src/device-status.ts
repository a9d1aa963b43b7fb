import {
  VIRTIO_CONFIG_S_ACKNOWLEDGE as ACKNOWLEDGE,
  VIRTIO_CONFIG_S_DRIVER as DRIVER,
  VIRTIO_CONFIG_S_DRIVER_OK as DRIVER_OK,
  VIRTIO_CONFIG_S_FAILED as FAILED,
  VIRTIO_CONFIG_S_FEATURES_OK as FEATURES_OK,
  VIRTIO_CONFIG_S_NEEDS_RESET as NEEDS_RESET,
} from "./constants.js"

/** What a write to the status asks the transport to do. */
export type StatusAction = "none" | "reset" | "activate"

/** Each needs the one before. */
const STEPS = [DRIVER, FEATURES_OK, DRIVER_OK] as const
const DRIVER_BITS = ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK | FAILED

/**
 * The device status field (virtio 1.3, sections 2.1 and 3.1.1).
 *
 * The driver sets ACKNOWLEDGE, DRIVER, FEATURES_OK, DRIVER_OK in this order and clears none of them but by a reset. A
 * write that skips a step, clears a bit or follows FAILED changes nothing (bad-input #2). ACKNOWLEDGE and DRIVER may
 * come in one write, as firmware does; FEATURES_OK and DRIVER_OK may not, because the driver has to read the former
 * back. ACKNOWLEDGE, which nothing hangs on, may be missing: U-Boot (2023.01) sets it before its reset, not after.
 */
export class DeviceStatus {
  #bits = 0

  /** The value that the driver reads. */
  get bits(): number {
    return this.#bits
  }

  /** Whether all of `bits` are set. */
  has(bits: number): boolean {
    return (this.#bits & bits) === bits
  }

  /** FAILED or DEVICE_NEEDS_RESET: the device does nothing more until a reset. */
  get isDead(): boolean {
    return (this.#bits & (FAILED | NEEDS_RESET)) !== 0
  }

  /** Whether features may be written: after DRIVER, before FEATURES_OK (3.1.1 step 4). */
  get inNegotiation(): boolean {
    return this.has(DRIVER) && !this.has(FEATURES_OK) && !this.isDead
  }

  /** Whether queues may be set up: after FEATURES_OK, before DRIVER_OK (3.1.1 step 7). */
  get inQueueSetup(): boolean {
    return this.has(FEATURES_OK) && !this.has(DRIVER_OK) && !this.isDead
  }

  /** `featuresAccepted` is asked when the driver sets FEATURES_OK; if it says no the bit stays clear (3.1.1 step 5). */
  write(value: number, featuresAccepted: () => boolean): StatusAction {
    if (value === 0) return "reset"
    const wanted = value & DRIVER_BITS
    const added = wanted & ~this.#bits
    const cleared = this.#bits & DRIVER_BITS & ~wanted
    if (cleared !== 0 || this.has(FAILED)) return "none"
    if ((added & FAILED) !== 0) {
      this.#bits |= FAILED
      return "none"
    }
    if (!isInOrder(wanted)) return "none"
    if ((added & DRIVER_OK) !== 0 && !this.has(FEATURES_OK)) return "none"
    if ((added & FEATURES_OK) !== 0 && !featuresAccepted()) {
      this.#bits |= added & ~FEATURES_OK
      return "none"
    }
    this.#bits |= added
    return (added & DRIVER_OK) !== 0 && !this.isDead ? "activate" : "none"
  }

  /** Sets DEVICE_NEEDS_RESET; false if it was set already. */
  setNeedsReset(): boolean {
    if (this.has(NEEDS_RESET)) return false
    this.#bits |= NEEDS_RESET
    return true
  }

  /** After a reset: 0, or DEVICE_NEEDS_RESET when the device could not be reset. */
  clear(failed: boolean): void {
    this.#bits = failed ? NEEDS_RESET : 0
  }

  /** Whether `bits` is a value that a status can have. */
  static isPossible(bits: unknown): bits is number {
    if (typeof bits !== "number" || !Number.isInteger(bits)) return false
    return (bits & ~(DRIVER_BITS | NEEDS_RESET)) === 0 && isInOrder(bits & ~FAILED)
  }

  /** `bits` must be possible. */
  restore(bits: number): void {
    this.#bits = bits
  }
}

/** Whether no step is set that comes after one that is not. */
function isInOrder(bits: number): boolean {
  let complete = true
  for (const step of STEPS) {
    if ((bits & step) === 0) complete = false
    else if (!complete) return false
  }
  return true
}
