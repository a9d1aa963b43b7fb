import { ConfigError, StateError } from "@virtkit/interface"
import { Kvm, VcpuLoop } from "@virtkit/kvm"
import { guestCode as g, until } from "@virtkit/testkit"
import { expect, it } from "vitest"
import { CODE, describeKvm, machine, recorder, runToExit, vcpuThreads } from "./setup.js"

describeKvm("lifecycle", () => {
  it("start, exit, resume, stop, start again", async () => {
    using m = machine()
    const vcpu = m.addVcpu(g.program(g.out(0x10, 1, 1), g.hlt, g.out(0x10, 1, 2), g.hlt, g.spin))
    expect(vcpu.state).toBe("stopped")
    expect(() => vcpu.resume()).toThrow(StateError)
    const first = recorder()
    vcpu.start(m.loop, first)
    expect(() => vcpu.start(m.loop, first)).toThrow(StateError)
    expect(() => vcpu.resume()).toThrow(StateError)
    await first.stopped
    expect(vcpu.state).toBe("exited")
    await vcpu.pause()
    vcpu.resume()
    expect(vcpu.state).toBe("running")
    await until(() => first.exits.length === 2, "the second hlt")
    await vcpu.stop()
    await vcpu.stop()
    expect(vcpu.state).toBe("stopped")
    expect(first.accesses.map(([, , , value]) => value)).toEqual([1, 2])
    vcpu.setRegs({ ...vcpu.getRegs(), rip: BigInt(CODE) })
    const second = await runToExit(m, vcpu)
    expect(second.accesses).toEqual([["out", 0x10, 1, 1]])
    expect(vcpu.counters.byReason).toEqual({ io: 3, hlt: 3 })
  })

  it("exit handlers may resume by their return value", async () => {
    using m = machine()
    const vcpu = m.addVcpu(g.program(g.hlt, g.hlt, g.hlt, g.out(0x10, 1, 1), g.spin))
    const handler = recorder({ exit: () => "resume" })
    vcpu.start(m.loop, handler)
    await until(() => handler.accesses.length === 1, "the port write after three exits")
  })

  it("pause completes the access that the guest is making", async () => {
    using m = machine()
    // in al, dx; mov [0x3000], al; then spin
    const vcpu = m.addVcpu(g.program(g.movDx(0x10), g.inDx[1], g.store(0x3000, 1), g.spin))
    let paused: Promise<void> | undefined
    vcpu.start(
      m.loop,
      recorder({
        portRead() {
          paused = vcpu.pause()
          return 0x77
        },
      }),
    )
    await until(() => paused !== undefined, "the port read")
    await paused
    expect(vcpu.state).toBe("paused")
    expect(vcpu.getRegs().rax & 0xffn).toBe(0x77n)
    expect(vcpu.getRegs().rip).toBe(BigInt(CODE + 4))
  })

  it("pause and resume many times lose nothing", async () => {
    using m = machine()
    const vcpu = m.addVcpu(g.program(g.movAx(0), g.forever(g.incAx, g.movDx(0x10), g.outDx[2])))
    const handler = recorder()
    vcpu.start(m.loop, handler)
    for (let i = 0; i < 100; i++) {
      await vcpu.pause()
      const regs = vcpu.getRegs()
      const last = handler.accesses.at(-1)?.[3] ?? 0
      // The guest's counter is what it wrote last, or one more when it was stopped before that.
      expect([last, (last + 1) & 0xffff]).toContain(Number(regs.rax & 0xffffn))
      vcpu.resume()
    }
    await vcpu.stop()
    handler.accesses.forEach(([, , , value], i) => {
      expect(value).toBe((i + 1) & 0xffff)
    })
  })

  it("pause of a guest that waits for an interrupt", async () => {
    using m = machine({ prepare: (vm) => vm.createIrqchip() })
    const vcpu = m.addVcpu(g.program(g.cli, g.hlt))
    vcpu.start(m.loop, recorder())
    await vcpu.pause()
    vcpu.resume()
    await vcpu.pause()
    vcpu.resume()
    await vcpu.stop()
  })

  it("pause and stop of an application processor that was never started", async () => {
    using m = machine({ prepare: (vm) => vm.createIrqchip() })
    m.addVcpu(g.program(g.spin))
    const second = m.addVcpu(g.program(g.spin), 1)
    second.start(m.loop, recorder())
    await second.pause()
    expect(second.getMpState()).toBe("uninitialized")
    second.resume()
    await second.stop()
  })

  it("an exit that comes before a pause does instead of it, and the pause is not done later", async () => {
    using m = machine()
    const vcpu = m.addVcpu(g.program(g.hlt, g.out(0x10, 1, 1), g.spin))
    const handler = recorder()
    vcpu.start(m.loop, handler)
    // Without a turn of the event loop: the exit is there, but was not served.
    while (vcpu.counters.byReason.hlt === undefined);
    await vcpu.pause()
    expect(vcpu.state).toBe("exited")
    vcpu.resume()
    await until(() => handler.accesses.length === 1, "the write after the resumption")
    expect(vcpu.state).toBe("running")
  })

  it("two pauses at once both resolve", async () => {
    using m = machine()
    const vcpu = m.addVcpu(g.program(g.spin))
    vcpu.start(m.loop, recorder())
    await Promise.all([vcpu.pause(), vcpu.pause()])
    vcpu.resume()
    const pausing = vcpu.pause()
    expect(() => vcpu.resume()).toThrow(StateError)
    await Promise.all([pausing, vcpu.stop()])
    await vcpu.pause()
  })

  it("stop from within a handler, as a power-off port does", async () => {
    using m = machine()
    const vcpu = m.addVcpu(g.program(g.forever(g.out(0x10, 1, 1))))
    // Often: the thread's end may be told at any moment of the turn in which it was asked for.
    for (let round = 0; round < 200; round++) {
      let stopped: Promise<void> | undefined
      const handler = recorder({
        portWrite(port, size, value) {
          handler.accesses.push(["out", port, size, value])
          stopped = vcpu.stop()
          const end = performance.now() + (round % 40) / 1000
          while (performance.now() < end);
        },
      })
      vcpu.start(m.loop, handler)
      await until(() => stopped !== undefined, "the write")
      await stopped
      expect(handler.accesses.length).toBe(1)
    }
  })

  it("close from within a handler", async () => {
    using m = machine()
    const vcpu = m.addVcpu(g.program(g.forever(g.out(0x10, 1, 1))))
    let count = 0
    vcpu.start(
      m.loop,
      recorder({
        portWrite() {
          count++
          vcpu.close()
        },
      }),
    )
    await until(() => vcpu.closed, "the write")
    expect(count).toBe(1)
    expect(vcpu.state).toBe("stopped")
  })
})

