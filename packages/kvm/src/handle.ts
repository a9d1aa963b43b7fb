import { StateError } from "@virtkit/interface"
import { converting } from "./errors.js"

interface NativeHandle {
  readonly fd: number
  ioctl(request: string, argument?: number | ArrayBufferView | ArrayBuffer): number
  attribute(
    operation: "has" | "get" | "set",
    group: number,
    attribute: number,
    value?: ArrayBufferView,
  ): unknown
  close(): void
}

/**
 * Base of all handles: one file descriptor, closed by `close()`, by leaving a `using` block, or at the latest when the
 * object is garbage collected. Handles may be closed in any order: KVM keeps a VM as long as one of its descriptors is
 * open. Every other method throws StateError on a closed handle.
 */
export abstract class Handle<N extends NativeHandle = NativeHandle> {
  /** @internal The addon's object. */
  readonly native: N
  #closed = false

  constructor(native: N) {
    this.native = native
  }

  /** The file descriptor, for ioctls that this package does not know. Valid until `close()`. */
  get fd(): number {
    this.assertOpen()
    return this.native.fd
  }

  get closed(): boolean {
    return this.#closed
  }

  /** Idempotent. */
  close(): void {
    this.#closed = true
    this.native.close()
  }

  [Symbol.dispose](): void {
    this.close()
  }

  /** @internal */
  protected assertOpen(): void {
    if (this.#closed) throw new StateError(`the ${this.constructor.name} is closed`)
  }

  /** @internal One ioctl with nothing, an integer or a flat buffer as argument. */
  protected ioctl(request: string, argument?: number | ArrayBufferView): number {
    this.assertOpen()
    return converting(() => this.native.ioctl(request, argument))
  }

  /** Whether the handle has this device attribute (KVM_HAS_DEVICE_ATTR). */
  hasAttribute(group: number, attribute: number): boolean {
    this.assertOpen()
    return converting(() => this.native.attribute("has", group, attribute)) as boolean
  }

  /** A 64-bit device attribute (KVM_GET_DEVICE_ATTR). */
  getAttribute(group: number, attribute: number): bigint {
    this.assertOpen()
    const value = new BigUint64Array(1)
    converting(() => this.native.attribute("get", group, attribute, value))
    return value[0]!
  }

  /** Sets a 64-bit device attribute, or one whose bytes the caller gives (KVM_SET_DEVICE_ATTR). */
  setAttribute(group: number, attribute: number, value: bigint | Uint8Array): void {
    this.assertOpen()
    const bytes = typeof value === "bigint" ? BigUint64Array.of(value) : value
    converting(() => this.native.attribute("set", group, attribute, bytes))
  }
}
