// Runs in the lab: boots a guest that waits for its power button, presses it, and tells how the guest ended.
import { Vm } from "@virtkit/vmm"
import { IN_LAB } from "../linux-lab-paths.js"

const vm = await Vm.create({
  kernel: IN_LAB.kernel,
  initrd: IN_LAB.initrd,
  cmdline: "quiet script=power-button",
  memory: "256M",
})
let said = ""
let pressing: NodeJS.Timeout | undefined
vm.serial.setEncoding("utf8")
vm.serial.on("data", (text: string) => {
  said += text
  if (pressing !== undefined || !said.includes("waiting for the button")) return
  // Again and again: who opens the button later does not hear that it was pressed.
  pressing = setInterval(() => vm.pressPowerButton(), 500)
})
vm.on("state", () => clearInterval(pressing))
await vm.start()
const exit = await vm.exited
await vm.close()
process.stdout.write(JSON.stringify({ exit, said }))
