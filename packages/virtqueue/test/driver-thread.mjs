// A split ring driver on a thread of its own, for two-threads.test.ts: sends `chains` numbers, each in a chain of two
// descriptors, and checks that each comes back one larger. Sleeps whenever there is nothing to do, so that a
// notification that gets lost either way leaves it asleep.
import { parentPort, workerData } from "node:worker_threads"

const { buffer, size, desc, avail, used, data, eventIdx, chains, signals } = workerData
const table = new DataView(buffer, desc, 16 * size)
const availRing = new Uint16Array(buffer, avail, 3 + size)
const usedRing = new Uint16Array(buffer, used, 3 + 4 * size)
const usedElements = new Uint32Array(buffer, used, 1 + 2 * size)
const cells = new Uint32Array(buffer, data, size)
const [KICKS, INTERRUPTS] = [0, 1]
const free = Array.from({ length: size / 2 }, (_, slot) => 2 * slot)
const crossed = (event, now, before) => ((now - event - 1) & 0xffff) < ((now - before) & 0xffff)

let sent = 0
let received = 0
let wrong = 0
let availIndex = 0
let usedIndex = 0

function send() {
  const before = availIndex
  // Batches of changing size.
  for (let batch = 1 + (sent % 5); batch > 0 && sent < chains && free.length > 0; batch--) {
    const head = free.pop()
    cells[head] = sent
    cells[head + 1] = 0
    describe(head, 1, head + 1)
    describe(head + 1, 2, 0)
    availRing[2 + (availIndex % size)] = head
    availIndex = (availIndex + 1) & 0xffff
    sent++
  }
  if (availIndex === before) return false
  Atomics.store(availRing, 1, availIndex)
  const wanted = eventIdx
    ? crossed(Atomics.load(usedRing, 2 + 4 * size), availIndex, before)
    : (Atomics.load(usedRing, 0) & 1) === 0
  if (wanted) {
    Atomics.add(signals, KICKS, 1)
    Atomics.notify(signals, KICKS)
  }
  return true
}

function describe(index, flags, next) {
  table.setUint32(16 * index, data + 4 * index, true)
  table.setUint32(16 * index + 4, 0, true)
  table.setUint32(16 * index + 8, 4, true)
  table.setUint16(16 * index + 12, flags, true)
  table.setUint16(16 * index + 14, next, true)
}

function reap() {
  const published = Atomics.load(usedRing, 1)
  if (published === usedIndex) return false
  for (; usedIndex !== published; usedIndex = (usedIndex + 1) & 0xffff) {
    const head = usedElements[1 + 2 * (usedIndex % size)]
    if (usedElements[2 + 2 * (usedIndex % size)] !== 4 || cells[head + 1] !== cells[head] + 1) wrong++
    free.push(head)
    received++
  }
  return true
}

while (received < chains) {
  if (!eventIdx) Atomics.store(availRing, 0, 1)
  while (send() || reap()) {}
  if (received === chains) break
  const interrupts = Atomics.load(signals, INTERRUPTS)
  if (eventIdx) Atomics.store(availRing, 2 + size, usedIndex)
  else Atomics.store(availRing, 0, 0)
  if (Atomics.load(usedRing, 1) === usedIndex) Atomics.wait(signals, INTERRUPTS, interrupts)
}
parentPort.postMessage({ received, wrong })
