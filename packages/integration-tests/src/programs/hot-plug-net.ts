// Runs in the lab: plugs a network device on the TAP interface tap0 into a running Linux guest and takes it out while the
// guest sends, ROUNDS times, with one and two pairs of queues in turn. Tells what the guest said of each round, and what the
// process and the VM held before and after.
import { net } from "@virtkit/virtio-net"
import { Vm } from "@virtkit/vmm"
import { listenTo } from "../heard.js"
import { IN_LAB } from "../linux-lab-paths.js"
import { collectGarbage, resources } from "../resources.js"

const ROUNDS = Number(process.argv[2])
/** Rounds after which what is there counts as what there should be: one with each number of queues. */
const WARM_UP = 2

const vm = await Vm.create({
  kernel: IN_LAB.kernel,
  initrd: IN_LAB.initrd,
  cmdline: "quiet script=hot-plug-net",
  memory: "256M",
  cpus: 2,
  hotPlugSlots: 1,
})
const heard = listenTo(vm)

interface Round {
  /** Of three pings. */
  readonly answered: number
  readonly mac: string
  /** Frames that passed before the device was taken out, of both directions. */
  readonly frames: number
  /** That the device counted as wrong. */
  readonly errors: number
}

async function round(number: number): Promise<Round> {
  const mac = `52:54:00:00:00:${String(number).padStart(2, "0")}`
  const card = await net({ tap: "tap0", mac, queues: 1 + (number % 2), name: `card${number}` })
  const { counters } = card
  const frames = (): number => counters.rxFrames + counters.txFrames
  await vm.plug(card)
  const [, address = "", answered] = await heard(
    new RegExp(`^round ${number} mac (\\S+) answered (\\d+)\\n`, "m"),
  )
  // It is at work, and not always at the same point of it.
  const enough = frames() + 20 + ((number * 37) % 50)
  while (frames() < enough && vm.state === "running") await new Promise((resolve) => setTimeout(resolve, 2))
  await vm.unplug(card)
  await heard(new RegExp(`^gone ${number}\\n`, "m"))
  const { rxErrors, rxTooLong, txBadLength, txBadHeader, txErrors, malformed, controlErrors } = counters
  const errors = rxErrors + rxTooLong + txBadLength + txBadHeader + txErrors + malformed + controlErrors
  return { answered: Number(answered), mac: address, frames: frames(), errors }
}

async function holdings() {
  await collectGarbage()
  const { devices, ranges, messages } = vm.statistics()
  return { ...resources(), devices: devices.length, ranges, messages }
}

await vm.start()
await heard(/^ready\n/m)
const rounds: Round[] = []
let before: Awaited<ReturnType<typeof holdings>> | undefined
for (let number = 1; number <= ROUNDS; number++) {
  rounds.push(await round(number))
  if (number === WARM_UP) before = await holdings()
}
const after = await holdings()
vm.serial.write("complaints\n")
const [, complaints] = await heard(/^complaints:\n((?:.*\n)*?)end of complaints\n/m)
await vm.kill()
await vm.close()
process.stdout.write(JSON.stringify({ rounds, before, after, complaints }))
