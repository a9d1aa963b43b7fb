import { RestoreError, type Stateful } from "@virtkit/interface"
import { PciBus } from "@virtkit/pci"
import { FakeInterrupt, FakePciHost, MmioDriver, TestMemory } from "@virtkit/testkit"
import { VirtioMmio } from "@virtkit/virtio"
import { consolePort } from "@virtkit/virtio-console"
import { VirtioPci } from "@virtkit/virtio-pci"
import { createQueue } from "@virtkit/virtqueue"
import { Input } from "../input.js"
import { type FuzzTarget, must } from "../target.js"
import { withoutNumbers } from "../words.js"

const VALUES: readonly unknown[] = [
  0,
  1,
  -1,
  2,
  15,
  16,
  0xffff,
  0x1_0000,
  0xffff_ffff,
  2 ** 32,
  2 ** 53,
  0.5,
  Number.NaN,
  null,
  undefined,
  "x",
  true,
  0n,
  -1n,
  1n << 64n,
  [],
  {},
  [0, 0, 0],
  new Uint8Array(3),
]
const MOST_CHANGES = 3

/** Makes an object with a state worth changing; `use` does something with it after its restore. */
interface Subject {
  readonly made: Stateful
  readonly started?: Promise<void>
  use(): unknown
}

const memory = new TestMemory({ regions: [{ guestAddress: 0, size: 0x1_0000 }] })

function queue(packed: boolean, taken: boolean): Subject {
  memory.fill(0, 0x4000, 0)
  // One buffer, made available.
  memory.writeUint32(0x1000, 0x8000)
  memory.writeUint32(0x1008, 32)
  memory.writeUint16(packed ? 0x100e : 0x100c, packed ? 0x80 : 0)
  if (!packed) memory.writeUint16(0x2002, 1)
  const made = createQueue({
    index: 0,
    size: 8,
    desc: 0x1000,
    avail: 0x2000,
    used: 0x3000,
    memory,
    packed,
    inOrder: false,
    eventIdx: true,
    indirect: true,
    onInterrupt: () => {},
    onBroken: () => {},
  }).queue
  must(made !== undefined, "no queue")
  if (taken) made.pop()
  const use = () => {
    for (let chain = made.pop(), most = 16; chain !== undefined && most > 0; chain = made.pop(), most--) {
      chain.copyOut(0, new Uint8Array(64))
      made.push(chain, chain.copyIn(0, new Uint8Array(64)))
    }
    made.flush()
  }
  return { made, use }
}

/** `start` sets queues up first: what is saved is a device at work. */
function mmio(start: boolean): Subject {
  const interrupt = new FakeInterrupt()
  const onError = (error: Error) => must(false, `the device threw: ${error.message}`)
  const made = new VirtioMmio({ device: consolePort(), memory, interrupt, onError })
  const use = () => made.write(0x50, 4, 0)
  return start
    ? { made, use, started: new MmioDriver({ device: made, memory }).start({ queueSize: 4 }) }
    : { made, use }
}

function pci(): Subject {
  const host = new FakePciHost({ memory, pages: true })
  const windows = {
    io: { address: 0x1000, size: 0xf000 },
    memory32: { address: 0xd000_0000, size: 0x800_0000 },
    memory64: { address: 0x40_0000_0000, size: 0x40_0000_0000 },
  }
  const made = new PciBus({ host, ecam: { address: 0xe000_0000, buses: 16 }, windows })
  made.add(new VirtioPci({ device: consolePort() }))
  made.addRootPort()
  made.assignResources()
  return { made, use: () => host.write("memory", 0xe000_8004, 2, 7) }
}

const SUBJECTS: readonly ((saving: boolean) => Subject)[] = [
  (saving) => queue(false, saving),
  (saving) => queue(true, saving),
  (saving) => mmio(saving),
  () => pci(),
]

/** All places in a state that can be changed, as object and key. */
function places(value: unknown, found: [object: Record<string, unknown>, key: string][]): typeof found {
  if (typeof value !== "object" || value === null || ArrayBuffer.isView(value)) return found
  for (const key of Object.keys(value)) {
    found.push([value as Record<string, unknown>, key])
    places((value as Record<string, unknown>)[key], found)
  }
  return found
}

function change(object: Record<string, unknown>, key: string, how: number): void {
  if (how < 0xc0) object[key] = structuredClone(VALUES[how % VALUES.length])
  else if (how >= 0xd0 && typeof object[key] === "number") object[key] += how - 0xe8
  else if (Array.isArray(object)) object.splice(Number(key), 1)
  else delete object[key]
}

async function run(bytes: Uint8Array): Promise<Iterable<string>> {
  const input = new Input(bytes)
  const make = input.pick(SUBJECTS)
  const saving = make(true)
  await saving.started
  const state: unknown = structuredClone(saving.made.state())
  for (let left = 1 + (input.u8() % MOST_CHANGES); left > 0; left--) {
    const all = places(state, [])
    if (all.length === 0) break
    const [object, key] = all[input.u8() % all.length]!
    change(object, key, input.u8())
  }
  const { made, use } = make(false)
  try {
    made.restore(state)
  } catch (error) {
    if (!(error instanceof RestoreError)) throw error
    return [withoutNumbers(error.message)]
  }
  // What was taken is as good as any: nothing may go wrong with it.
  await use()
  must(JSON.stringify(made.state(), plain) !== undefined, "no state")
  return ["restored"]
}

function plain(_key: string, value: unknown): unknown {
  return typeof value === "bigint" ? `${value}n` : value
}

export const target: FuzzTarget = {
  about: "saved states of queues, transports and the PCI bus (bad-input #31)",
  maxBytes: 64,
  seeds: () =>
    SUBJECTS.flatMap((_, index) => [0, 5, 10, 15, 20].map((place) => Uint8Array.of(index, 0, place, 0))),
  run,
}
