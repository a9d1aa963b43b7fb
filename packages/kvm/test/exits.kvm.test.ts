import { guestCode as g } from "@virtkit/testkit"
import { expect, it } from "vitest"
import { CODE, describeKvm, longMode, machine, recorder, runToExit } from "./setup.js"

describeKvm("port accesses", () => {
  it("of every width reach the handler, unsigned", async () => {
    using m = machine()
    const vcpu = m.addVcpu(
      g.program(g.out(0x10, 1, 0xfedcba98), g.out(0x20, 2, 0xfedcba98), g.out(0x30, 4, 0xfedcba98), g.hlt),
    )
    const { accesses, exit_ } = await runToExit(m, vcpu)
    expect(accesses).toEqual([
      ["out", 0x10, 1, 0x98],
      ["out", 0x20, 2, 0xba98],
      ["out", 0x30, 4, 0xfedcba98],
    ])
    expect(exit_).toEqual({ reason: "hlt" })
  })

  it.each([
    [1, 0x111111ef],
    [2, 0x1111beef],
    [4, 0xdeadbeef],
  ] as const)("read %i bytes of what the handler returns", async (size, expected) => {
    using m = machine()
    const vcpu = m.addVcpu(g.program(g.movDx(0x40), g.movEax(0x11111111), g.inDx[size], g.hlt))
    await runToExit(m, vcpu, { portRead: () => 0xdeadbeef })
    expect(vcpu.getRegs().rax & 0xffffffffn).toBe(BigInt(expected))
  })

  it("by string instructions arrive one by one, in order", async () => {
    using m = machine()
    m.ram.set([1, 2, 3, 4, 5], 0x3000)
    const vcpu = m.addVcpu(
      g.program(
        [...g.movDx(0x50), ...g.movSi(0x3000), ...g.movCx(5)],
        g.repOuts[1],
        [...g.movDx(0x60), ...g.movDi(0x3800), ...g.movCx(3)],
        g.repIns[2],
        g.hlt,
      ),
    )
    let next = 0x0101
    const { accesses } = await runToExit(m, vcpu, { portRead: () => next++ })
    expect(accesses).toEqual([1, 2, 3, 4, 5].map((v) => ["out", 0x50, 1, v]))
    expect([...m.ram.subarray(0x3800, 0x3807)]).toEqual([1, 1, 2, 1, 3, 1, 0])
  })
})

describeKvm("memory accesses", () => {
  const withDs = (m: ReturnType<typeof machine>, code: Uint8Array) => {
    const vcpu = m.addVcpu(code)
    const sregs = vcpu.getSregs()
    vcpu.setSregs({ ...sregs, ds: { ...sregs.ds, base: 0xd0000000n } })
    return vcpu
  }

  it("outside slots reach the handler", async () => {
    using m = machine()
    const vcpu = withDs(
      m,
      g.program(g.movEax(0x89abcdef), g.store(0x10, 1), g.store(0x20, 2), g.store(0x30, 4), g.hlt),
    )
    const { accesses } = await runToExit(m, vcpu)
    expect(accesses).toEqual([
      ["write", 0xd0000010, 1, 0xef],
      ["write", 0xd0000020, 2, 0xcdef],
      ["write", 0xd0000030, 4, 0x89abcdef],
    ])
  })

  it("read what the handler returns", async () => {
    using m = machine()
    const vcpu = withDs(m, g.program(g.movEax(0), g.load(0x44, 4), g.hlt))
    const { exit_ } = await runToExit(m, vcpu, { mmioRead: (address) => address + 1 })
    expect(exit_.reason).toBe("hlt")
    expect(vcpu.getRegs().rax).toBe(0xd0000045n)
  })

  it("of 8 bytes arrive as two of 4, the low half first", async () => {
    using m = machine()
    const vcpu = m.addVcpu(g.program(g.storeRax64, g.loadRax64, g.hlt))
    longMode(vcpu, m.ram, CODE)
    vcpu.setRegs({ ...vcpu.getRegs(), rax: 0x1122334455667788n, rbx: 0x10000000n })
    const { accesses } = await runToExit(m, vcpu, { mmioRead: (address) => address & 0xff })
    expect(accesses).toEqual([
      ["write", 0x10000000, 4, 0x55667788],
      ["write", 0x10000004, 4, 0x11223344],
    ])
    expect(vcpu.getRegs().rax).toBe(0x0000000400000000n)
  })

  it("that write a read-only slot exit, reads do not", async () => {
    using m = machine()
    m.ram.set([0x5a], 0x8000)
    m.vm.setMemorySlot({
      slot: 1,
      guestAddress: 0xd0000000,
      size: 4096,
      hostAddress: m.mapping.hostAddress + 0x8000,
      readonly: true,
    })
    const vcpu = withDs(m, g.program(g.repeat(1000, g.load(0, 1)), g.store(4, 1), g.hlt))
    const { accesses } = await runToExit(m, vcpu)
    expect(accesses).toEqual([["write", 0xd0000004, 1, 0x5a]])
    expect(m.ram[0x8004]).toBe(0)
    expect(vcpu.counters.byReason).toEqual({ mmio: 1, hlt: 1 })
  })
})

