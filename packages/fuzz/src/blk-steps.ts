import type { DeviceHarness } from "@virtkit/testkit"
import { BLK, type DiskModel } from "./blk-model.js"
import { framed, sent } from "./chains.js"
import { type Input, Output } from "./input.js"

const MOST_REQUESTS = 24
const TYPES = [...Object.values(BLK), 2, 0xffff_ffff]
/** Data of up to so many bytes goes out with a request. */
const MOST_OUT = 2048

/** Header, data and framing of one request after the other; each is answered before the next one is sent. */
export async function blkSteps(
  input: Input,
  harness: DeviceHarness,
  model: DiskModel,
  events: Set<string>,
): Promise<void> {
  for (let requests = 0; input.left > 0 && requests < MOST_REQUESTS; requests++) {
    const { request, room } = requestOf(input)
    const chainRequest = framed(input, request, room)
    if (chainRequest === undefined) continue
    const chain = await sent(harness, 0, chainRequest)
    events.add(model.check(request, room, chain))
  }
}

function requestOf(input: Input): { request: Uint8Array; room: number } {
  const type = input.pick(TYPES)
  const shape = input.u8()
  const sector = shape & 1 ? [input.u32(), input.u32()] : [input.u8() % 20, 0]
  const header = new Output().u32(type, 0, sector[0]!, sector[1]!).input
  // Bytes that go out: sectors of a pattern, ranges, or anything; perhaps some too few.
  const amount = input.u8()
  const fill = input.u8()
  const data =
    type === BLK.OUT
      ? new Uint8Array((amount % 5) * 512).fill(fill)
      : type === BLK.DISCARD || type === BLK.WRITE_ZEROES
        ? rangesOf(input, amount % 20)
        : new Uint8Array(0)
  const whole = new Uint8Array(Buffer.concat([header, data]).subarray(0, MOST_OUT))
  const request = shape & 2 ? whole.slice(0, Math.max(0, whole.length - (fill % 24))) : whole
  const room = (type === BLK.IN ? (amount % 5) * 512 : type === BLK.GET_ID ? amount % 40 : 0) + 1
  return { request, room: shape & 4 ? Math.max(0, room - (fill % 3)) : room }
}

function rangesOf(input: Input, count: number): Uint8Array {
  const out = new Output()
  for (let i = 0; i < count; i++) {
    const how = input.u8()
    out.u32(how & 1 ? input.u32() : input.u8() % 20, how & 2 ? input.u32() : 0)
    out.u32(how & 4 ? input.u32() : input.u8() % 20, how & 8 ? input.u8() : how >> 7)
  }
  return out.input
}

/** Each kind of request by itself, then some together; all with one buffer for each part. */
export function blkSeeds(flags: readonly number[]): Uint8Array[] {
  const of = (type: number, sector: number, amount: number, fill: number, rest: number[] = []) => [
    TYPES.indexOf(type),
    0,
    sector,
    amount,
    fill,
    ...rest,
    1,
    9,
    16,
    0,
  ]
  const write = of(BLK.OUT, 3, 2, 0x77)
  const read = of(BLK.IN, 3, 2, 0)
  const range = [0, 2, 1]
  const all = [
    write,
    read,
    of(BLK.FLUSH, 0, 0, 0),
    of(BLK.GET_ID, 0, 20, 0),
    of(BLK.DISCARD, 0, 1, 0, range),
    of(BLK.WRITE_ZEROES, 0, 2, 0, [...range, ...range]),
    [...write, ...read, ...of(BLK.WRITE_ZEROES, 0, 1, 0, [0, 3, 1]), ...read],
  ]
  return flags.flatMap((flag) => all.map((requests) => Uint8Array.from([flag, ...requests])))
}
