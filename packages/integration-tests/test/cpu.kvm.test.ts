import { ConfigError } from "@virtkit/interface"
import type { MsrAccess, MsrRule, Vm, VmOptions } from "@virtkit/vmm"
import { afterEach, describe, expect, it } from "vitest"
import { guest } from "../src/index.js"
import { closeAll, counted, listen, noKvm, vmOf } from "./kvm.js"

const SYSENTER_CS = 0x174
const SYSENTER_ESP = 0x175

/** All that the guest said when it had ended, and how that was. */
async function run(vm: Vm): Promise<{ reason: string; text: string }> {
  const heard = listen(vm)
  const ended = new Promise((resolve) => vm.serial.once("end", resolve))
  await vm.start()
  const { reason } = await vm.exited
  if (reason === "poweroff") await ended
  return { reason, text: heard.text }
}

describe.skipIf(noKvm !== "")(`processors${noKvm}`, () => {
  afterEach(closeAll)

  it.each([
    [2, [0, 1]],
    [{ sockets: 2, cores: 3, threads: 2 }, [0, 1, 2, 3, 4, 5, 8, 9, 10, 11, 12, 13]],
    [64, Array.from({ length: 64 }, (_, id) => id)],
    [255, Array.from({ length: 255 }, (_, id) => id)],
  ])("start by INIT and SIPI, each with its own APIC id: %j", { timeout: 60_000 }, async (cpus, ids) => {
    const vm = await vmOf([...guest.startProcessors(ids.length - 1), ...guest.powerOff], { cpus })
    expect(await run(vm)).toMatchObject({ reason: "poweroff" })
    const found = Array.from({ length: 256 }, (_, id) => id).filter(
      (id) => (vm.memory.readUint8(guest.APIC_IDS + (id >> 3)) >> (id & 7)) & 1,
    )
    expect(found).toEqual(ids)
  })

  it("more than there are APIC ids for are refused", async () => {
    await expect(vmOf(guest.powerOff, { cpus: 256 })).rejects.toThrow(/APIC ids up to 255/)
  })

  it("a model that this host cannot be is refused, and one that it can be is not", async () => {
    const level4 = vmOf(guest.powerOff, { cpu: "x86-64-v4" })
    // The lab's and most others' hosts; one that has all of it runs it.
    const result = await level4.then(run, (error: unknown) => error)
    if (result instanceof Error) expect(result).toBeInstanceOf(ConfigError)
    else expect(result).toMatchObject({ reason: "poweroff" })
    expect(await run(await vmOf(guest.powerOff, { cpu: "x86-64-v1" }))).toMatchObject({ reason: "poweroff" })
  })

  it("a model's registers are what CPUID gives the guest", async () => {
    const cpu = {
      name: "mine",
      leaves: [{ function: "0x80000002", eax: { clear: "0xffffffff", set: "0x6b746976" } }],
    }
    const vm = await vmOf([...guest.sayCpuid(0x8000_0002), ...guest.powerOff], { cpu })
    expect(await run(vm)).toEqual({ reason: "poweroff", text: "vitk" })
  })

  it("a model's MSRs are set, and one that KVM refuses is told by name", async () => {
    const cpu = (index: number) => ({ name: "mine", leaves: [], msrs: [{ index, value: 0x51 }] })
    const vm = await vmOf([...guest.readMsr(SYSENTER_CS), ...guest.sayAl, ...guest.powerOff], {
      cpu: cpu(SYSENTER_CS),
    })
    expect(await run(vm)).toEqual({ reason: "poweroff", text: "Q" })
    await expect(vmOf(guest.powerOff, { cpu: cpu(0xdead_beef) })).rejects.toThrow(
      'cpu: model "mine" sets MSR 0xdeadbeef to 0x51, which this KVM refuses',
    )
  })

  describe("MSR filter", () => {
    const denied: MsrRule[] = [{ index: SYSENTER_CS, access: "read", action: "deny" }]
    const go = async (code: guest.Code, options: Partial<VmOptions>) =>
      run(await vmOf([...code, ...guest.sayAl, ...guest.powerOff], options))
    const write = guest.writeMsr(SYSENTER_CS, 0x41)
    const read = guest.readMsr(SYSENTER_CS)

    it("a denied access is #GP, here without a table of handlers the end; others are what they were", async () => {
      expect(await go([...write, ...read], {})).toEqual({ reason: "poweroff", text: "A" })
      expect(await go(write, { msrFilter: denied })).toMatchObject({ reason: "poweroff" })
      expect(await go([...write, ...read], { msrFilter: denied })).toMatchObject({ reason: "triple-fault" })
    })

    it("only what is allowed", async () => {
      const msrFilter: MsrRule[] = [
        { index: SYSENTER_CS, access: "readwrite", action: "allow" },
        { from: 0, to: "0xffffffff", access: "readwrite", action: "deny" },
      ]
      expect(await go([...write, ...read], { msrFilter })).toEqual({ reason: "poweroff", text: "A" })
      const other = guest.readMsr(SYSENTER_ESP)
      expect(await go(other, { msrFilter })).toMatchObject({ reason: "triple-fault" })
    })

    it("the caller may answer a denied access", async () => {
      const accesses: MsrAccess[] = []
      const msrFilter: MsrRule[] = [{ index: SYSENTER_CS, access: "readwrite", action: "deny" }]
      const onDeniedMsr = (access: MsrAccess) => {
        accesses.push(access)
        return 0x42n
      }
      const result = await go([...write, ...read], { msrFilter, onDeniedMsr })
      expect(result).toEqual({ reason: "poweroff", text: "B" })
      expect(accesses).toEqual([
        { vcpu: 0, msr: SYSENTER_CS, value: 0x41n },
        { vcpu: 0, msr: SYSENTER_CS, value: undefined },
      ])
      const silent = await go(read, { msrFilter, onDeniedMsr: () => undefined })
      expect(silent).toMatchObject({ reason: "triple-fault" })
    })
  })

  it("a guest with kvm-clock finds in it that it was paused (PVCLOCK_GUEST_STOPPED)", async () => {
    const [SYSTEM_TIME_NEW, CLOCK, FLAGS, GUEST_STOPPED] = [0x4b56_4d01, 0x38_0000, 29, 2]
    const vm = await vmOf([...guest.writeMsr(SYSTEM_TIME_NEW, CLOCK | 1), ...guest.countForever])
    const stopped = () => vm.memory.readUint8(CLOCK + FLAGS) & GUEST_STOPPED
    const later = async () => {
      const before = counted(vm)
      while (counted(vm) === before) await new Promise((resolve) => setTimeout(resolve, 5))
    }
    await vm.start()
    await later()
    expect(vm.memory.readUint32(CLOCK)).toBeGreaterThan(0)
    expect(stopped()).toBe(0)
    await vm.pause()
    await vm.resume()
    await later()
    expect(stopped()).toBe(GUEST_STOPPED)
  })

  it("a guest without kvm-clock goes on after a pause all the same", async () => {
    const vm = await vmOf(guest.countForever)
    await vm.start()
    await vm.pause()
    await vm.resume()
    const before = counted(vm)
    while (counted(vm) === before) await new Promise((resolve) => setTimeout(resolve, 5))
  })
})
