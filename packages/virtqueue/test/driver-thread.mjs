// A driver on a thread of its own, for two-threads.test.ts: sends `chains` numbers, each in a chain of two descriptors,
// and checks that each comes back one larger. Sleeps whenever there is nothing to do, so that a notification that gets
// lost either way leaves it asleep.
import { parentPort, workerData } from "node:worker_threads"

const { packed, buffer, size, desc, avail, used, data, eventIdx, chains, signals } = workerData
const cells = new Uint32Array(buffer, data, size + 1)
const [KICKS, INTERRUPTS] = [0, 1]
/** Cells of chains that are not out: an even one to send, the odd one behind it to receive. */
const free = Array.from({ length: size >> 1 }, (_, slot) => 2 * slot)

function splitRing() {
  const table = new DataView(buffer, desc, 16 * size)
  const availRing = new Uint16Array(buffer, avail, 3 + size)
  const usedRing = new Uint16Array(buffer, used, 3 + 4 * size)
  const usedElements = new Uint32Array(buffer, used, 1 + 2 * size)
  const crossed = (event, now, before) => ((now - event - 1) & 0xffff) < ((now - before) & 0xffff)
  let availIndex = 0
  let before = 0
  let usedIndex = 0
  return {
    add(cell) {
      writeDescriptor(table, cell, cell, cell + 1, 1)
      writeDescriptor(table, cell + 1, cell + 1, 0, 2)
      availRing[2 + (availIndex % size)] = cell
      availIndex = (availIndex + 1) & 0xffff
    },
    publish() {
      Atomics.store(availRing, 1, availIndex)
      const step = [availIndex, before]
      before = availIndex
      return eventIdx
        ? crossed(Atomics.load(usedRing, 2 + 4 * size), ...step)
        : (Atomics.load(usedRing, 0) & 1) === 0
    },
    reap(take) {
      const published = Atomics.load(usedRing, 1)
      for (; usedIndex !== published; usedIndex = (usedIndex + 1) & 0xffff) {
        take(usedElements[1 + 2 * (usedIndex % size)], usedElements[2 + 2 * (usedIndex % size)])
      }
    },
    disableInterrupts() {
      if (!eventIdx) Atomics.store(availRing, 0, 1)
    },
    enableInterrupts() {
      if (eventIdx) Atomics.store(availRing, 2 + size, usedIndex)
      else Atomics.store(availRing, 0, 0)
      return Atomics.load(usedRing, 1) !== usedIndex
    },
  }
}

function packedRing() {
  const table = new DataView(buffer, desc, 16 * size)
  const words = new Uint16Array(buffer, desc, 8 * size)
  const mine = new Int32Array(buffer, avail, 1)
  const theirs = new Int32Array(buffer, used, 1)
  let slot = 0
  let owner = 0x80
  let added = 0
  let first
  let usedSlot = 0
  let usedOwner = 0x8080
  const isUsed = () => (Atomics.load(words, 8 * usedSlot + 7) & 0x8080) === usedOwner
  const put = (cell, id, flags) => {
    if (first === undefined) {
      first = { slot, flags: flags | owner }
      writeDescriptor(table, slot, cell, words[8 * slot + 7], id)
    } else writeDescriptor(table, slot, cell, flags | owner, id)
    added++
    slot++
    if (slot === size) {
      slot = 0
      owner ^= 0x8080
    }
  }
  return {
    add(cell) {
      put(cell, 0, 1)
      put(cell + 1, cell, 2)
    },
    publish() {
      Atomics.store(words, 8 * first.slot + 7, first.flags)
      first = undefined
      const step = added
      added = 0
      const event = Atomics.load(theirs, 0)
      if (event >>> 16 !== 2) return event >>> 16 === 0
      const sameLap = ((event & 0x8000) !== 0) === (owner === 0x80)
      const distance = slot - (event & 0x7fff) + (sameLap ? 0 : size)
      return distance >= 1 && distance <= step
    },
    reap(take) {
      while (isUsed()) {
        take(words[8 * usedSlot + 6], table.getUint32(16 * usedSlot + 8, true))
        usedSlot += 2
        if (usedSlot >= size) {
          usedSlot -= size
          usedOwner ^= 0x8080
        }
      }
    },
    disableInterrupts() {
      Atomics.store(mine, 0, 1 << 16)
    },
    enableInterrupts() {
      Atomics.store(mine, 0, eventIdx ? (2 << 16) | usedSlot | (usedOwner & 0x8000) : 0)
      return isUsed()
    },
  }
}

/** The last two fields are next and flags on a split ring, flags and id on a packed one. */
function writeDescriptor(table, index, cell, high, low) {
  table.setUint32(16 * index, data + 4 * cell, true)
  table.setUint32(16 * index + 4, 0, true)
  table.setUint32(16 * index + 8, 4, true)
  table.setUint16(16 * index + 12, low, true)
  table.setUint16(16 * index + 14, high, true)
}

const ring = packed ? packedRing() : splitRing()
let sent = 0
let received = 0
let wrong = 0

function send() {
  const before = sent
  // Batches of changing size.
  for (let batch = 1 + (sent % 5); batch > 0 && sent < chains && free.length > 0; batch--) {
    const cell = free.pop()
    cells[cell] = sent
    cells[cell + 1] = 0
    ring.add(cell)
    sent++
  }
  if (sent === before) return false
  if (ring.publish()) {
    Atomics.add(signals, KICKS, 1)
    Atomics.notify(signals, KICKS)
  }
  return true
}

function reap() {
  const before = received
  ring.reap((cell, length) => {
    if (length !== 4 || cells[cell + 1] !== cells[cell] + 1) wrong++
    free.push(cell)
    received++
  })
  return received > before
}

while (received < chains) {
  ring.disableInterrupts()
  while (send() || reap()) {}
  if (received === chains) break
  const interrupts = Atomics.load(signals, INTERRUPTS)
  if (!ring.enableInterrupts()) Atomics.wait(signals, INTERRUPTS, interrupts)
}
parentPort.postMessage({ received, wrong })
