import type { GuestMemory } from "@virtkit/interface"
import { DESCRIPTOR, PACKED_DESCRIPTOR } from "@virtkit/testkit"

/** A chain as the specification reads it, simply and slowly: what a ring implementation is compared with. */
export interface ReferenceChain {
  readonly head: number
  /** Entries of the ring that it takes. */
  readonly slots: number
  /** Undefined: it breaks a rule. */
  readonly buffers: readonly { readonly address: number; readonly length: number }[] | undefined
  readonly readable: number
}

interface Descriptor {
  readonly address: number
  readonly length: number
  readonly flags: number
  /** The word behind the address and the length that is not the flags: id or next. */
  readonly next: number
}

type Buffers = { address: number; length: number; writable: boolean }[]

/** The chain that starts at descriptor `head` of a split ring (virtio 1.3, section 2.7). */
export function splitChain(
  memory: GuestMemory,
  desc: number,
  size: number,
  indirect: boolean,
  head: number,
): ReferenceChain {
  const buffers: Buffers = []
  let descriptors = 0
  const walk = (table: number, entries: number, first: number, direct: boolean): boolean => {
    let index = first
    // 2.7.5.3.1 and 2.7.5.2: no longer than the queue.
    while (descriptors < size) {
      if (index >= entries) return false
      const { address, length, flags, next } = read(memory, table + DESCRIPTOR.BYTES * index, 12)
      if ((flags & DESCRIPTOR.INDIRECT) !== 0) {
        if (!direct || (flags & DESCRIPTOR.NEXT) !== 0 || !indirect) return false
        if (!isTable(memory, address, length, size)) return false
        return walk(address, length / DESCRIPTOR.BYTES, 0, false)
      }
      if (!add(memory, buffers, address, length, (flags & DESCRIPTOR.WRITE) !== 0)) return false
      descriptors++
      if ((flags & DESCRIPTOR.NEXT) === 0) return true
      index = next
    }
    return false
  }
  return chain(head, 1, walk(desc, size, head, true), buffers)
}

/**
 * The chain at slot `slot` of a packed ring (virtio 1.3, section 2.8), of which the device may take `room` slots;
 * undefined when there is none, "broken" when nothing there can be a chain. Slots below `seen` were available when the device
 * looked, and are its own since then, whatever the driver makes of them.
 */
export function packedChain(
  memory: GuestMemory,
  desc: number,
  size: number,
  indirect: boolean,
  room: number,
  slot: number,
  wrap: boolean,
  seen: number,
): ReferenceChain | undefined | "broken" {
  const at = (index: number) => read(memory, desc + DESCRIPTOR.BYTES * index, 14)
  let [index, counter] = [slot, wrap]
  let found = at(index)
  if (slot >= seen && !isAvailable(found.flags, counter)) return undefined
  if (room === 0) return "broken"
  if ((found.flags & (DESCRIPTOR.NEXT | DESCRIPTOR.INDIRECT)) === DESCRIPTOR.INDIRECT) {
    const buffers: Buffers = []
    const { address, length, next } = found
    let legal = indirect && isTable(memory, address, length, size)
    for (let entry = 0; legal && entry < length / DESCRIPTOR.BYTES; entry++) {
      const one = read(memory, address + DESCRIPTOR.BYTES * entry, 14)
      legal = add(memory, buffers, one.address, one.length, (one.flags & DESCRIPTOR.WRITE) !== 0)
    }
    return chain(next, 1, legal, buffers)
  }
  const buffers: Buffers = []
  let legal = true
  for (let slots = 1; ; slots++) {
    const { address, length, flags, next } = found
    // 2.8.19: no indirect descriptor in a list.
    legal &&= (flags & DESCRIPTOR.INDIRECT) === 0
    legal &&= add(memory, buffers, address, length, (flags & DESCRIPTOR.WRITE) !== 0)
    if ((flags & DESCRIPTOR.NEXT) === 0) return chain(next, slots, legal, buffers)
    if (slots === room) return "broken"
    index++
    if (index === size) [index, counter] = [0, !counter]
    found = at(index)
    const isOwn = legal && counter === wrap && index < seen
    if (!isOwn && !isAvailable(found.flags, counter)) return "broken"
  }
}

/** 2.8.1: whether a descriptor with these flags is available in a lap with that wrap counter. */
function isAvailable(flags: number, counter: boolean): boolean {
  return (
    ((flags & PACKED_DESCRIPTOR.AVAIL) !== 0) === counter &&
    ((flags & PACKED_DESCRIPTOR.USED) !== 0) !== counter
  )
}

/** How many slots from that one on are available, of `most`. */
export function availableSlots(
  memory: GuestMemory,
  desc: number,
  slot: number,
  wrap: boolean,
  most: number,
): number {
  let count = 0
  while (count < most && isAvailable(read(memory, desc + DESCRIPTOR.BYTES * (slot + count), 14).flags, wrap))
    count++
  return count
}

/** `flags` is at offset 12 or 14 of a descriptor, the other word is what is at the other. */
function read(memory: GuestMemory, at: number, flagsAt: 12 | 14): Descriptor {
  return {
    // Rounded above 2^53, where no memory is.
    address: Number(memory.readBigUint64(at)),
    length: memory.readUint32(at + 8),
    flags: memory.readUint16(at + flagsAt),
    next: memory.readUint16(at + (flagsAt === 12 ? 14 : 12)),
  }
}

/** 2.7.5.3.1: whole descriptors, at most as many as the queue is long. */
function isTable(memory: GuestMemory, address: number, length: number, size: number): boolean {
  if (length === 0 || length % DESCRIPTOR.BYTES !== 0 || length > DESCRIPTOR.BYTES * size) return false
  return memory.contains(address, length)
}

/** False when the buffer breaks a rule. */
function add(
  memory: GuestMemory,
  buffers: Buffers,
  address: number,
  length: number,
  writable: boolean,
): boolean {
  // 2.7.4.2: readable ones first.
  if (!writable && buffers.some((buffer) => buffer.writable)) return false
  if (length === 0) return true
  if (!memory.contains(address, length)) return false
  buffers.push({ address, length, writable })
  return true
}

function chain(head: number, slots: number, legal: boolean, buffers: Buffers): ReferenceChain {
  const readable = buffers.filter((buffer) => !buffer.writable).length
  const places = buffers.map(({ address, length }) => ({ address, length }))
  return { head, slots, buffers: legal ? places : undefined, readable }
}
