import { StateError, SystemError } from "@virtkit/interface"
import { Kvm } from "@virtkit/kvm"
import { guestCode as g } from "@virtkit/testkit"
import { expect, it } from "vitest"
import { describeKvm, type Machine, machine, recorder } from "./setup.js"

const withVcpu = (test: (m: Machine & { vcpu: ReturnType<Machine["addVcpu"]> }) => void | Promise<void>) => {
  return async () => {
    using m = machine({ prepare: (vm) => vm.createIrqchip() })
    await test(Object.assign(m, { vcpu: m.addVcpu(g.program(g.spin)) }))
  }
}

/** Runs `change`; an error must name the ioctl. Tells whether this KVM can do it. */
function supported(syscall: string, change: () => void): boolean {
  try {
    change()
    return true
  } catch (error) {
    expect(error).toBeInstanceOf(SystemError)
    expect(error).toMatchObject({ syscall })
    return false
  }
}

describeKvm("Kvm", () => {
  it("tells version and capabilities", () => {
    using kvm = Kvm.open()
    expect(kvm.apiVersion()).toBe(12)
    expect(kvm.checkExtension("KVM_CAP_USER_MEMORY")).toBe(1)
    expect(kvm.checkExtension(3)).toBe(1)
    expect(kvm.checkExtension("KVM_CAP_NR_MEMSLOTS")).toBeGreaterThan(30)
    expect(kvm.capabilities()).toMatchObject({ KVM_CAP_USER_MEMORY: 1 })
    expect(kvm.checkExtension(99999)).toBe(0)
  })

  it("lists CPUID leaves, MSRs and feature MSRs", () => {
    using kvm = Kvm.open()
    const cpuid = kvm.supportedCpuid()
    expect(cpuid.length).toBeGreaterThan(10)
    expect(cpuid.find((entry) => entry.function === 0)).toMatchObject({ function: 0, index: 0 })
    expect(Array.isArray(kvm.emulatedCpuid())).toBe(true)
    expect(kvm.msrIndexList().length).toBeGreaterThan(10)
    const features = kvm.featureMsrIndexList()
    const msrs = kvm.featureMsrs(features)
    expect(msrs.map((msr) => msr.index)).toEqual(features.slice(0, msrs.length))
  })
})

