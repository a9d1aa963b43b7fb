import { accessSync, constants } from "node:fs"
import { Vm, type VmOptions } from "@virtkit/vmm"
import { guest } from "../src/index.js"

/** For `describe.skipIf`: empty where guests can run, else why they cannot, to be part of the suite's name. */
export const noKvm: string = (() => {
  try {
    accessSync("/dev/kvm", constants.R_OK | constants.W_OK)
    return ""
  } catch {
    return " (skipped: there is no usable /dev/kvm)"
  }
})()

const created: Vm[] = []

/** A VM of 16 MiB that executes `code`; `closeAll` closes it. */
export async function vmOf(code: guest.Code, options: Partial<VmOptions> = {}): Promise<Vm> {
  return keep(await Vm.create({ kernel: guest.guestImage(code), memory: "16M", ...options }))
}

/** Has `closeAll` close a VM. */
export function keep(vm: Vm): Vm {
  created.push(vm)
  return vm
}

/** For `afterEach`: whatever a test did or left, its VMs can be closed. */
export async function closeAll(): Promise<void> {
  for (const vm of created.splice(0)) await vm.close()
}

/** Collects what a VM's serial port says from here on. */
export function listen(vm: Vm): { readonly text: string } {
  let text = ""
  vm.serial.setEncoding("latin1")
  vm.serial.on("data", (chunk: string) => {
    text += chunk
  })
  return {
    get text() {
      return text
    },
  }
}

/** How often a guest of `countForever` has counted, modulo 2^32. */
export function counted(vm: Vm): number {
  return vm.memory.readUint32(guest.COUNTER)
}