describeKvm("kick", () => {
  it("is swallowed, or an intr exit if asked for", async () => {
    using m = machine()
    const vcpu = m.addVcpu(g.program(g.spin))
    vcpu.kick()
    const quiet = recorder()
    vcpu.start(m.loop, quiet)
    for (let i = 0; i < 50; i++) vcpu.kick()
    await vcpu.pause()
    await vcpu.stop()
    expect(quiet.exits).toEqual([])
    const handler = recorder()
    vcpu.start(m.loop, handler, { reportInterrupted: true })
    vcpu.kick()
    expect(await handler.stopped).toEqual({ reason: "intr" })
    expect(vcpu.counters.byReason.intr).toBeGreaterThan(1)
  })

  it("storms change nothing for the guest", async () => {
    using m = machine()
    const vcpu = m.addVcpu(g.program(g.movAx(0), g.repeat(3000, g.incAx, g.movDx(0x10), g.outDx[2]), g.hlt))
    const handler = recorder({
      portWrite(port, size, value) {
        handler.accesses.push(["out", port, size, value])
        if (value % 3 === 0) vcpu.kick()
      },
    })
    vcpu.start(m.loop, handler)
    expect(await handler.stopped).toEqual({ reason: "hlt" })
    expect(handler.accesses.length).toBe(3000)
    handler.accesses.forEach(([, , , value], i) => {
      expect(value).toBe(i + 1)
    })
  })
})

