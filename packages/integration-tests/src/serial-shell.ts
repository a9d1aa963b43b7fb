import type { Vm } from "@virtkit/vmm"
import { listenTo } from "./heard.js"

/**
 * Speaks with a guest that runs `GUEST_SHELL` on its serial port, for programs that have a VM of their own. Settles when the
 * guest takes commands. The function that it gives runs a line of shell and gives what that printed; it throws when the
 * line's status is not 0.
 */
export async function serialShell(vm: Vm): Promise<(line: string) => Promise<string>> {
  const heard = listenTo(vm)
  let lines = 0
  await heard(/^@@ 0\n/m)
  return async (line) => {
    lines++
    vm.serial.write(`echo "[[${lines}"; ${line}; echo "]]${lines} $?"\n`)
    // What the kernel says comes in between.
    const [, said = "", status] = await heard(
      new RegExp(`^\\[\\[${lines}\\n((?:.*\\n)*?)\\]\\]${lines} (\\d+)\\n`, "m"),
    )
    if (status !== "0") throw new Error(`${line}: status ${status}: ${said}`)
    return said
  }
}
