import { spawnSync } from "node:child_process"
import { readFileSync } from "node:fs"
import { Worker } from "node:worker_threads"
import { StateError, SystemError } from "@virtkit/interface"
import { Kvm } from "@virtkit/kvm"
import { guestCode as g, until } from "@virtkit/testkit"
import { expect, it } from "vitest"
import { collect, describeKvm, machine, openFiles, recorder, vcpuThreads } from "./setup.js"

const addon = new URL("../../../native/index.js", import.meta.url).href
const residentPages = () => Number(readFileSync("/proc/self/statm", "latin1").split(" ")[1])

/**
 * A program on the addon alone that runs a guest: `jmp $`, or port writes without end. The addon's own classes, because
 * the package is TypeScript here, which a bare Node.js process does not load.
 */
const guest = (code: string) => `
  import { ExitHub, KvmSystem, KvmVcpu, KvmVm, MemoryMapping } from ${JSON.stringify(addon)}
  const system = new KvmSystem("/dev/kvm")
  const vm = new KvmVm(system, 0)
  const memory = new MemoryMapping({ size: 65536, alignment: 4096 })
  vm.ioctl("KVM_SET_TSS_ADDR", 0xfffbd000)
  vm.setMemorySlot(0, 0, 0, 65536, memory.hostAddress)
  new Uint8Array(memory.buffer, memory.byteOffset).set(${code}, 0x1000)
  const vcpu = new KvmVcpu(vm, 0)
  const sregs = new DataView(new ArrayBuffer(312))
  vcpu.ioctl("KVM_GET_SREGS", sregs)
  sregs.setBigUint64(0, 0n, true)
  sregs.setUint16(12, 0, true)
  vcpu.ioctl("KVM_SET_SREGS", sregs)
  const regs = new DataView(new ArrayBuffer(144))
  regs.setBigUint64(128, 0x1000n, true)
  regs.setBigUint64(136, 2n, true)
  vcpu.ioctl("KVM_SET_REGS", regs)
  const hub = new ExitHub(4, 50, () => { woken() })
  vcpu.start(hub, 0, false)
`
const spinning = guest("[0xeb, 0xfe]")
/** out 0x10, al; jmp back: its exits are never answered. */
const exiting = guest("[0xe6, 0x10, 0xeb, 0xfc]")

const run = (program: string) =>
  spawnSync(process.execPath, ["--input-type=module", "-e", program], { encoding: "utf8", timeout: 15_000 })

describeKvm("handles", () => {
  it("close twice, in any order, and are useless afterwards", () => {
    const orders = [
      [0, 1, 2],
      [2, 1, 0],
      [1, 2, 0],
      [1, 0, 2],
    ]
    for (const order of orders) {
      const kvm = Kvm.open()
      const vm = kvm.createVm()
      const vcpu = vm.createVcpu(0)
      const handles = [kvm, vm, vcpu]
      for (const i of order) {
        handles[i]!.close()
        handles[i]!.close()
      }
      expect(() => kvm.apiVersion()).toThrow(StateError)
      expect(() => kvm.createVm()).toThrow(StateError)
      expect(() => vm.createVcpu(1)).toThrow(StateError)
      expect(() => vm.setMemorySlot({ slot: 0, guestAddress: 0, size: 0, hostAddress: 0 })).toThrow(
        StateError,
      )
      expect(() => vm.statistics()).toThrow(StateError)
      expect(() => vcpu.getRegs()).toThrow(StateError)
      expect(() => vcpu.start({} as never, recorder())).toThrow(StateError)
      expect(() => vcpu.fd).toThrow(StateError)
    }
  })

  it("a vCPU works after its VM and Kvm handles are closed", async () => {
    using m = machine()
    const vcpu = m.addVcpu(g.program(g.hlt))
    m.vm.close()
    m.kvm.close()
    const handler = recorder()
    vcpu.start(m.loop, handler)
    expect(await handler.stopped).toEqual({ reason: "hlt" })
  })

  it("are close-on-exec", () => {
    using m = machine()
    const vcpu = m.addVcpu(g.program(g.hlt))
    for (const { fd } of [m.kvm, m.vm, vcpu]) {
      const flags = /flags:\s+([0-7]+)/.exec(readFileSync(`/proc/self/fdinfo/${fd}`, "latin1"))![1]!
      expect(Number.parseInt(flags, 8) & 0o2000000).toBe(0o2000000)
    }
  })

  it("are closed when they are garbage collected", async () => {
    const before = openFiles()
    const make = () => {
      const kvm = Kvm.open()
      const vm = kvm.createVm()
      const vcpu = vm.createVcpu(0)
      return [kvm.fd, vm.fd, vcpu.fd]
    }
    for (let i = 0; i < 10; i++) make()
    expect(openFiles()).toBeGreaterThan(before + 20)
    await collect()
    expect(openFiles()).toBe(before)
  })

  it("a running vCPU is not garbage collected, though nobody refers to it", async () => {
    using m = machine()
    const handler = recorder()
    m.addVcpu(g.program(g.repeat(2000, g.nop), g.out(0x10, 1, 1), g.hlt)).start(m.loop, handler)
    await collect()
    expect(await handler.stopped).toEqual({ reason: "hlt" })
  })

  it("closing a running vCPU stops its thread", async () => {
    const before = vcpuThreads()
    using m = machine()
    const vcpu = m.addVcpu(g.program(g.spin))
    vcpu.start(m.loop, recorder())
    await until(() => vcpuThreads() === before + 1, "the thread")
    vcpu.close()
    // Joined, but the kernel may list it a moment longer.
    await until(() => vcpuThreads() === before, "the thread to be gone")
  })

  it("leave no files and no memory behind: 200 rounds", async () => {
    const round = async () => {
      using m = machine()
      const vcpu = m.addVcpu(g.program(g.spin))
      using _ = m.vm.statistics()
      vcpu.start(m.loop, recorder())
      await vcpu.stop()
    }
    for (let i = 0; i < 50; i++) await round()
    await collect()
    const files = openFiles()
    const pages = residentPages()
    for (let i = 0; i < 200; i++) await round()
    await collect()
    expect(openFiles()).toBe(files)
    // 16 MiB would be 80 KiB a round.
    expect(residentPages() - pages).toBeLessThan(4096)
  })
})

