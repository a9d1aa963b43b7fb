import type { AccessSize, RegisterPage } from "@virtkit/interface"
import { VIRTIO_MMIO_BYTES, VIRTIO_MMIO_CONFIG } from "./constants.js"

/**
 * A page of registers, the device configuration space from 0x100 on. Reads have no side effects, so it is kept as bytes
 * that a guest may read without an exit.
 *
 * While a guest reads them, each register changes in one store: half of an InterruptStatus must not be seen. Registers
 * lie at multiples of their width.
 */
export class RegisterFile {
  #words: Uint32Array
  #halves: Uint16Array
  #bytes: Uint8Array
  #page: RegisterPage | undefined

  constructor() {
    const view = new DataView(new ArrayBuffer(VIRTIO_MMIO_BYTES))
    this.#words = wordsOf(view)
    this.#halves = halvesOf(view)
    this.#bytes = bytesOf(view)
  }

  /** Moves the registers into `page`, or back into private memory. */
  attach(page: RegisterPage | undefined): void {
    const view = page?.view ?? new DataView(new ArrayBuffer(VIRTIO_MMIO_BYTES))
    const bytes = bytesOf(view)
    bytes.set(this.#bytes)
    this.#words = wordsOf(view)
    this.#halves = halvesOf(view)
    this.#bytes = bytes
    this.#page = page
  }

  /** A register of 32 bits. */
  get(register: number): number {
    return this.#words[register >>> 2]!
  }

  set(register: number, value: number): void {
    Atomics.store(this.#words, register >>> 2, value)
  }

  set16(register: number, value: number): void {
    Atomics.store(this.#halves, register >>> 1, value)
  }

  set8(register: number, value: number): void {
    Atomics.store(this.#bytes, register, value)
  }

  /** Any access, however odd: bytes past the page are 0. */
  read(offset: number, size: AccessSize): number {
    if (size === 4 && (offset & 3) === 0) return this.#words[offset >>> 2] ?? 0
    let value = 0
    for (let byte = 0; byte < size; byte++) value |= (this.#bytes[offset + byte] ?? 0) << (8 * byte)
    return value >>> 0
  }

  /** Replaces the device configuration space by `config`, whose length never changes. */
  setConfig(config: Uint8Array): void {
    this.#bytes.set(config, VIRTIO_MMIO_CONFIG)
  }

  /** Whether the bytes of `config` are those that the guest sees. */
  hasConfig(config: Uint8Array): boolean {
    for (let i = 0; i < config.length; i++) {
      if (config[i] !== this.#bytes[VIRTIO_MMIO_CONFIG + i]) return false
    }
    return true
  }

  hide(): void {
    this.#page?.hide()
  }

  show(): void {
    this.#page?.show()
  }
}

function wordsOf(view: DataView): Uint32Array {
  return new Uint32Array(view.buffer, view.byteOffset, VIRTIO_MMIO_BYTES / 4)
}

function halvesOf(view: DataView): Uint16Array {
  return new Uint16Array(view.buffer, view.byteOffset, VIRTIO_MMIO_BYTES / 2)
}

function bytesOf(view: DataView): Uint8Array {
  return new Uint8Array(view.buffer, view.byteOffset, VIRTIO_MMIO_BYTES)
}