describeKvm("handlers", () => {
  it("a promise holds the vCPU until it settles; other vCPUs go on", async () => {
    using m = machine()
    const first = m.addVcpu(g.program(g.out(0x10, 1, 1), g.out(0x10, 1, 2), g.hlt))
    const second = m.addVcpu(g.program(g.repeat(100, g.out(0x20, 1, 3)), g.hlt), 1, 0x1800)
    let settle!: () => void
    const gate = new Promise<void>((resolve) => {
      settle = resolve
    })
    const slow = recorder({
      portWrite(port, size, value) {
        slow.accesses.push(["out", port, size, value])
        return value === 1 ? gate : undefined
      },
    })
    first.start(m.loop, slow)
    await until(() => slow.accesses.length === 1, "the first write")
    const { accesses } = await runToExit(m, second)
    expect(accesses.length).toBe(100)
    expect(slow.accesses.length).toBe(1)
    // Stopped outside KVM_RUN: its state may be read.
    first.getRegs()
    settle()
    await slow.stopped
    expect(slow.accesses.length).toBe(2)
  })

  it("promises that settle at once cost a turn of the event loop and nothing else", async () => {
    using m = machine()
    const vcpu = m.addVcpu(g.program(g.repeat(200, g.out(0x10, 1, 1)), g.hlt))
    let count = 0
    await runToExit(m, vcpu, { portWrite: async () => void count++ })
    expect(count).toBe(200)
  })

  it("a vCPU that waits for a promise can be stopped and closed", async () => {
    using m = machine()
    const vcpu = m.addVcpu(g.program(g.out(0x10, 1, 1), g.out(0x10, 1, 2)))
    // Keeps the loop's memory in use, so that the second run gets the same slot.
    m.addVcpu(g.program(g.spin), 1, 0x1800).start(m.loop, recorder())
    const settlers: (() => void)[] = []
    const portWrite = () => new Promise<void>((resolve) => void settlers.push(resolve))
    vcpu.start(m.loop, recorder({ portWrite }))
    await until(() => settlers.length === 1, "the write")
    await vcpu.stop()
    vcpu.setRegs({ ...vcpu.getRegs(), rip: BigInt(CODE) })
    vcpu.start(m.loop, recorder({ portWrite }))
    await until(() => settlers.length === 2, "the write, again")
    // bad-input #27: the late answer of the first run must not be taken for the second run's.
    settlers[0]!()
    for (let i = 0; i < 20; i++) await new Promise((resolve) => setImmediate(resolve))
    expect(settlers.length).toBe(2)
    vcpu.close()
    settlers[1]!()
  })

  it("what throws or rejects is reported, reads give all ones, the guest goes on", async () => {
    using m = machine()
    const vcpu = m.addVcpu(
      g.program(g.movEax(0), g.movDx(0x10), g.inDx[2], g.outDx[2], g.out(0x20, 1, 9), g.hlt),
    )
    const handler = await runToExit(m, vcpu, {
      portRead() {
        throw new Error("read")
      },
      portWrite(port, _size, value) {
        if (port === 0x10) {
          expect(value).toBe(0xffff)
          throw new Error("write")
        }
        return Promise.reject(new Error("later"))
      },
    })
    expect(handler.errors.map((error) => (error as Error).message)).toEqual(["read", "write", "later"])
    expect(handler.exit_).toEqual({ reason: "hlt" })
  })

  it("an exit handler that throws leaves the vCPU stopped", async () => {
    using m = machine()
    const vcpu = m.addVcpu(g.program(g.hlt))
    const handler = recorder({
      exit() {
        throw new Error("exit")
      },
    })
    vcpu.start(m.loop, handler)
    await until(() => handler.errors.length === 1, "the error")
    expect(vcpu.state).toBe("exited")
  })

  it.each([-1, 2 ** 32 + 5, 1.5, Number.NaN])(
    "a read that returns %d gives the guest its low bytes",
    async (value) => {
      using m = machine()
      const vcpu = m.addVcpu(g.program(g.movEax(0), g.movDx(0x10), g.inDx[1], g.hlt))
      await runToExit(m, vcpu, { portRead: () => value })
      expect(vcpu.getRegs().rax).toBe(BigInt((value >>> 0) & 0xff))
    },
  )
})

describeKvm("ports without JavaScript", () => {
  it("ignored writes and constant reads do not reach the handler", async () => {
    using m = machine()
    m.vm.setPort(0x80, 1, { ignoreWrites: true })
    m.vm.setPort(0x90, 4, { constant: 0xff })
    m.vm.setPort(0x93, 1, { constant: 0x12 })
    const vcpu = m.addVcpu(
      g.program(
        g.repeat(50, g.out(0x80, 1, 1)),
        [...g.movDx(0x90), ...g.inDx[4], ...g.store(0x3000, 4)],
        g.out(0x90, 1, 5),
        g.out(0x80, 2, 0x0102),
        [...g.movDx(0x92), ...g.inDx[4]],
        g.hlt,
      ),
    )
    const { accesses } = await runToExit(m, vcpu)
    // Not natively: a write to a port that is only constant, accesses that reach past the range.
    expect(accesses).toEqual([
      ["out", 0x90, 1, 5],
      ["out", 0x80, 2, 0x0102],
      ["in", 0x92, 4],
    ])
    expect([...m.ram.subarray(0x3000, 0x3004)]).toEqual([0xff, 0xff, 0xff, 0x12])
    expect(vcpu.counters).toMatchObject({ native: 51, byReason: { io: 54, hlt: 1 } })
  })

  it("can be given back, and bad ranges are refused", async () => {
    using m = machine()
    m.vm.setPort(0x80, 1, { ignoreWrites: true })
    m.vm.setPort(0x80, 1, {})
    const vcpu = m.addVcpu(g.program(g.out(0x80, 1, 1), g.hlt))
    expect((await runToExit(m, vcpu)).accesses.length).toBe(1)
    expect(() => m.vm.setPort(0xffff, 2, {})).toThrow(RangeError)
    expect(() => m.vm.setPort(-1, 1, {})).toThrow(RangeError)
    expect(() => m.vm.setPort(0, 0, {})).toThrow(RangeError)
  })

  it("a guest that only makes such accesses can be paused and stopped", async () => {
    using m = machine()
    m.vm.setPort(0x80, 1, { ignoreWrites: true })
    const vcpu = m.addVcpu(g.program(g.forever(g.out(0x80, 1, 1))))
    vcpu.start(m.loop, recorder())
    await vcpu.pause()
    vcpu.resume()
    await vcpu.stop()
  })
})

