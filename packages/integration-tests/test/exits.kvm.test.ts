import { probeKvm, Vm, type VmExit } from "@virtkit/vmm"
import { afterEach, describe, expect, it } from "vitest"
import { guest } from "../src/index.js"
import { closeAll, listen, noKvm, vmOf } from "./kvm.js"

/** Starts a guest and tells how it ended. */
async function endOf(code: guest.Code, options: Parameters<typeof vmOf>[1] = {}): Promise<VmExit> {
  const vm = await vmOf(code, options)
  await vm.start()
  return vm.exited
}

describe.skipIf(noKvm !== "")(`why a VM ended${noKvm}`, () => {
  afterEach(closeAll)

  it("tells power-off and the two resets", async () => {
    expect(await endOf(guest.powerOff)).toEqual({ reason: "poweroff" })
    expect(await endOf(guest.acpiReset)).toEqual({ reason: "reset" })
    expect(await endOf(guest.keyboardReset)).toEqual({ reason: "reset" })
  })

  it("tells a triple fault with the vCPU and the last lines of the console", async () => {
    expect(await endOf([...guest.say("one\r\ntwo\n"), ...guest.tripleFault])).toEqual({
      reason: "triple-fault",
      vcpu: 0,
      console: ["one", "two"],
    })
  })

  it("tells a panic by the panic device, and by what a kernel writes before it resets", async () => {
    const words = guest.say("last words\n")
    expect(await endOf([...words, ...guest.reportPanic])).toEqual({
      reason: "panic",
      console: ["last words"],
    })
    const said = "Kernel panic - not syncing: test"
    for (const end of [guest.keyboardReset, guest.tripleFault])
      expect(await endOf([...guest.say(said), ...end])).toEqual({ reason: "panic", console: [said] })
  })

  it("keeps the first reason: what comes after it is a consequence", async () => {
    const vm = await vmOf([...guest.out(0x602, 1), ...guest.tripleFault])
    const ends: VmExit[] = []
    vm.on("exited", (exit) => ends.push(exit))
    await vm.start()
    await vm.exited
    await vm.kill()
    await vm.close()
    expect(ends).toEqual([{ reason: "reset" }])
  })

  it("tells what KVM cannot execute with registers, code and a hint", async () => {
    const probe = await probeKvm()
    // A KVM in software fails on int3; every other one on code where there is nothing to execute.
    const code = probe.usable ? guest.jumpNowhere : ([0xb9, 0xef, 0xbe, 0xad, 0xde, 0xcc] as const)
    const exit = await endOf(code)
    if (exit.reason !== "internal-error") throw new Error(`it ended with ${JSON.stringify(exit)}`)
    expect(exit).toMatchObject({ vcpu: 0, detail: expect.stringContaining("KVM_EXIT_INTERNAL_ERROR") })
    expect(exit.hint).not.toBe("")
    expect(Object.keys(exit.registers)).toEqual(
      expect.arrayContaining(["rip", "rax", "rflags", "cr0", "cr3", "efer", "cs"]),
    )
    if (probe.usable) return
    expect(exit.registers).toMatchObject({ rip: "0x100005", rcx: "0xdeadbeef" })
    expect(exit.code).toMatch(/^cc/)
    expect(exit.hint).toContain("--accel lab")
  })

  it("tells that it was killed: by kill, by close, by the signal", async () => {
    const killed = await vmOf(guest.spin)
    await killed.start()
    await killed.kill()
    expect(await killed.exited).toEqual({ reason: "killed" })

    const closed = await vmOf(guest.halt)
    await closed.start()
    await closed.close()
    expect(await closed.exited).toEqual({ reason: "killed" })

    const stop = new AbortController()
    const aborted = await vmOf(guest.spin, { signal: stop.signal })
    await aborted.start()
    stop.abort()
    expect(await aborted.exited).toEqual({ reason: "killed" })
    expect(aborted.state).toBe("exited")

    const never = await vmOf(guest.spin, { signal: stop.signal }).catch((error: Error) => error.name)
    expect(never).toBe("AbortError")
  })

  it("does not listen to the signal any longer than it lives", async () => {
    const stop = new AbortController()
    const vm = await vmOf(guest.powerOff, { signal: stop.signal })
    await vm.start()
    await vm.exited
    await vm.close()
    stop.abort()
    expect(await vm.exited).toEqual({ reason: "poweroff" })
  })

  it("delivers all that the guest wrote before its end", async () => {
    const text = "0123456789abcdef".repeat(64)
    const vm = await vmOf([...guest.say(text), ...guest.powerOff])
    const heard = listen(vm)
    const ended = new Promise((resolve) => vm.serial.once("end", resolve))
    await vm.start()
    await vm.exited
    await ended
    expect(heard.text).toBe(text)
  })

  it("ends when it is disposed of", async () => {
    let vm: Vm
    {
      await using scoped = await Vm.create({ kernel: guest.guestImage(guest.spin), memory: "16M" })
      await scoped.start()
      vm = scoped
    }
    expect(vm.state).toBe("closed")
  })
})

describe.skipIf(noKvm !== "")(`the probe guest${noKvm}`, () => {
  it("says whether this KVM runs Linux, the same each time", async () => {
    const probe = await probeKvm()
    expect(await probeKvm()).toEqual(probe)
    if (!probe.usable) expect(probe.reason).toMatch(/probe guest|KVM in software/)
  })

  it("says why there is no KVM", async () => {
    expect(await probeKvm("/nonexistent/kvm")).toMatchObject({ usable: false, code: "ENOENT" })
    expect(await probeKvm("/dev/null")).toMatchObject({ usable: false, code: "ENOTTY" })
  })
})
