import { StateError, SystemError } from "@virtkit/interface"
import type { Vm } from "@virtkit/kvm"
import { EventFd } from "@virtkit/native"
import { guestCode as g, until } from "@virtkit/testkit"
import { expect, it } from "vitest"
import { describeKvm, machine, recorder, runToExit } from "./setup.js"

describeKvm("irqfd", () => {
  it("raises the GSI's interrupt in a running guest", async () => {
    using m = machine({ prepare: (vm) => vm.createIrqchip() })
    const event = new EventFd()
    using irqfd = m.vm.irqfd({ fd: event.fd, gsi: 4 })
    // The guest programs the 8259 (vectors 0x20 on, all masked but 4) and waits; the interrupt routine writes a port.
    const outb = (port: number, value: number) => g.out(port, 1, value)
    const code = g.program(
      outb(0x20, 0x11),
      outb(0x21, 0x20),
      outb(0x21, 0x04),
      outb(0x21, 0x01),
      outb(0x21, 0xef),
      g.sti,
      outb(0x99, 1),
      g.forever(g.hlt),
    )
    m.ram.set(g.program(outb(0x98, 0x42), outb(0x20, 0x20), g.iret), 0x7000)
    m.ram.set([0x00, 0x70, 0x00, 0x00], 0x24 * 4)
    const vcpu = m.addVcpu(code)
    // LINT0 as ExtINT: the local APIC passes the 8259's interrupts on.
    const lapic = vcpu.getLapic()
    new DataView(lapic.buffer).setUint32(0x350, 0x700, true)
    vcpu.setLapic(lapic)
    const handler = recorder()
    vcpu.start(m.loop, handler)
    await until(() => handler.accesses.some(([, port]) => port === 0x99), "the guest to be ready")
    event.signal()
    await until(() => handler.accesses.some(([, port]) => port === 0x98), "the interrupt")
    irqfd.close()
    irqfd.close()
    await vcpu.stop()
    event.close()
  })

  it("errors name the ioctl", () => {
    using m = machine({ prepare: (vm) => vm.createIrqchip() })
    expect(() => m.vm.irqfd({ fd: 9999, gsi: 4 })).toThrow(/KVM_IRQFD: EBADF/)
    const event = new EventFd()
    using first = m.vm.irqfd({ fd: event.fd, gsi: 4 })
    expect(() => m.vm.irqfd({ fd: event.fd, gsi: 4 })).toThrow(/EBUSY.*attached to an interrupt already/)
    first.close()
    m.vm.irqfd({ fd: event.fd, gsi: 4 }).close()
    event.close()
  })

  it("with resampling signals at the guest's end of interrupt", async () => {
    using m = machine({ prepare: (vm) => vm.createIrqchip() })
    const event = new EventFd()
    const resample = new EventFd()
    using _ = m.vm.irqfd({ fd: event.fd, gsi: 4, resampleFd: resample.fd })
    const outb = (port: number, value: number) => g.out(port, 1, value)
    const vcpu = m.addVcpu(
      g.program(
        outb(0x20, 0x11),
        outb(0x21, 0x20),
        outb(0x21, 0x04),
        outb(0x21, 0x01),
        outb(0x21, 0xef),
        // Level-triggered, or the resample notifier has nothing to lower.
        outb(0x4d0, 0x10),
        g.sti,
        outb(0x99, 1),
        g.forever(g.hlt),
      ),
    )
    m.ram.set(g.program(outb(0x98, 0x42), outb(0x20, 0x20), g.iret), 0x7000)
    m.ram.set([0x00, 0x70, 0x00, 0x00], 0x24 * 4)
    const lapic = vcpu.getLapic()
    new DataView(lapic.buffer).setUint32(0x350, 0x700, true)
    vcpu.setLapic(lapic)
    const handler = recorder()
    vcpu.start(m.loop, handler)
    await until(() => handler.accesses.some(([, port]) => port === 0x99), "the guest to be ready")
    expect(resample.clear()).toBe(false)
    event.signal()
    await until(() => resample.clear(), "the end of interrupt")
    await vcpu.stop()
    event.close()
    resample.close()
  })
})