describeKvm("several vCPUs", () => {
  it("of several VMs on one loop are all served, and none sees another's exits", async () => {
    const loop = new VcpuLoop()
    const machines = [0, 1, 2].map(() => machine({ loop }))
    const runs = machines.flatMap((m, vm) =>
      [0, 1].map((id) => {
        const code = g.program(g.repeat(200, g.out(0x10 + id, 1, vm)), g.hlt)
        const vcpu = m.addVcpu(code, id, CODE + id * 0x400)
        const handler = recorder()
        vcpu.start(loop, handler)
        return { handler, vm, id }
      }),
    )
    await Promise.all(runs.map(({ handler }) => handler.stopped))
    for (const { handler, vm, id } of runs) {
      expect(handler.accesses.length).toBe(200)
      expect(handler.accesses.every(([, port, , value]) => port === 0x10 + id && value === vm)).toBe(true)
    }
    for (const m of machines) m[Symbol.dispose]()
  })

  it("bad-input #34: an exit storm leaves the event loop and other VMs their turns", async () => {
    const loop = new VcpuLoop()
    using storm = machine({ loop })
    using calm = machine({ loop })
    const noisy = storm.addVcpu(g.program(g.forever(g.out(0x10, 1, 1))))
    noisy.start(loop, recorder({ portWrite() {} }))
    let turns = 0
    const timer = setInterval(() => turns++, 1)
    const vcpu = calm.addVcpu(g.program(g.repeat(500, g.out(0x10, 1, 1)), g.hlt))
    const { accesses } = await runToExit(calm, vcpu)
    expect(accesses.length).toBe(500)
    await until(() => turns > 3, "timers")
    clearInterval(timer)
    await noisy.stop()
  })

  it("bad-input #34: exits that never run out leave the event loop its turns", async () => {
    using m = machine()
    const vcpus = [0, 1].map((id) =>
      m.addVcpu(g.program(g.forever(g.out(0x10, 1, 1))), id, CODE + id * 0x400),
    )
    let sinceTurn = 0
    let turns = 0
    let starved = false
    let next = setImmediate(function turn() {
      sinceTurn = 0
      turns++
      next = setImmediate(turn)
    })
    const portWrite = () => {
      // So slow that the other vCPU has an exit by the end of it.
      const start = performance.now()
      while (performance.now() - start < 0.5);
      if (++sinceTurn <= 40) return
      starved = true
      for (const vcpu of vcpus) void vcpu.stop()
    }
    for (const vcpu of vcpus) vcpu.start(m.loop, recorder({ portWrite }))
    await until(() => turns > 200 || starved, "turns")
    clearImmediate(next)
    expect(starved).toBe(false)
    await Promise.all(vcpus.map((vcpu) => vcpu.stop()))
  })

  it("more than the loop has slots for are refused", () => {
    const loop = new VcpuLoop({ maxVcpus: 1 })
    using m = machine({ loop })
    m.addVcpu(g.program(g.spin)).start(loop, recorder())
    const second = m.addVcpu(g.program(g.spin), 1)
    expect(() => second.start(loop, recorder())).toThrow(ConfigError)
    expect(() => new VcpuLoop({ maxVcpus: 0 })).toThrow(ConfigError)
    expect(() => m.vm.createVcpu(1)).toThrow(/KVM_CREATE_VCPU: EEXIST/)
  })

  it("without spinning everything works the same", async () => {
    using m = machine({ loop: new VcpuLoop({ spinMicroseconds: 0 }) })
    const vcpu = m.addVcpu(g.program(g.repeat(300, g.out(0x10, 1, 1)), g.hlt))
    const { accesses } = await runToExit(m, vcpu)
    expect(accesses.length).toBe(300)
    expect(vcpu.counters.sleeps).toBeGreaterThan(200)
  })

  it("start and end without a trace: 200 machines", async () => {
    const before = vcpuThreads()
    const loop = new VcpuLoop()
    const kvm = Kvm.open()
    for (let i = 0; i < 200; i++) {
      using m = machine({ loop })
      const vcpu = m.addVcpu(g.program(g.out(0x10, 1, 1), g.spin))
      const handler = recorder()
      vcpu.start(loop, handler)
      if (i % 2 === 0) await vcpu.stop()
    }
    kvm.close()
    await until(() => vcpuThreads() === before, "the threads to be gone")
  })
})