describeKvm("errors", () => {
  it("of opening say what to do", () => {
    expect(() => Kvm.open("/nonexistent")).toThrow(SystemError)
    expect(() => Kvm.open("/nonexistent")).toThrow(/open: ENOENT.*load kvm_intel or kvm_amd/)
  })

  it("carry code, errno and the ioctl's name", () => {
    using kvm = Kvm.open()
    let thrown: unknown
    try {
      kvm.createVm({ machineType: 12345 })
    } catch (error) {
      thrown = error
    }
    expect(thrown).toMatchObject({ name: "SystemError", code: "EINVAL", errno: 22, syscall: "KVM_CREATE_VM" })
  })
})

describeKvm("the process", () => {
  it("ends by process.exit while a vCPU runs", () => {
    const result = run(`${spinning}
      function woken() {}
      setTimeout(() => process.exit(7), 20)`)
    expect(result).toMatchObject({ status: 7, stderr: "" })
  })

  it("ends by an uncaught exception while a vCPU waits for an answer", () => {
    const result = run(`${exiting}
      function woken() { throw new Error("on purpose") }`)
    expect(result.status).toBe(1)
    expect(result.stderr).toMatch(/on purpose/)
  })

  it("ends when the hub is closed and nothing else is left to do", () => {
    const result = run(`${spinning}
      function woken() { vcpu.join(); hub.close() }
      vcpu.ask("stop")`)
    expect(result).toMatchObject({ status: 0, stderr: "" })
  })

  it("outlives workers that are terminated while their vCPUs run or wait", async () => {
    const before = { files: openFiles(), vcpuThreads: vcpuThreads() }
    for (const program of [spinning, exiting, spinning, exiting]) {
      const source = `${program}
        import { parentPort } from "node:worker_threads"
        function woken() {}
        parentPort.postMessage("running")`
      const url = new URL(`data:text/javascript,${encodeURIComponent(source)}`)
      const worker = new Worker(url)
      await new Promise((resolve, reject) => {
        worker.once("message", resolve)
        worker.once("error", reject)
      })
      await worker.terminate()
    }
    await collect()
    expect(vcpuThreads()).toBe(before.vcpuThreads)
    expect(openFiles()).toBe(before.files)
  })

  it("may run machines in workers", async () => {
    const source = `${exiting}
      import { parentPort } from "node:worker_threads"
      const words = new Int32Array(hub.buffer)
      let count = 0
      function woken() {
        for (let slot; (slot = hub.poll(50)) >= 0; ) {
          if (++count > 1000) { vcpu.close(); hub.close(); parentPort.postMessage(count); return }
          const before = Atomics.exchange(words, 256 * (slot + 1), 0)
          if (before & 4) hub.wakeSlot(slot)
        }
      }`
    const worker = new Worker(new URL(`data:text/javascript,${encodeURIComponent(source)}`))
    const count = await new Promise((resolve, reject) => {
      worker.once("message", resolve)
      worker.once("error", reject)
    })
    expect(count).toBe(1001)
    await new Promise((resolve) => worker.once("exit", resolve))
  })
})