describeKvm("ioeventfd", () => {
  it("matches port, width and value; what does not match exits", async () => {
    using m = machine()
    const any = new EventFd()
    const one = new EventFd()
    m.vm.ioeventfd({ fd: any.fd, space: "pio", address: 0x10, length: 0 })
    m.vm.ioeventfd({ fd: one.fd, space: "pio", address: 0x20, length: 2, datamatch: 7 })
    const vcpu = m.addVcpu(
      g.program(g.out(0x10, 1, 1), g.out(0x20, 2, 7), g.out(0x20, 2, 8), g.out(0x20, 1, 7), g.hlt),
    )
    const { accesses } = await runToExit(m, vcpu)
    expect(accesses).toEqual([
      ["out", 0x20, 2, 8],
      ["out", 0x20, 1, 7],
    ])
    expect([any.clear(), one.clear()]).toEqual([true, true])
    any.close()
    one.close()
  })

  it("matches guest memory, and no more once closed", async () => {
    using m = machine()
    const event = new EventFd()
    const options = { fd: event.fd, space: "mmio", address: 0xd0000050, length: 4, datamatch: 3n } as const
    const doorbell = m.vm.ioeventfd(options)
    expect(() => m.vm.ioeventfd(options)).toThrow(/KVM_IOEVENTFD: EEXIST/)
    const vcpu = m.addVcpu(
      g.program(g.movEax(3), g.store(0x50, 4), g.out(0x80, 1, 0), g.movEax(3), g.store(0x50, 4), g.hlt),
    )
    const sregs = vcpu.getSregs()
    vcpu.setSregs({ ...sregs, ds: { ...sregs.ds, base: 0xd0000000n } })
    const { accesses } = await runToExit(m, vcpu, {
      portWrite: () => doorbell.close(),
    })
    expect(event.clear()).toBe(true)
    expect(accesses).toEqual([["write", 0xd0000050, 4, 3]])
    doorbell.close()
    event.close()
  })

  it("closes after its VM", () => {
    using m = machine({ prepare: (vm) => vm.createIrqchip() })
    const event = new EventFd()
    const doorbell = m.vm.ioeventfd({ fd: event.fd, space: "pio", address: 1, length: 1 })
    const irqfd = m.vm.irqfd({ fd: event.fd, gsi: 3 })
    m.vm.close()
    doorbell.close()
    irqfd.close()
    event.close()
  })
})

describeKvm("coalesced writes", () => {
  it("reach the handler in order, before the next access", async () => {
    using m = machine()
    if (m.vm.checkExtension("KVM_CAP_COALESCED_PIO") === 0) return
    using zone = m.vm.coalesce({ space: "pio", address: 0x70, size: 4 })
    m.vm.coalesce({ space: "mmio", address: 0xd0000000, size: 4096 })
    const vcpu = m.addVcpu(
      g.program(
        g.out(0x70, 1, 1),
        g.out(0x70, 2, 0x202),
        [...g.movEax(0x03030303), ...g.store(0x10, 4)],
        g.out(0x99, 1, 4),
        g.out(0x71, 1, 5),
        g.hlt,
      ),
    )
    const sregs = vcpu.getSregs()
    vcpu.setSregs({ ...sregs, ds: { ...sregs.ds, base: 0xd0000000n } })
    const { accesses } = await runToExit(m, vcpu)
    expect(accesses).toEqual([
      ["out", 0x70, 1, 1],
      ["out", 0x70, 2, 0x202],
      ["write", 0xd0000010, 4, 0x03030303],
      ["out", 0x99, 1, 4],
      ["out", 0x71, 1, 5],
    ])
    expect(vcpu.counters.byReason.io).toBe(1)
    vcpu.flushCoalesced()
    zone.close()
  })
})

describeKvm("a coalesced write whose handler stops the vCPU", () => {
  it.each([
    ["an access", g.out(0x99, 1, 4)],
    ["an exit", g.hlt],
    ["a pause", g.forever([0x90])],
  ] as const)("does so before %s is looked at", async (what, next) => {
    for (let round = 0; round < 20; round++) {
      using m = machine()
      if (m.vm.checkExtension("KVM_CAP_COALESCED_PIO") === 0) return
      m.vm.coalesce({ space: "pio", address: 0x70, size: 4 })
      const vcpu = m.addVcpu(g.program(g.out(0x98, 1, 0), g.out(0x71, 1, 5), next, g.forever([0x90])))
      let ready = false
      let stopped: Promise<void> | undefined
      const handler = recorder({
        portWrite: (port) => {
          if (port === 0x98) ready = true
          // The thread ends while this exit is still being served.
          if (port !== 0x71) return
          stopped = vcpu.stop()
          for (const until = performance.now() + 2; performance.now() < until; );
        },
      })
      vcpu.start(m.loop, handler)
      await until(() => ready, "the guest to start")
      if (what === "a pause") {
        await new Promise((resolve) => setTimeout(resolve, 5))
        await vcpu.pause()
      }
      await until(() => stopped !== undefined, "the write")
      await stopped
    }
  })
})