describeKvm("vCPU state", () => {
  it(
    "regs",
    withVcpu(({ vcpu }) => {
      const regs = vcpu.getRegs()
      const changed = { ...regs, rax: 0xffff_ffff_ffff_ffffn, r15: 0x8000_0000_0000_0001n, rflags: 0x202n }
      vcpu.setRegs(changed)
      expect(vcpu.getRegs()).toEqual(changed)
    }),
  )

  it(
    "sregs",
    withVcpu(({ vcpu }) => {
      const sregs = vcpu.getSregs()
      const changed = {
        ...sregs,
        fs: { ...sregs.fs, base: 0x1234_5000n, selector: 0x33 },
        gdt: { base: 0x5000n, limit: 0x7f },
        cr2: 0x77n,
      }
      vcpu.setSregs(changed)
      const read = vcpu.getSregs()
      expect([read.fs, read.gdt, read.cr2]).toEqual([changed.fs, changed.gdt, 0x77n])
    }),
  )

  it(
    "sregs2",
    withVcpu(({ vcpu }) => {
      if (!supported("KVM_GET_SREGS2", () => vcpu.getSregs2())) return
      const sregs = vcpu.getSregs2()
      vcpu.setSregs2({ ...sregs, cr2: 0x99n })
      expect(vcpu.getSregs2()).toEqual({ ...sregs, cr2: 0x99n })
    }),
  )

  it(
    "fpu",
    withVcpu(({ vcpu }) => {
      const fpu = vcpu.getFpu()
      const xmm = fpu.xmm.map((_, i) => new Uint8Array(16).fill(i + 1))
      vcpu.setFpu({ ...fpu, xmm, fcw: 0x27f })
      expect(vcpu.getFpu()).toEqual({ ...fpu, xmm, fcw: 0x27f })
    }),
  )

  it(
    "xsave and xcrs",
    withVcpu(({ vcpu }) => {
      const area = vcpu.getXsave()
      expect(area.length).toBeGreaterThanOrEqual(4096)
      vcpu.setXsave(area)
      expect(vcpu.getXsave()).toEqual(area)
      if (!supported("KVM_GET_XCRS", () => vcpu.getXcrs())) return
      const xcrs = vcpu.getXcrs()
      vcpu.setXcrs(xcrs)
      expect(vcpu.getXcrs()).toEqual(xcrs)
    }),
  )

  it(
    "debug registers",
    withVcpu(({ vcpu }) => {
      const regs = vcpu.getDebugRegs()
      const changed = { ...regs, db: [0x1000n, 0x2000n, 0x3000n, 0x4000n] }
      vcpu.setDebugRegs(changed)
      expect(vcpu.getDebugRegs()).toEqual(changed)
    }),
  )

  it(
    "MSRs",
    withVcpu(({ vcpu }) => {
      const efer = 0xc0000080
      const sysenter = 0x174
      expect(vcpu.setMsrs([{ index: sysenter, value: 0x1234n }])).toBe(1)
      expect(vcpu.getMsrs([sysenter, efer])).toEqual([
        { index: sysenter, value: 0x1234n },
        { index: efer, value: 0n },
      ])
      // An MSR that KVM does not have ends the list.
      expect(vcpu.getMsrs([sysenter, 0xdeadbeef, efer])).toEqual([{ index: sysenter, value: 0x1234n }])
    }),
  )

  it(
    "CPUID",
    withVcpu(({ vcpu, kvm }) => {
      vcpu.setCpuid(kvm.supportedCpuid())
      // Leaves without a bit that a KVM adds to or takes out of: what it supports may come back changed.
      const entries = [
        { function: 0, index: 0, flags: 0, eax: 4, ebx: 0x756e6547, ecx: 0x6c65746e, edx: 0x49656e69 },
        { function: 4, index: 0, flags: 1, eax: 0x121, ebx: 0x2c0003f, ecx: 0x3f, edx: 0 },
        { function: 4, index: 1, flags: 1, eax: 0x122, ebx: 0x3c0003f, ecx: 0x3f, edx: 4 },
        {
          function: 0x80000002,
          index: 0,
          flags: 0,
          eax: 0x11111111,
          ebx: 0x82222222,
          ecx: 0x33333333,
          edx: 0xf4444444,
        },
      ]
      vcpu.setCpuid(entries)
      expect(vcpu.getCpuid()).toEqual(entries)
    }),
  )

  it(
    "local APIC",
    withVcpu(({ vcpu }) => {
      const page = vcpu.getLapic()
      expect(page.length).toBe(1024)
      // Task priority register, at 0x80.
      page[0x80] = 0x20
      vcpu.setLapic(page)
      expect(vcpu.getLapic()[0x80]).toBe(0x20)
      expect(() => vcpu.setLapic(new Uint8Array(1000))).toThrow(RangeError)
    }),
  )

  it(
    "MP state",
    withVcpu((m) => {
      expect(m.vcpu.getMpState()).toBe("runnable")
      const second = m.addVcpu(g.program(g.spin), 1)
      expect(second.getMpState()).toBe("uninitialized")
      second.setMpState("runnable")
      expect(second.getMpState()).toBe("runnable")
    }),
  )

  it(
    "events",
    withVcpu(({ vcpu }) => {
      const events = vcpu.getEvents()
      // KVM_VCPUEVENT_VALID_NMI_PENDING
      vcpu.setEvents({
        ...events,
        nmi: { injected: false, pending: 0, masked: true },
        flags: events.flags | 1,
      })
      expect(vcpu.getEvents().nmi.masked).toBe(true)
    }),
  )

  it(
    "translate",
    withVcpu(({ vcpu }) => {
      // No paging: what is, is at its own address.
      expect(vcpu.translate(0x1000n)).toMatchObject({ physicalAddress: 0x1000n, valid: true })
    }),
  )

  it(
    "TSC frequency, NMI, SMI, clock control, machine check",
    withVcpu(({ vcpu }) => {
      if (supported("KVM_GET_TSC_KHZ", () => vcpu.getTscKhz())) {
        const khz = vcpu.getTscKhz()
        supported("KVM_SET_TSC_KHZ", () => vcpu.setTscKhz(khz))
        expect(vcpu.getTscKhz()).toBe(khz)
      }
      vcpu.nmi()
      expect(vcpu.getEvents().nmi.pending).toBe(1)
      supported("KVM_SMI", () => vcpu.smi())
      supported("KVM_KVMCLOCK_CTRL", () => vcpu.notifyPaused())
      supported("KVM_X86_SETUP_MCE", () => vcpu.setupMce(10n))
      supported("KVM_INTERRUPT", () => vcpu.interrupt(32))
      supported("KVM_GET_NESTED_STATE", () => vcpu.setNestedState(vcpu.getNestedState(8192)))
      supported("KVM_ENABLE_CAP", () => vcpu.enableCapability("KVM_CAP_HYPERV_SYNIC"))
    }),
  )

  it(
    "attributes",
    withVcpu(({ vcpu }) => {
      // KVM_VCPU_TSC_CTRL, KVM_VCPU_TSC_OFFSET
      if (!vcpu.hasAttribute(0, 0)) return
      const before = vcpu.getAttribute(0, 0)
      vcpu.setAttribute(0, 0, 12345n)
      // A KVM that emulates in software takes the offset and does not use it.
      expect([12345n, before]).toContain(vcpu.getAttribute(0, 0))
      expect(vcpu.hasAttribute(7, 7)).toBe(false)
    }),
  )

  it(
    "throws StateError while the vCPU runs",
    withVcpu(async ({ vcpu, loop }) => {
      vcpu.start(loop, recorder())
      expect(() => vcpu.getRegs()).toThrow(StateError)
      expect(() => vcpu.statistics()).toThrow(StateError)
      await vcpu.pause()
      expect(vcpu.getRegs().rip).toBe(0x1000n)
      vcpu.resume()
      expect(() => vcpu.setRegs({} as never)).toThrow()
      await vcpu.stop()
      vcpu.getRegs()
    }),
  )
})

describeKvm("statistics", () => {
  it("of VM and vCPU", async () => {
    using m = machine()
    const vcpu = m.addVcpu(g.program(g.repeat(10, g.out(0x10, 1, 1)), g.hlt))
    using vmStatistics = m.vm.statistics()
    expect(vmStatistics.id).toMatch(/^kvm-/)
    using statistics = vcpu.statistics()
    const read = statistics.read()
    expect(read.length).toBeGreaterThan(5)
    const exits = read.find((statistic) => statistic.name === "exits")
    expect(exits).toMatchObject({ kind: "cumulative", unit: "none", values: [expect.any(BigInt)] })
    // Reading goes on while the vCPU runs.
    const handler = recorder({ portWrite: () => void statistics.read() })
    vcpu.start(m.loop, handler)
    await handler.stopped
    expect(handler.errors).toEqual([])
    statistics.close()
    expect(() => statistics.read()).toThrow(StateError)
  })
})
