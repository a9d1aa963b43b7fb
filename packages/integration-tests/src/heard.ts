import { describeExit, type Vm } from "@virtkit/vmm"

/**
 * Collects what a guest says on its serial port from here on. The function that it gives waits until `words` have been
 * said; it throws, with the end of what was, and why it ended, when the VM has.
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
      if (vm.state === "exited") throw new Error(`${describeExit(await vm.exited)}: ${said.slice(-2000)}`)
      await new Promise<void>((resolve) => {
        wake = resolve
      })
    }
  }
}
