import { readdirSync, readFileSync } from "node:fs"
import { until } from "@virtkit/testkit"
import type { Vm } from "@virtkit/vmm"
import { afterEach, describe, expect, it } from "vitest"
import { collectGarbage, guest, resources } from "../src/index.js"
import { closeAll, listen, noKvm, vmOf } from "./kvm.js"

/** A running guest that answers. */
async function echoGuest(name: string): Promise<{ vm: Vm; ask: (text: string) => Promise<void> }> {
  const vm = await vmOf(guest.echo, { name })
  const heard = listen(vm)
  await vm.start()
  let expected = ""
  const ask = async (text: string) => {
    expected += text
    vm.serial.write(text)
    await until(() => heard.text.length >= expected.length, `an answer of ${name}`)
    expect(heard.text).toBe(expected)
  }
  return { vm, ask }
}

async function echoGuests(count: number) {
  return Promise.all(Array.from({ length: count }, (_, index) => echoGuest(`guest ${index}`)))
}

/** The kernel may add threads of its own for each VM. */
function threadNames(): string[] {
  return readdirSync("/proc/self/task").map((id) => readFileSync(`/proc/self/task/${id}/comm`, "utf8"))
}

describe.skipIf(noKvm !== "")(`several VMs in a process${noKvm}`, () => {
  afterEach(closeAll)

  it("go on when one of them crashes, and leave nothing behind", async () => {
    const [first] = await echoGuests(1)
    await first!.ask("warm-up")
    await closeAll()
    await collectGarbage()
    const before = resources()

    const guests = await echoGuests(4)
    await Promise.all(guests.map(({ ask }) => ask("before")))
    expect(threadNames().filter((name) => name.startsWith("vcpu-"))).toHaveLength(4)

    const crashing = guests[2]!.vm
    crashing.serial.write("x")
    expect(await crashing.exited).toMatchObject({ reason: "triple-fault" })

    const others = guests.filter(({ vm }) => vm !== crashing)
    for (const { vm, ask } of others) {
      expect(vm.state).toBe("running")
      await ask("after")
      vm.serial.write("q")
      expect(await vm.exited).toEqual({ reason: "poweroff" })
    }
    await closeAll()
    await collectGarbage()
    expect(resources()).toEqual(before)
  })

  it("bad-input #34: one that does nothing but exit does not keep the others from being answered", async () => {
    const storm = await vmOf([...guest.out(0x602, 0), 0xeb, -9 & 0xff])
    await storm.start()
    await until(() => storm.statistics().vcpuExits.toUser > 1000, "the storm")
    const { ask } = await echoGuest("the other one")
    await ask("still here")
    expect(storm.state).toBe("running")
  })
})
