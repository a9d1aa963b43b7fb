// Runs in the lab: asks a guest for its time again and again, with a pause in between. Tells when each question was sent
// and answered and what the answer was, all in seconds, and what else the guest said. Its processor is the baseline.
import { setTimeout as delay } from "node:timers/promises"
import { Vm } from "@virtkit/vmm"
import { IN_LAB } from "../linux-lab-paths.js"

const vm = await Vm.create({
  kernel: IN_LAB.kernel,
  initrd: IN_LAB.initrd,
  cmdline: "quiet script=clock",
  memory: "256M",
  cpus: { threads: 2 },
  cpu: "baseline",
})
let said = ""
let heard = () => {}
vm.serial.setEncoding("utf8")
vm.serial.on("data", (text: string) => {
  said += text.replaceAll("\r", "")
  heard()
})

async function until(pattern: RegExp): Promise<RegExpExecArray> {
  for (;;) {
    const match = pattern.exec(said)
    if (match !== null) return match
    await new Promise<void>((resolve, reject) => {
      heard = resolve
      void vm.exited.then(({ reason }) => reject(new Error(`${reason}: ${said}`)))
    })
  }
}

const seconds = () => performance.now() / 1000
let asked = 0
async function ask() {
  const sent = seconds()
  vm.serial.write(`${++asked}\n`)
  const [, answer] = await until(new RegExp(`^time ${asked} ([\\d.]+)\n`, "m"))
  return { sent, answered: seconds(), guest: Number(answer) }
}

await vm.start()
await until(/^ready$/m)
const first = await ask()
await delay(2000)
const second = await ask()
await vm.pause()
await delay(3000)
await vm.resume()
const third = await ask()
await delay(2000)
const fourth = await ask()
vm.serial.write("end\n")
const exit = await vm.exited
await vm.close()
process.stdout.write(JSON.stringify({ exit, said, times: [first, second, third, fourth] }))
