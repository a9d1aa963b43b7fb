import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { deflateRawSync } from "node:zlib"
import { VirtkitError } from "@virtkit/interface"
import type { DeviceHarness } from "@virtkit/testkit"
import { block, createQcow2 } from "@virtkit/virtio-blk"
import { BLK } from "../blk-model.js"
import { harnessOf, sent } from "../chains.js"
import { Input, Output } from "../input.js"
import { MappedMemory } from "../mapped-memory.js"
import { type FuzzTarget, must } from "../target.js"
import { withoutNumbers } from "../words.js"

const SECTOR = 512
const SECTORS = 512
const MOST_CHANGES = 8
const MOST_REQUESTS = 12
/** No image of these disks needs as much, whatever its tables say: files grow by 16 MiB at a time. Bytes. */
const MOST_BYTES = 32 << 20
const TYPES = [BLK.IN, BLK.OUT, BLK.FLUSH, BLK.DISCARD, BLK.WRITE_ZEROES]
/** Parts of an image, by where its bytes are found: the header, and tables that it and they name. */
const PARTS = ["header", "L1 table", "refcount table", "refcount block", "L2 table", "anywhere"] as const

interface Base {
  readonly bytes: Buffer
  /** Where each of PARTS begins. */
  readonly parts: readonly number[]
  readonly data: Uint8Array
}

interface Host {
  readonly memory: MappedMemory
  readonly path: string
  readonly bases: readonly Base[]
}

let shared: Promise<Host> | undefined

/** Made with the first run. The images go when the process does. */
async function makeHost(): Promise<Host> {
  const directory = mkdtempSync(join(tmpdir(), "virtkit-fuzz-"))
  process.on("exit", () => rmSync(directory, { recursive: true, force: true }))
  const memory = new MappedMemory()
  const bases: Base[] = []
  for (const [name, clusterSize, version] of [
    ["small", 512, 3],
    ["old", 512, 2],
    ["pages", 4096, 3],
  ] as const) {
    const path = join(directory, name)
    await createQcow2({ path, size: SECTORS * SECTOR, clusterSize, version })
    const device = await block({ path, format: "qcow2" })
    const harness = harnessOf(device, undefined, memory)
    const data = new Uint8Array(SECTORS * SECTOR)
    // In three places, of which one gets zeros again.
    for (const sector of [0, 80, 200]) await request(harness, BLK.OUT, sector, 8, sector + 1, data)
    await request(harness, BLK.WRITE_ZEROES, 80, 8, 0, data)
    await device.close()
    bases.push(baseOf(readFileSync(path), data))
  }
  bases.push(compressed(bases[2]!))
  return { memory, path: join(directory, "image"), bases }
}

function baseOf(bytes: Buffer, data: Uint8Array): Base {
  const offset = (at: number) => Number(bytes.readBigUInt64BE(at) & 0x00ff_ffff_ffff_fe00n)
  const [l1, refcounts] = [offset(40), offset(48)]
  return { bytes, data, parts: [0, l1, refcounts, offset(refcounts), offset(l1), 0] }
}

/** With a compressed cluster, the sixth, behind all others. */
function compressed({ bytes, parts, data }: Base): Base {
  const clusterSize = 4096
  const plain = new Uint8Array(clusterSize).map((_, at) => at >> 4)
  const packed = deflateRawSync(plain)
  const end = Math.ceil(bytes.length / clusterSize) * clusterSize
  const image = Buffer.alloc(end + clusterSize)
  bytes.copy(image)
  packed.copy(image, end)
  const more = BigInt(Math.ceil(packed.length / SECTOR) - 1)
  // Bits 58 to 61 count sectors, with clusters of 2^12 bytes.
  image.writeBigUInt64BE((1n << 62n) | (more << 58n) | BigInt(end), parts[4]! + 8 * 5)
  image.writeUInt16BE(1, parts[3]! + (2 * end) / clusterSize)
  const all = data.slice()
  all.set(plain, 5 * clusterSize)
  return { bytes: image, parts, data: all }
}

