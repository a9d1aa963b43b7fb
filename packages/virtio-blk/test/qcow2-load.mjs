// A process that writes to a qcow2 image until it is killed: node qcow2-load.mjs IMAGE LOG SEED. Runs on the built package.
//
// Every step is a record of five 32-bit numbers in LOG, appended before (issued, flush begun) or after (done, flushed) it:
// kind, number of the operation, first sector, sectors, value (0 for zeros, 0xffffffff for zeros or what was there: a discard). Operations of a lane follow one another, and lanes have
// sectors of their own; some of them share clusters.
import { openSync, writeSync } from "node:fs"
import { mmapMemory } from "@virtkit/memory/mmap"
import { qcow2Backend } from "../dist/backends/qcow2/index.js"

const [image = "", logPath = "", seed = "1"] = process.argv.slice(2)
const [WRITE, FLUSH, DISCARD, WRITE_ZEROES] = [1, 2, 3, 4]
const [ISSUED, DONE, FLUSH_BEGUN, FLUSHED] = [1, 2, 3, 4]
const LANES = 8
const LANE_BYTES = 2 ** 20

let state = Number(seed) | 0
/** @param {number} below */
function next(below) {
  state = (Math.imul(state, 1664525) + 1013904223) | 0
  return Math.floor(((state >>> 0) / 2 ** 32) * below)
}

const log = openSync(logPath, "a")
const record = Buffer.alloc(20)
/** @param {number[]} numbers */
function note(...numbers) {
  for (let i = 0; i < 5; i++) record.writeUInt32LE(numbers[i] ?? 0, i * 4)
  writeSync(log, record)
}

const memory = mmapMemory(LANES * LANE_BYTES)
const backend = await qcow2Backend({
  path: image,
  readonly: false,
  unsafe: false,
  direct: false,
  backing: [],
  depth: LANES + 1,
})
/** @type {((error: number) => void)[]} */
const waiting = []
backend.start({
  memory,
  depth: LANES + 1,
  complete: (request, error) => waiting[request.tag]?.(error),
  completed: () => {},
})

/**
 * @param {number} tag
 * @param {number} op
 * @param {number} sector
 * @param {number} sectors
 * @param {boolean} sync
 */
function run(tag, op, sector, sectors, sync) {
  return new Promise((resolve, reject) => {
    waiting[tag] = (error) => (error === 0 ? resolve(undefined) : reject(new Error(`errno ${error}`)))
    const length = sectors * 512
    backend.submit({
      tag,
      op,
      offset: sector * 512,
      length,
      sync,
      unmap: next(2) === 0,
      addresses: Float64Array.of(tag * LANE_BYTES),
      lengths: Uint32Array.of(length),
      count: op === WRITE ? 1 : 0,
    })
    backend.commit()
  })
}

let operations = 0

/**
 * Half of the lanes have a part of the disk each, the others take turns of 37 sectors in the rest.
 * @param {number} lane
 * @returns {[number, number]} first sector, sectors
 */
function place(lane) {
  const total = backend.info.size / 512
  const part = Math.floor(total / LANES / 128) * 128
  if (lane < LANES / 2) {
    const first = next(part)
    return [lane * part + first, 1 + next(Math.min(256, part - first))]
  }
  const rest = (LANES / 2) * part
  const stripes = Math.floor((total - rest) / (37 * (LANES / 2)))
  const stripe = next(stripes) * (LANES / 2) + (lane - LANES / 2)
  const first = next(37)
  return [rest + stripe * 37 + first, 1 + next(37 - first)]
}

/** @param {number} lane */
async function work(lane) {
  const words = new Uint32Array(LANE_BYTES / 4)
  for (;;) {
    const [sector, sectors] = place(lane)
    const number = ++operations
    const kind = next(6)
    const value = kind < 4 ? Number(seed) * 2 ** 20 + number : 0
    words.fill(value, 0, sectors * 128)
    memory.write(lane * LANE_BYTES, new Uint8Array(words.buffer, 0, sectors * 512))
    const op = kind < 4 ? WRITE : kind === 4 ? WRITE_ZEROES : lane < LANES / 2 ? DISCARD : WRITE_ZEROES
    note(ISSUED, number, sector, sectors, op === DISCARD ? 0xffffffff : value)
    await run(lane, op, sector, sectors, false)
    note(DONE, number)
  }
}

async function flushes() {
  for (;;) {
    const number = ++operations
    note(FLUSH_BEGUN, number)
    await run(LANES, FLUSH, 0, 0, false)
    note(FLUSHED, number)
    await new Promise((resolve) => setTimeout(resolve, next(20)))
  }
}

process.stdout.write("ready\n")
await Promise.all([...Array.from({ length: LANES }, (_, lane) => work(lane)), flushes()])
