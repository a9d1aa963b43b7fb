import { SystemError } from "@virtkit/interface"
import { guestCode as g } from "@virtkit/testkit"
import { expect, it } from "vitest"
import { describeKvm, machine, recorder, runToExit } from "./setup.js"

/** Writes a byte to each of these pages (below 16) and halts. */
const touch = (...pages: number[]) =>
  g.program(g.movAl(0x55), ...pages.map((page) => g.store(page * 4096, 1)), g.hlt)

describeKvm("memory slots", () => {
  it("refuse overlaps and odd sizes by name", () => {
    using m = machine()
    const slot = { slot: 1, guestAddress: 0x8000, size: 4096, hostAddress: m.mapping.hostAddress }
    expect(() => m.vm.setMemorySlot(slot)).toThrow(SystemError)
    expect(() => m.vm.setMemorySlot(slot)).toThrow(/KVM_SET_USER_MEMORY_REGION: EEXIST.*overlaps/)
    expect(() => m.vm.setMemorySlot({ ...slot, guestAddress: 0x20000, size: 100 })).toThrow(/EINVAL/)
    expect(() => m.vm.setMemorySlot({ ...slot, guestAddress: -4096 })).toThrow(RangeError)
    expect(() => m.vm.setMemorySlot({ ...slot, guestAddress: 2 ** 53 })).toThrow(RangeError)
  })

  it("come and go", async () => {
    using m = machine()
    m.vm.setMemorySlot({ slot: 3, guestAddress: 0x20000, size: 4096, hostAddress: m.mapping.hostAddress })
    m.vm.removeMemorySlot(3)
    m.vm.setMemorySlot({ slot: 4, guestAddress: 0x20000, size: 4096, hostAddress: m.mapping.hostAddress })
    m.vm.removeMemorySlot(4)
    expect(() => m.vm.dirtyLog(4)).toThrow(/ENOENT/)
  })
})

describeKvm("dirty log", () => {
  it("has a bit for each written page and is cleared by reading", async () => {
    using m = machine({ logDirty: true })
    const vcpu = m.addVcpu(touch(3, 5, 15))
    m.vm.dirtyLog(0)
    await runToExit(m, vcpu)
    const log = m.vm.dirtyLog(0)
    expect(log.length).toBe(2)
    expect(log[0]! & 0xfffe).toBe((1 << 3) | (1 << 5) | (1 << 15))
    expect(m.vm.dirtyLog(0)[0]! & 0xfffe).toBe(0)
  })

  it("refuses a bitmap that is too short", () => {
    using m = machine({ logDirty: true })
    expect(() => m.vm.dirtyLog(0, new Uint32Array(1))).toThrow(RangeError)
    expect(() => m.vm.clearDirtyLog(0, 0, 64, new Uint32Array(1))).toThrow(RangeError)
  })

  it("with manual clearing keeps bits until they are cleared", async () => {
    using m = machine({
      logDirty: true,
      prepare: (vm) => vm.enableCapability("KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2", [1n]),
    })
    const vcpu = m.addVcpu(touch(3, 5))
    await runToExit(m, vcpu)
    const log = m.vm.dirtyLog(0)
    expect(log[0]! & 0xfffe).toBe((1 << 3) | (1 << 5))
    expect(m.vm.dirtyLog(0)[0]! & 0xfffe).toBe((1 << 3) | (1 << 5))
    m.vm.clearDirtyLog(0, 0, 16, Uint32Array.of(1 << 3, 0))
    expect(m.vm.dirtyLog(0)[0]! & 0xfffe).toBe(1 << 5)
  })
})

describeKvm("dirty ring", () => {
  const bytes = 4096

  it("hands out written pages", async () => {
    using m = machine({ logDirty: true, prepare: (vm) => vm.enableDirtyRing(bytes) })
    const vcpu = m.addVcpu(touch(3, 5, 9))
    vcpu.mapDirtyRing(bytes)
    await runToExit(m, vcpu)
    const out = new Float64Array(64)
    const count = vcpu.harvestDirtyRing(out)
    const pages = Array.from({ length: count }, (_, i) => out[2 * i + 1])
    expect(pages).toEqual(expect.arrayContaining([3, 5, 9]))
    expect(Array.from({ length: count }, (_, i) => out[2 * i]).every((slot) => slot === 0)).toBe(true)
    expect(vcpu.harvestDirtyRing(out)).toBe(0)
    expect(m.vm.resetDirtyRings()).toBe(count)
    expect(() => vcpu.mapDirtyRing(bytes)).toThrow(/mapped already/)
  })

  it("dirty-ring-full: the guest stops and goes on after a reset", async () => {
    using m = machine({ prepare: (vm) => vm.enableDirtyRing(bytes) })
    const { MemoryMapping } = await import("@virtkit/native")
    const pages = 512
    const big = new MemoryMapping({ size: pages * 4096, alignment: 4096 })
    m.vm.setMemorySlot({
      slot: 1,
      guestAddress: 0x100000,
      size: pages * 4096,
      hostAddress: big.hostAddress,
      logDirty: true,
    })
    // mov ecx, pages; mov ebx, 0; again: mov [ebx], al (32-bit address); add ebx, 4096; dec ecx; jnz again; hlt
    const code = g.program(
      g.movEcx(pages),
      [0x66, 0xbb, 0, 0, 0, 0],
      [0x67, 0x88, 0x03],
      [0x66, 0x81, 0xc3, 0x00, 0x10, 0x00, 0x00],
      [0x66, 0x49],
      [0x75, -(3 + 7 + 2 + 2) & 0xff],
      g.hlt,
    )
    const vcpu = m.addVcpu(code)
    const sregs = vcpu.getSregs()
    vcpu.setSregs({ ...sregs, ds: { ...sregs.ds, base: 0x100000n, limit: 0xffffffff, g: 1 } })
    vcpu.mapDirtyRing(bytes)
    const seen = new Set<number>()
    const out = new Float64Array(512)
    const harvest = () => {
      const count = vcpu.harvestDirtyRing(out)
      for (let i = 0; i < count; i++) seen.add(out[2 * i + 1]!)
      expect(m.vm.resetDirtyRings()).toBe(count)
    }
    const handler = recorder()
    const full: string[] = []
    vcpu.start(m.loop, {
      ...handler,
      exit(v, exit) {
        if (exit.reason !== "dirty-ring-full") return handler.exit(v, exit)
        full.push(exit.reason)
        harvest()
        return "resume"
      },
    })
    expect(await handler.stopped).toEqual({ reason: "hlt" })
    harvest()
    expect(full.length).toBeGreaterThan(0)
    // A KVM that emulates in software looks at the ring late and then loses entries; no fewer than the ring holds
    // before it counts as full.
    expect(seen.size).toBeGreaterThan(128)
    expect(Math.max(...seen)).toBeLessThan(pages)
    big.release()
  })
})
