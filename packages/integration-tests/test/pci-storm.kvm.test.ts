import type { VirtioDevice } from "@virtkit/interface"
import { block, memoryDisk } from "@virtkit/virtio-blk"
import { consolePort } from "@virtkit/virtio-console"
import { rng } from "@virtkit/virtio-rng"
import { Vm } from "@virtkit/vmm"
import { afterEach, describe, expect, it } from "vitest"
import {
  collectGarbage,
  guest,
  prepareStorm,
  residentBytes,
  resources,
  STORM_COUNTER,
  type StormRange,
  type StormRepair,
  stormImage,
} from "../src/index.js"
import { closeAll, listen, noKvm, vmOf } from "./kvm.js"

const MiB = 2 ** 20
/** docs/architecture.md: the machine. */
const ECAM = 0xe000_0000
const MEMORY32 = 0xc000_0000
const MEMORY64 = 0x8_0000_0000

/** Configuration registers (PCI 3.0, 6.1). */
const COMMAND = 0x04
const BAR0 = 0x10
const COMMAND_MEMORY_AND_MASTER = 6

/** The whole issue is a minute; a shorter one is for trying. */
const SECONDS = Number(process.env.VIRTKIT_STORM_SECONDS ?? 60)

/** One device of each kind and two of the most common one, at bus 0, devices 1 to 4. */
async function devices(): Promise<VirtioDevice[]> {
  return Promise.all([
    block({ backend: memoryDisk(MiB), queues: 2 }),
    consolePort(),
    rng(),
    block({ backend: memoryDisk(MiB) }),
  ])
}

const functions = [1, 2, 3, 4].map((device) => ({
  config: ECAM + device * 0x8000,
  bar1: MEMORY32 + device * 0x1_0000,
  bar4: MEMORY64 + device * 0x1_0000,
}))

/** Configuration space of the host bridge, the devices and the root ports, ports that have none, and every BAR. */
const ranges: StormRange[] = [
  { address: ECAM, mask: 0x3_ffff },
  { address: ECAM, mask: 0xff },
  { address: ECAM + 5 * 0x8000, mask: 0xfff },
  { address: ECAM + 0x10_0000, mask: 0xfff },
  ...functions.flatMap(({ config, bar1, bar4 }) => [
    { address: config, mask: 0xff },
    { address: bar1, mask: 0xfff },
    { address: bar4, mask: 0x7fff },
  ]),
]

/** What firmware would write: addresses of the BARs, decoding on. */
const repairs: StormRepair[] = functions.flatMap(({ config, bar1, bar4 }) => [
  { address: config + BAR0 + 4 * 1, value: bar1 },
  { address: config + BAR0 + 4 * 4, value: bar4 % 2 ** 32 },
  { address: config + BAR0 + 4 * 5, value: Math.floor(bar4 / 2 ** 32) },
  { address: config + COMMAND, value: COMMAND_MEMORY_AND_MASTER },
])

/** Sends a letter and waits for its echo, again and again; gives the number of round trips so far. */
function serve(vm: Vm): { readonly trips: number; stop(): void } {
  const heard = listen(vm)
  let trips = 0
  let going = true
  const next = (): void => {
    const length = heard.text.length
    vm.serial.write("a")
    const look = (): void => {
      if (!going) return
      if (heard.text.length === length) return void setTimeout(look, 5)
      trips++
      next()
    }
    look()
  }
  next()
  return {
    get trips() {
      return trips
    },
    stop: () => {
      going = false
    },
  }
}

const sleep = (seconds: number) => new Promise((resolve) => setTimeout(resolve, seconds * 1000))

describe.skipIf(noKvm !== "")(`a guest that does anything to PCI${noKvm}`, () => {
  afterEach(closeAll)

  it(
    `bad-input #34: random accesses of 8 to 64 bits for ${SECONDS} s, while another VM goes on`,
    async () => {
      const bystander = await vmOf(guest.echo)
      const bystanders = serve(bystander)
      await bystander.start()
      await collectGarbage()
      const held = resources()

      const vm = await Vm.create({
        kernel: stormImage(0x1234_5678),
        memory: "16M",
        devices: await devices(),
        hotPlugSlots: 2,
      })
      prepareStorm(vm.memory, ranges, repairs)
      await vm.start()
      await sleep(SECONDS / 6)
      await collectGarbage()
      const [resident, accesses, trips] = [
        residentBytes(),
        vm.memory.readBigUint64(STORM_COUNTER),
        bystanders.trips,
      ]
      await sleep((SECONDS * 5) / 6)
      await collectGarbage()
      expect(vm.state).toBe("running")
      expect(vm.memory.readBigUint64(STORM_COUNTER)).toBeGreaterThan(accesses * 2n)
      expect(bystanders.trips).toBeGreaterThan(trips * 2)
      expect(residentBytes() - resident).toBeLessThan(48 * MiB)
      bystanders.stop()
      await vm.kill()
      await vm.close()
      await collectGarbage()
      expect(resources()).toEqual(held)
    },
    (SECONDS + 60) * 1000,
  )
})
