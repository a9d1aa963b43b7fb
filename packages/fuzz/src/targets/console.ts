import type { DriverChain } from "@virtkit/testkit"
import { consolePort } from "@virtkit/virtio-console"
import { framed, harnessOf, QUEUE_SIZE } from "../chains.js"
import { Input, Output } from "../input.js"
import { type FuzzTarget, must } from "../target.js"

const [RX, TX] = [0, 1]
const STEP = { room: 0, print: 1, type: 2, turn: 3, config: 4, resize: 5, pause: 6 } as const
const STEPS = 7
const MOST_STEPS = 64
/** Small, so that the guest's output has to wait. */
const OUTPUT_BUFFER = 64
const EMERGENCY_WRITE = 8

async function run(bytes: Uint8Array): Promise<Iterable<string>> {
  const input = new Input(bytes)
  const device = consolePort({ outputBuffer: OUTPUT_BUFFER })
  const harness = harnessOf(device)
  const events = new Set<string>()
  const typed: Buffer[] = []
  const taken: Uint8Array[] = []
  const printed: Uint8Array[] = []
  const seen: Buffer[] = []
  const waiting: DriverChain[] = []
  device.stream.on("data", (data: Buffer) => seen.push(data))
  const reap = () => {
    harness.ring(TX).reap()
    for (const { written, data } of harness.ring(RX).reap()) {
      must(written! <= data!.length, "more written than there was room for")
      taken.push(data!.subarray(0, written))
    }
  }
  const turn = () => new Promise((resolve) => setImmediate(resolve))
  let mark = 0
  let emergencies = false
  for (let steps = 0; input.left > 0 && steps < MOST_STEPS; steps++) {
    const kind = input.u8() % STEPS
    if (kind === STEP.turn) {
      await turn()
    } else if (kind === STEP.type) {
      const data = Buffer.alloc(input.u8(), ++mark)
      typed.push(data)
      device.stream.write(data)
    } else if (kind === STEP.config) {
      // The byte goes past what the queue holds, so their order is nobody's promise.
      const [offset, length] = [input.u8() % 12, 1 + (input.u8() % 4)]
      if (offset + length > device.config.length) continue
      device.writeConfig!(offset, new Uint8Array(length).fill(0xfe))
      emergencies ||= offset <= EMERGENCY_WRITE && offset + length > EMERGENCY_WRITE
    } else if (kind === STEP.resize) {
      device.resize(input.u16(), input.u16())
    } else if (kind === STEP.pause) {
      if (input.u8() & 1) device.stream.pause()
      else device.stream.resume()
    } else {
      const queue = kind === STEP.room ? RX : TX
      const count = input.u8() * (kind === STEP.room ? 1 : 3)
      const print = new Uint8Array(kind === STEP.print ? count : 0).fill(++mark & 0x7f)
      const request = framed(input, print, kind === STEP.room ? count : input.pick([0, 0, 0, 5]))
      if (request === undefined || harness.ring(queue).freeDescriptors < QUEUE_SIZE) continue
      const chain = harness.ring(queue).add(request)
      if (queue === TX) {
        printed.push(print)
        waiting.push(chain)
      }
      harness.kick(queue)
    }
    reap()
    events.add(
      `${kind} ${harness.ring(RX).inFlight} ${harness.ring(TX).inFlight} ${Math.min(3, seen.length)}`,
    )
  }
  device.stream.resume()
  for (let turns = 0; waiting.some(({ written }) => written === undefined); turns++) {
    must(turns < 200, "a chain does not come back")
    reap()
    await turn()
  }
  await device.close()
  await turn()
  must(harness.needsReset.length === 0, `needs a reset: ${harness.needsReset[0]}`)
  const [output, printedAll] = [Buffer.concat(seen), Buffer.concat(printed)]
  const plain = emergencies ? output.filter((byte) => byte !== 0xfe) : output
  must(Buffer.compare(plain, printedAll) === 0, "the output is not what was printed")
  const [got, typedAll] = [Buffer.concat(taken), Buffer.concat(typed)]
  must(Buffer.compare(got, typedAll.subarray(0, got.length)) === 0, "the input is not what was typed")
  return events
}

function seeds(): Uint8Array[] {
  const print = (length: number) => [STEP.print, length, 1, 0, 0]
  const room = (length: number) => [STEP.room, length, 1, 0]
  return [
    [...print(5), STEP.turn, ...print(60), STEP.turn, STEP.turn],
    [...room(40), STEP.type, 9, STEP.turn, STEP.type, 200, ...room(20), ...room(100), STEP.turn],
    [
      STEP.pause,
      1,
      ...print(80),
      STEP.turn,
      STEP.pause,
      0,
      STEP.turn,
      STEP.config,
      8,
      0,
      STEP.resize,
      80,
      0,
      24,
      0,
    ],
  ].map((steps) => new Output().bytes(steps).input)
}

export const target: FuzzTarget = { about: "chains of virtio-console, both ways", maxBytes: 512, seeds, run }
