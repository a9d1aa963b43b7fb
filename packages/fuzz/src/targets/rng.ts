import { rng } from "@virtkit/virtio-rng"
import { fine, framed, given, harnessOf } from "../chains.js"
import { Input, Output } from "../input.js"
import { type FuzzTarget, must } from "../target.js"

const MOST_REQUESTS = 32
/** What a request gets at most. */
const MOST_BYTES = 64 * 1024
const RANDOM = 0x77

async function run(bytes: Uint8Array): Promise<Iterable<string>> {
  const input = new Input(bytes)
  const device = rng({
    source: (buffer) => {
      must(buffer.length <= 4096, `${buffer.length} bytes asked for at once`)
      buffer.fill(RANDOM)
    },
  })
  const harness = harnessOf(device)
  const events = new Set<string>()
  for (let requests = 0; input.left > 0 && requests < MOST_REQUESTS; requests++) {
    const room = input.pick([64, 0, 1, 16, 255, 4096, 4097, 8192, 70_000])
    const request = framed(input, new Uint8Array(input.pick([0, 0, 0, 1, 40])), room)
    if (request === undefined) continue
    const chain = harness.ring(0).add(request)
    harness.kick(0)
    await given(harness, 0, chain)
    fine(harness, chain)
    must(chain.written === Math.min(room, MOST_BYTES), `${chain.written} bytes for a request of ${room}`)
    must(
      chain.data!.subarray(0, chain.written).every((byte) => byte === RANDOM),
      "bytes that are not random",
    )
    must(
      chain.data!.subarray(chain.written).every((byte) => byte === 0xee),
      "bytes beyond used.len",
    )
    events.add(`${room} in ${request.writable?.length}, ${request.readable?.length} readable`)
  }
  await device.close()
  return events
}

function seeds(): Uint8Array[] {
  const list = [
    [0, 0, 1, 0],
    [5, 0, 1, 0],
    [8, 0, 1, 16, 100, 100],
    [0, 3, 0, 0, 1, 3, 1, 9, 3, 3],
  ]
  return list.map((steps) => new Output().bytes(steps).input)
}

export const target: FuzzTarget = { about: "requests of virtio-rng", maxBytes: 256, seeds, run }
