import type { GuestMemory } from "@virtkit/interface"
import type { TestAllocator } from "./allocator.js"

/**
 * How the descriptors of a chain are laid out; "mixed" is one direct descriptor followed by an indirect table, which a
 * packed ring does not have (2.8.19) and lays out as "indirect".
 */
export type ChainLayout = "direct" | "indirect" | "mixed"

export interface ChainRequest {
  /** Contents of the device-readable buffers. */
  readonly readable?: readonly Uint8Array[]
  /** Sizes in bytes of the device-writable buffers, which are filled with 0xee. */
  readonly writable?: readonly number[]
  /** Default "direct". */
  readonly layout?: ChainLayout
}

export interface DriverBuffer {
  readonly address: number
  readonly length: number
  readonly writable: boolean
}

/** A chain that the driver made available. */
export interface DriverChain {
  /** By which the device gives it back: descriptor index (split) or buffer id (packed). */
  readonly head: number
  readonly buffers: readonly DriverBuffer[]
  /** Set when the chain was reaped: the length that the device gave. */
  written: number | undefined
  /** Set when the chain was reaped: contents of the writable buffers, end to end. */
  data: Uint8Array | undefined
}

/** The driver side of a virtqueue that keeps the rules, over either kind of ring. */
export interface RingDriver {
  readonly size: number
  /** Guest addresses of the three parts: descriptors, driver area, device area. */
  readonly desc: number
  readonly avail: number
  readonly used: number
  readonly freeDescriptors: number
  /** Chains made available and not reaped yet. */
  readonly inFlight: number

  /** Allocates buffers and links them into a chain for {@link publish}. Throws when descriptors run out. */
  add(request: ChainRequest): DriverChain
  /** Makes the chains added since the last call visible; returns whether the device must be notified of them. */
  publish(): boolean
  /** Takes every chain that the device gave back, in its order, and frees their descriptors and buffers. */
  reap(): DriverChain[]

  /** Asks the device not to interrupt. */
  disableInterrupts(): void
  /** Asks for interrupts again; true when chains came back meanwhile, so that the driver must reap without one. */
  enableInterrupts(): boolean
  /** With EVENT_IDX: interrupt when `count` more chains came back, or before; true when it must reap without one. */
  delayInterrupts(count: number): boolean
}

/** Puts the buffers of a chain into guest memory. */
export function makeBuffers(
  memory: GuestMemory,
  allocator: TestAllocator,
  request: ChainRequest,
): DriverBuffer[] {
  const buffers: DriverBuffer[] = []
  for (const content of request.readable ?? []) {
    const address = allocator.allocate(content.length)
    memory.write(address, content)
    buffers.push({ address, length: content.length, writable: false })
  }
  for (const length of request.writable ?? []) {
    const address = allocator.allocate(length)
    memory.fill(address, length, 0xee)
    buffers.push({ address, length, writable: true })
  }
  return buffers
}

/** Takes what the device wrote; without `length` it filled all there is, as in-order batches say by leaving it out. */
export function finishChain(memory: GuestMemory, chain: DriverChain, length: number | undefined): void {
  const writable = chain.buffers.filter((buffer) => buffer.writable)
  const data = new Uint8Array(writable.reduce((sum, buffer) => sum + buffer.length, 0))
  let offset = 0
  for (const buffer of writable) {
    memory.read(buffer.address, data.subarray(offset, offset + buffer.length))
    offset += buffer.length
  }
  chain.written = length ?? data.length
  chain.data = data
}
