import { DESCRIPTOR, PACKED_DESCRIPTOR } from "@virtkit/testkit"
import { GuardedMemory } from "../guarded-memory.js"
import { Input, Output } from "../input.js"
import { AVAIL, BOUNDARY, DESC, RingRun, type RingShape, USED } from "../ring-run.js"
import type { FuzzTarget } from "../target.js"

const HIGH = 0x1_0000_0000
const REGIONS = [
  [DESC, BOUNDARY - DESC],
  [BOUNDARY, 0x1000],
  [HIGH, 0x1000],
] as const
const memory = new GuardedMemory(REGIONS)
const mirror = new GuardedMemory(REGIONS)

const TABLES = [0x2000, 0x2200, 0x3f80, HIGH + 0xf00] as const
/** Where buffers and tables are, by halves: inside, at ends of regions, where nothing is, and up to 2^64. */
const PLACES: readonly (readonly [low: number, high: number])[] = [
  [0x2800, 0],
  [0x3000, 0],
  [0x2000, 0],
  [0x2200, 0],
  [BOUNDARY - 16, 0],
  [BOUNDARY, 0],
  [0x5000 - 16, 0],
  [0, 1],
  [0xf00, 1],
  [DESC, 0],
  [USED, 0],
  [0, 0],
  [0x5000, 0],
  [0xffff_fff0, 0],
  [0x1000, 0x20_0000],
  [0xffff_fff0, 0xffff_ffff],
]
const LENGTHS = [1, 16, 32, 8, 48, 256, 0, 17, 15, 0x110, 0x1000, 0x2800, 0x7fff_ffff, 0xffff_ffff]
const SPLIT_SIZES = [4, 8, 1, 2, 16]
const SPLIT_STARTS = [0, 0xfffe, 1, 0x7fff]
const MOST_STEPS = 300

/** What the steps of an input are, for seeds: indexes of {@link ACTIONS}. */
const STEP = {
  descriptor: 0,
  offer: 1,
  table: 2,
  availIndex: 3,
  raw: 4,
  pop: 5,
  push: 6,
  flush: 7,
  unpop: 8,
  notification: 9,
  event: 10,
  replace: 11,
  drain: 12,
} as const

function shapeOf(input: Input, packed: boolean): RingShape {
  const flags = input.u8()
  const size = packed ? 1 + (input.u8() % 17) : input.pick(SPLIT_SIZES)
  const at = input.u8()
  const start = packed ? (at % size) | (at & 0x80 ? 0 : 0x8000) : SPLIT_STARTS[at % SPLIT_STARTS.length]!
  const [eventIdx, indirect, inOrder] = [1, 2, 4].map((bit) => (flags & bit) !== 0)
  return { packed, size, start, eventIdx: eventIdx!, indirect: indirect!, inOrder: inOrder! }
}

/** The driver's part: its next place in the ring, which it alone believes in. */
interface Driver {
  position: number
}

type Step = (run: RingRun, driver: Driver, shape: RingShape, input: Input) => void

const ACTIONS: readonly Step[] = [
  (run, _, { size, packed }, input) =>
    descriptor(run, input, DESC + DESCRIPTOR.BYTES * (input.u8() % size), packed),
  (run, driver, { size, packed }, input) => (packed ? offerPacked : offerSplit)(run, driver, input, size),
  (run, _, { packed }, input) =>
    descriptor(run, input, input.pick(TABLES) + DESCRIPTOR.BYTES * (input.u8() % 20), packed),
  (run, driver, _, input) => {
    driver.position = input.u16()
    run.write(AVAIL + 2, 2, driver.position)
  },
  (run, _, __, input) =>
    run.write(DESC + (input.u16() % (BOUNDARY - DESC)), input.pick([1, 2, 4]), input.u32()),
  (run) => void run.pop(),
  (run, _, __, input) => run.push(input.u8(), input.u8(), input.pick([0, 1, 16, 0xff, 0xffff_ffff])),
  (run) => run.flush(),
  (run) => run.unpop(),
  (run, _, __, input) => run.notification(input.u8() % 2 === 0),
  (run, _, { size, packed }, input) =>
    run.write(packed ? AVAIL : AVAIL + 4 + 2 * size, packed ? 4 : 2, input.u32()),
  (run) => run.replace(),
  (run, _, { size }) => {
    for (let most = size; most > 0 && run.pop() !== undefined; most--) run.push(0, 16, 16)
    run.flush()
  },
]

