// Runs in the lab: four Linux guests at once in one process. When all of them are at work one is crashed; then the others
// are told to finish. Tells how each ended, what it said, and what the process held before and after.
import { Vm, type VmExit } from "@virtkit/vmm"
import { guestImage, powerOff } from "../guest-image.js"
import { IN_LAB } from "../linux-lab-paths.js"
import { collectGarbage, mappingCount, resources } from "../resources.js"

const GUESTS = 4
const CRASHING = 1

interface Running {
  readonly vm: Vm
  readonly said: () => string
  readonly says: (words: string) => Promise<void>
}

async function boot(index: number): Promise<Running> {
  const vm = await Vm.create({
    name: `guest ${index}`,
    kernel: IN_LAB.kernel,
    initrd: IN_LAB.initrd,
    cmdline: "quiet script=work",
    memory: "192M",
    kernelCache: "/tmp/vmlinux",
  })
  let said = ""
  const waiters: { words: string; resolve: () => void }[] = []
  vm.serial.setEncoding("utf8")
  vm.serial.on("data", (text: string) => {
    said += text.replaceAll("\r", "")
    for (const { words, resolve } of waiters) if (said.includes(words)) resolve()
  })
  const says = (words: string) =>
    new Promise<void>((resolve, reject) => {
      waiters.push({ words, resolve })
      void vm.exited.then(({ reason }) =>
        reject(new Error(`guest ${index}: ${reason} before "${words}": ${said}`)),
      )
    })
  const working = says("at work")
  await vm.start()
  await working
  return { vm, said: () => said, says }
}

/** What only the first VM of a process makes. */
async function warmUp(): Promise<void> {
  const vm = await Vm.create({ kernel: guestImage(powerOff), memory: "64M" })
  await vm.start()
  await vm.exited
  await vm.close()
  // Starts the threads that Node.js reads files with.
  const other = Vm.create({
    kernel: IN_LAB.kernel,
    initrd: IN_LAB.initrd,
    memory: "192M",
    kernelCache: "/tmp/vmlinux",
  })
  await (await other).close()
}

await warmUp()
await collectGarbage()
const before = resources()
const mappingsBefore = mappingCount()

const guests = await Promise.all(Array.from({ length: GUESTS }, (_, index) => boot(index)))
guests[CRASHING]!.vm.serial.write("crash\n")
const exits: VmExit[] = []
exits[CRASHING] = await guests[CRASHING]!.vm.exited
const states = guests.map(({ vm }) => vm.state)
for (const [index, { vm }] of guests.entries()) {
  if (index !== CRASHING) vm.serial.write("finish\n")
}
for (const [index, { vm }] of guests.entries()) exits[index] = await vm.exited
const said = guests.map((running) => running.said())
for (const { vm } of guests) await vm.close()
guests.length = 0
await collectGarbage()
const result = {
  exits,
  states,
  said,
  before: { ...before, mappingCount: mappingsBefore },
  after: { ...resources(), mappingCount: mappingCount() },
}
process.stdout.write(JSON.stringify(result))