describeKvm("interrupt controllers", () => {
  const withChips = (test: (vm: Vm) => void) => () => {
    using m = machine({
      prepare(vm) {
        vm.createIrqchip()
        vm.createPit({ speaker: true })
      },
    })
    test(m.vm)
  }

  it(
    "state round trips",
    withChips((vm) => {
      const pic = vm.getPic("slave")
      vm.setPic("slave", { ...pic, irqBase: 0x28 })
      expect(vm.getPic("slave")).toEqual({ ...pic, irqBase: 0x28 })
      const ioapic = vm.getIoapic()
      expect(ioapic.baseAddress).toBe(0xfec00000n)
      const redirtbl = ioapic.redirtbl.map((entry, i) => (i === 5 ? 0x10031n : entry))
      vm.setIoapic({ ...ioapic, redirtbl })
      expect(vm.getIoapic().redirtbl).toEqual(redirtbl)
    }),
  )

  it(
    "timer state round trips",
    withChips((vm) => {
      const pit = vm.getPit()
      expect(pit.channels.length).toBe(3)
      const channels = pit.channels.map((channel, i) =>
        i === 0 ? { ...channel, mode: 2, count: 4096 } : channel,
      )
      vm.setPit({ ...pit, channels })
      expect(vm.getPit().channels[0]).toMatchObject({ mode: 2, count: 4096 })
      vm.setPitReinject(false)
    }),
  )

  it(
    "lines, routes and messages",
    withChips((vm) => {
      vm.setIrqLine(4, 1)
      vm.setIrqLine(4, 0)
      expect(typeof vm.setIrqLineStatus(4, 1)).toBe("number")
      expect(vm.getPic("master").irr & 0x10).toBe(0x10)
      vm.setGsiRouting([
        { gsi: 4, irqchip: "pic-master", pin: 4 },
        { gsi: 4, irqchip: "ioapic", pin: 4 },
        { gsi: 24, msi: { address: 0xfee00000, data: 0x41 } },
      ])
      expect(() => vm.setGsiRouting([{ gsi: 1, irqchip: "ioapic", pin: 99 }])).toThrow(SystemError)
      // No vCPU yet: delivered to nobody, or an error that says so.
      try {
        expect(vm.signalMsi({ address: 0xfee00000, data: 0x41 })).toBeLessThanOrEqual(0)
      } catch (error) {
        expect(error).toMatchObject({ syscall: "KVM_SIGNAL_MSI" })
      }
    }),
  )

  it("a message interrupts the vCPU that it addresses", async () => {
    using m = machine({ prepare: (vm) => vm.createIrqchip() })
    const vcpu = m.addVcpu(g.program(g.sti, g.out(0x99, 1, 1), g.forever(g.hlt)))
    m.ram.set(g.program(g.out(0x98, 1, 1), g.iret), 0x7000)
    m.ram.set([0x00, 0x70, 0x00, 0x00], 0x41 * 4)
    // The local APIC starts disabled: set the enable bit of the spurious vector register.
    const lapic = vcpu.getLapic()
    new DataView(lapic.buffer).setUint32(0xf0, 0x1ff, true)
    vcpu.setLapic(lapic)
    const handler = recorder()
    vcpu.start(m.loop, handler)
    await until(() => handler.accesses.length === 1, "the guest to be ready")
    expect(m.vm.signalMsi({ address: 0xfee00000, data: 0x41 })).toBe(1)
    await until(() => handler.accesses.length === 2, "the interrupt")
    expect(handler.accesses[1]).toEqual(["out", 0x98, 1, 1])
    await vcpu.stop()
  })

  it("split irqchip", () => {
    using m = machine({ prepare: (vm) => vm.enableSplitIrqchip(24) })
    const vcpu = m.addVcpu(g.program(g.hlt))
    expect(vcpu.getLapic().length).toBe(1024)
    expect(() => m.vm.getIoapic()).toThrow(/KVM_GET_IRQCHIP/)
  })

  it("must come before vCPUs, once", () => {
    using m = machine()
    m.addVcpu(g.program(g.hlt))
    expect(() => m.vm.createIrqchip()).toThrow(/KVM_CREATE_IRQCHIP: EINVAL.*before the first vCPU/)
    using twice = machine({ prepare: (vm) => vm.createIrqchip() })
    expect(() => twice.vm.createIrqchip()).toThrow(/EEXIST/)
  })
})

describeKvm("VM", () => {
  it("clock and TSC frequency", () => {
    using m = machine()
    const clock = m.vm.getClock()
    m.vm.setClock({ ...clock, clock: 10n ** 15n, flags: 0 })
    expect(m.vm.getClock().clock).toBeGreaterThanOrEqual(10n ** 15n)
    try {
      m.vm.setTscKhz(m.vm.getTscKhz())
    } catch (error) {
      expect(error).toMatchObject({ syscall: expect.stringMatching(/KVM_[GS]ET_TSC_KHZ/) })
    }
  })

  it("devices and attributes", () => {
    using m = machine()
    expect(m.vm.canCreateDevice(9999)).toBe(false)
    expect(() => m.vm.createDevice(9999)).toThrow(/KVM_CREATE_DEVICE: ENODEV/)
    expect(m.vm.hasAttribute(5, 5)).toBe(false)
    // KVM_DEV_TYPE_VFIO
    if (!m.vm.canCreateDevice(4)) return
    using device = m.vm.createDevice(4)
    expect(device.fd).toBeGreaterThan(0)
    expect(device.hasAttribute(99, 0)).toBe(false)
    expect(() => device.getAttribute(99, 0)).toThrow(SystemError)
  })

  it("boot CPU, capabilities", () => {
    using m = machine({ prepare: (vm) => vm.setBootCpuId(1) })
    expect(m.vm.checkExtension("KVM_CAP_USER_MEMORY")).toBe(1)
    expect(() => m.vm.enableCapability(99999)).toThrow(/KVM_ENABLE_CAP: EINVAL/)
    m.vm.close()
    expect(() => m.vm.checkExtension("KVM_CAP_USER_MEMORY")).toThrow(StateError)
  })
})
