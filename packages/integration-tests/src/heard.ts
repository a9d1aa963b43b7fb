import type { Vm } from "@virtkit/vmm"

/**
 * Collects what a guest says on its serial port from here on. The function that it gives waits until `words` have been
 * said; it throws, with the end of what was, when the VM does not run any more.
 */
export function listenTo(vm: Vm): (words: RegExp) => Promise<RegExpExecArray> {
  let said = ""
  let wake = (): void => {}
  vm.serial.setEncoding("utf8")
  vm.serial.on("data", (text: string) => {
    said += text.replaceAll("\r", "")
    wake()
  })
  void vm.exited.then(() => wake())
  return async (words) => {
    for (;;) {
      const found = words.exec(said)
      if (found) return found
      if (vm.state !== "running") throw new Error(`the guest is ${vm.state}: ${said.slice(-2000)}`)
      await new Promise<void>((resolve) => {
        wake = resolve
      })
    }
  }
}