/** Fields of any kind. The last word of a split descriptor is `next`, of a packed one the flags. */
function descriptor(run: RingRun, input: Input, at: number, packed: boolean, owner?: number): void {
  const [low, high] = input.pick(PLACES)
  const flags = input.u8()
  const rest = input.u8()
  run.write(at, 4, low + (input.u8() & 0x1f))
  run.write(at + 4, 4, high)
  run.write(at + 8, 4, input.pick(LENGTHS))
  const packedFlags =
    (flags & 7) | (owner ?? ((flags & 8) !== 0 ? 0x80 : 0) | ((flags & 16) !== 0 ? 0x8000 : 0))
  run.write(at + 12, 2, packed ? rest : flags & 7)
  run.write(at + 14, 2, packed ? packedFlags : rest)
}

function offerSplit(run: RingRun, driver: Driver, input: Input, size: number): void {
  run.write(AVAIL + 4 + 2 * (driver.position % size), 2, input.u8() % (size + 1))
  driver.position = (driver.position + 1) & 0xffff
  run.write(AVAIL + 2, 2, driver.position)
}

function offerPacked(run: RingRun, driver: Driver, input: Input, size: number): void {
  const slot = (driver.position & 0x7fff) % size
  const wrap = driver.position & 0x8000
  descriptor(
    run,
    input,
    DESC + DESCRIPTOR.BYTES * slot,
    true,
    wrap ? PACKED_DESCRIPTOR.AVAIL : PACKED_DESCRIPTOR.USED,
  )
  driver.position = slot + 1 < size ? (slot + 1) | wrap : wrap ^ 0x8000
}

function run(bytes: Uint8Array, packed: boolean): string[] {
  const input = new Input(bytes)
  const shape = shapeOf(input, packed)
  const ring = new RingRun(shape, memory, mirror)
  const driver = { position: shape.start }
  for (let steps = 0; input.left > 0 && steps < MOST_STEPS; steps++) {
    input.pick(ACTIONS)(ring, driver, shape, input)
  }
  ring.finish()
  const features = [shape.eventIdx, shape.indirect, shape.inOrder].map(Number).join("")
  return [`2^${Math.ceil(Math.log2(ring.chains + 1))} chains`, ...ring.events].map(
    (event) => `${features} ${event}`,
  )
}

/** Well-formed chains: one or two buffers, a table, with all features; then everything at once. */
function seeds(packed: boolean): Uint8Array[] {
  const buffer = (flags: number, rest: number, place = 0) => [place, flags, rest, 0, 1]
  return [0, 1, 2, 3, 4, 7].map((features) => {
    const out = new Output().u8(features, 3, 0)
    const all = (steps: number[][]) => {
      for (const one of steps) out.u8(...one)
    }
    all([
      [STEP.table, 0, 0, ...buffer(packed ? 0 : 1, 1)],
      [STEP.table, 0, 1, ...buffer(2, 0, 1)],
    ])
    if (packed) {
      all([
        [STEP.offer, ...buffer(1, 7)],
        [STEP.offer, ...buffer(2, 7, 1)],
        [STEP.offer, 2, 4, 9, 0, 2],
      ])
    } else {
      all([
        [STEP.descriptor, 0, ...buffer(1, 1)],
        [STEP.descriptor, 1, ...buffer(2, 0, 1)],
        [STEP.descriptor, 2, 2, 4, 0, 0, 2],
        [STEP.offer, 0],
        [STEP.offer, 2],
      ])
    }
    all([
      [STEP.pop],
      [STEP.pop],
      [STEP.unpop],
      [STEP.replace],
      [STEP.pop],
      [STEP.push, 0, 16, 2],
      [STEP.flush],
    ])
    all([
      [STEP.notification, 1],
      [STEP.drain],
      [STEP.notification, 0],
      [STEP.event, 0, 0, 0, 0],
      [STEP.drain],
    ])
    return out.input
  })
}

/** The device side of a ring whose memory, and whatever it points to, is the guest's. */
export function ringTarget(packed: boolean): FuzzTarget {
  return {
    about: `device side of a ${packed ? "packed" : "split"} ring over hostile ring memory`,
    maxBytes: 1024,
    seeds: () => seeds(packed),
    run: (input) => run(input, packed),
  }
}