/** Sends a request, of data that are all `fill`, and compares what is read with `data`. Gives the status. */
async function request(
  harness: DeviceHarness,
  type: number,
  sector: number,
  sectors: number,
  fill: number,
  data: Uint8Array | undefined,
): Promise<number> {
  const header = new Output().u32(type, 0, sector, 0).input
  const length = sectors * SECTOR
  const range = new Output().u32(sector, 0, sectors, fill & 1).input
  const body =
    type === BLK.OUT
      ? new Uint8Array(length).fill(fill)
      : type === BLK.DISCARD || type === BLK.WRITE_ZEROES
        ? range
        : new Uint8Array(0)
  const room = type === BLK.IN ? length : 0
  const chain = await sent(harness, 0, { readable: [header, body], writable: [room, 1], layout: "indirect" })
  const got = chain.data!
  const status = got[room] ?? 0xff
  must(status <= 2, `status ${status}`)
  if (data === undefined) return status
  must(status === 0, `a good image: status ${status}`)
  if (type === BLK.OUT) data.fill(fill, sector * SECTOR, sector * SECTOR + length)
  if (type === BLK.WRITE_ZEROES) data.fill(0, sector * SECTOR, sector * SECTOR + length)
  if (type === BLK.IN) {
    const expected = data.subarray(sector * SECTOR, sector * SECTOR + length)
    must(Buffer.compare(got.subarray(0, length), expected) === 0, "a good image: other data")
  }
  return status
}

/** Changes bytes of the parts of an image; how many times. */
function damage(input: Input, { parts }: Base, image: Buffer): number {
  const changes = input.u8() % (MOST_CHANGES + 1)
  for (let change = 0; change < changes; change++) {
    const part = input.u8() % PARTS.length
    const at = parts[part]! + (part === PARTS.length - 1 ? input.u16() : input.u8())
    const bytes = input.bytes(1 + (input.u8() % 8))
    image.set(bytes.subarray(0, Math.max(0, image.length - at)), Math.min(at, image.length))
  }
  return changes
}

async function run(bytes: Uint8Array): Promise<Iterable<string>> {
  shared ??= makeHost()
  const { memory, path, bases } = await shared
  const input = new Input(bytes)
  const flags = input.u8()
  const base = bases[flags & 3]!
  const readonly = (flags & 4) !== 0
  const image = Buffer.from(base.bytes)
  const changes = damage(input, base, image)
  const cut = (flags & 8) !== 0 ? input.u16() % image.length : 0
  writeFileSync(path, image.subarray(0, image.length - cut))
  const events = new Set<string>()
  const model = changes === 0 && cut === 0 && !readonly ? base.data.slice() : undefined
  try {
    const device = await block({ path, format: "qcow2", readonly, engine: "threads" })
    try {
      const harness = harnessOf(device, undefined, memory)
      const sectors = Math.min(SECTORS, new DataView(device.config.slice().buffer).getUint32(0, true))
      for (let requests = 0; input.left > 0 && requests < MOST_REQUESTS; requests++) {
        const type = input.pick(TYPES)
        const sector = (input.u8() * 3) % sectors
        const count = Math.min(1 + (input.u8() % 16), sectors - sector)
        // What a discarded range reads as is not said.
        if (type === BLK.DISCARD && model !== undefined) continue
        events.add(`${type} ${await request(harness, type, sector, count, input.u8(), model)}`)
      }
    } finally {
      await device.close().catch((error: Error) => events.add(refusal(error)))
    }
  } catch (error) {
    events.add(refusal(error))
  }
  const { size } = statSync(path)
  must(size < MOST_BYTES, `the image has grown to ${size} bytes`)
  return [...events].map((event) => `${flags & 15} ${event}`)
}

/** Why an image is not used. Throws what must not come of one. */
function refusal(error: unknown): string {
  if (error instanceof VirtkitError) return withoutNumbers(error.message)
  throw error
}

/** Requests of each kind, after changes that leave all as it is, and a damage to each part. */
function seeds(): Uint8Array[] {
  const requests = TYPES.flatMap((_, type) => [type, 0, 7, 5, type, 27, 9, 3, 0, 14, 4, 0])
  const good = [0, 1, 2, 3, 4].map((flags) => Uint8Array.from([flags, 0, ...requests]))
  const damaged = PARTS.flatMap((_, part) =>
    [0, 2, 3].map((flags) => Uint8Array.from([flags, 1, part, 20, 3, 0xff, 1, 0, 9, ...requests])),
  )
  return [...good, ...damaged, Uint8Array.from([8, 0, 0, 6, ...requests])]
}

export const target: FuzzTarget = {
  about: "qcow2 images: headers, tables and what a guest does to the disk (bad-input #26)",
  maxBytes: 256,
  seeds,
  run,
}