describeKvm("other exits", () => {
  it("shutdown: a triple fault", async () => {
    using m = machine()
    const vcpu = m.addVcpu(g.program(g.ud2))
    longMode(vcpu, m.ram, CODE)
    const sregs = vcpu.getSregs()
    vcpu.setSregs({ ...sregs, idt: { base: 0n, limit: 0 } })
    expect((await runToExit(m, vcpu)).exit_).toEqual({ reason: "shutdown" })
  })

  it("debug: single step", async () => {
    using m = machine()
    const vcpu = m.addVcpu(g.program(g.nop, g.nop, g.hlt))
    vcpu.setGuestDebug({ control: 3 })
    const { exit_ } = await runToExit(m, vcpu)
    expect(exit_).toMatchObject({ reason: "debug", exception: 1 })
    expect(vcpu.getRegs().rip).toBe(BigInt(CODE + 1))
  })

  it("rdmsr and wrmsr, answered with a value and with #GP", async () => {
    using m = machine({ prepare: (vm) => vm.setUserspaceMsrReasons(7) })
    const vcpu = m.addVcpu(
      g.program(g.movEcx(0x4b564dff), g.rdmsr, g.movEdx(1), g.movEax(2), g.wrmsr, g.wrmsr),
    )
    // Vector 13 of the real mode table, at 0: the last wrmsr gets #GP and halts there.
    m.ram.set([0x00, 0x70, 0x00, 0x00], 13 * 4)
    m.ram.set(g.program(g.hlt), 0x7000)
    const handler = recorder({
      exit(v, exit) {
        handler.exits.push(exit)
        if (exit.reason === "rdmsr") {
          v.resume({ value: 0x1234567890n })
        } else if (exit.reason === "wrmsr") {
          if (handler.exits.length === 2) return "resume"
          v.resume({ error: true })
        } else {
          done()
        }
        return undefined
      },
    })
    let done!: () => void
    const finished = new Promise<void>((resolve) => {
      done = resolve
    })
    vcpu.start(m.loop, handler)
    await finished
    expect(handler.exits).toEqual([
      { reason: "rdmsr", index: 0x4b564dff, cause: "invalid" },
      { reason: "wrmsr", index: 0x4b564dff, cause: "invalid", value: 0x100000002n },
      { reason: "wrmsr", index: 0x4b564dff, cause: "invalid", value: 0x100000002n },
      { reason: "hlt" },
    ])
    expect(vcpu.getRegs().rip).toBe(0x7001n)
  })

  it("rdmsr: the handler's value is what the guest reads", async () => {
    using m = machine({ prepare: (vm) => vm.setUserspaceMsrReasons(7) })
    const vcpu = m.addVcpu(g.program(g.movEcx(0x4b564dff), g.rdmsr, g.hlt))
    const handler = recorder()
    vcpu.start(m.loop, {
      ...handler,
      exit(v, exit) {
        if (exit.reason === "rdmsr") v.resume({ value: 0x5566778811223344n })
        else handler.exit(v, exit)
      },
    })
    await handler.stopped
    const regs = vcpu.getRegs()
    expect([regs.rax, regs.rdx]).toEqual([0x11223344n, 0x55667788n])
  })

  it.each([false, true])(
    "an answer that the handler returns (a pause asked for before it: %s)",
    async (pauses) => {
      using m = machine({ prepare: (vm) => vm.setUserspaceMsrReasons(7) })
      const vcpu = m.addVcpu(g.program(g.movEcx(0x4b564dff), g.rdmsr, g.hlt))
      let answered = 0
      const handler = recorder()
      vcpu.start(m.loop, {
        ...handler,
        exit(v, exit) {
          if (exit.reason !== "rdmsr") return handler.exit(v, exit)
          answered++
          return { value: 0x5566778811223344n }
        },
      })
      if (pauses) {
        // Not a turn of the loop: the exit is there, and seen only when the pause was asked for.
        Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 100)
        await vcpu.pause()
        expect([answered, vcpu.state]).toEqual([1, "exited"])
        vcpu.resume()
      }
      expect(await handler.stopped).toEqual({ reason: "hlt" })
      const regs = vcpu.getRegs()
      expect([regs.rax, regs.rdx]).toEqual([0x11223344n, 0x55667788n])
    },
  )

  it("msr filter: denied accesses exit", async () => {
    using m = machine({
      prepare(vm) {
        vm.setUserspaceMsrReasons(4)
        vm.setMsrFilter("allow", [{ read: true, write: true, base: 0x174, allow: [false, true] }])
      },
    })
    const vcpu = m.addVcpu(g.program(g.movEcx(0x175), g.rdmsr, g.movEcx(0x174), g.rdmsr, g.hlt))
    const { exit_ } = await runToExit(m, vcpu)
    expect(exit_).toEqual({ reason: "rdmsr", index: 0x174, cause: "filtered" })
  })

  it("run-failed: guest memory that this process does not have", async () => {
    using m = machine()
    // Page-aligned and below 2^47, but nothing is mapped there.
    m.vm.setMemorySlot({ slot: 1, guestAddress: 0x100000, size: 4096, hostAddress: 0x10000 })
    const vcpu = m.addVcpu(g.program(g.hlt))
    const sregs = vcpu.getSregs()
    vcpu.setSregs({ ...sregs, cs: { ...sregs.cs, base: 0x100000n } })
    vcpu.setRegs({ ...vcpu.getRegs(), rip: 0n })
    const { exit_ } = await runToExit(m, vcpu)
    expect(["run-failed", "memory-fault", "internal-error"]).toContain(exit_.reason)
    if (exit_.reason === "run-failed") expect(exit_.code).toBe("EFAULT")
  })

  it("internal-error: an instruction that cannot be emulated in a page without memory", async () => {
    using m = machine()
    const vcpu = m.addVcpu(g.program(g.hlt))
    const sregs = vcpu.getSregs()
    vcpu.setSregs({ ...sregs, cs: { ...sregs.cs, base: 0xd0000000n } })
    vcpu.setRegs({ ...vcpu.getRegs(), rip: 0n })
    const { exit_ } = await runToExit(m, vcpu)
    expect(exit_).toMatchObject({ reason: "internal-error", suberror: "emulation", suberrorNumber: 1 })
  })

  it("fail-entry or internal-error: a state that the processor refuses", async () => {
    using m = machine()
    const vcpu = m.addVcpu(g.program(g.hlt))
    longMode(vcpu, m.ram, CODE)
    // CS.L and CS.D both set are reserved in 64-bit mode.
    const sregs = vcpu.getSregs()
    let refused: unknown
    try {
      vcpu.setSregs({ ...sregs, cs: { ...sregs.cs, l: 1, db: 1, type: 0, present: 0 } })
    } catch (error) {
      refused = error
    }
    if (refused !== undefined) expect(refused).toMatchObject({ syscall: "KVM_SET_SREGS", code: "EINVAL" })
    else expect((await runToExit(m, vcpu)).exit_.reason).toMatch(/fail-entry|internal-error|shutdown|hlt/)
  })
})
