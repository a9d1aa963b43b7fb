import { kvmConstants, kvmLayouts } from "@virtkit/native"
import { describe, expect, it } from "vitest"
import { readCounters } from "../src/counters.js"
import { convertError } from "../src/errors.js"
import { decodeExit, encodeAnswer } from "../src/exits.js"
import {
  array,
  bytes,
  decodeList,
  encode,
  encodeList,
  reserved,
  struct,
  u8,
  u16,
  u32,
  u64,
} from "../src/layout.js"
import * as slot from "../src/slot.js"
import * as machine from "../src/structs/machine.js"
import * as registers from "../src/structs/registers.js"

describe("layout tables", () => {
  it.each([
    ["kvm_regs", registers.regsLayout],
    ["kvm_sregs", registers.sregsLayout],
    ["kvm_sregs2", registers.sregs2Layout],
    ["kvm_segment", registers.segmentLayout],
    ["kvm_dtable", registers.descriptorTableLayout],
    ["kvm_fpu", registers.fpuLayout],
    ["kvm_debugregs", registers.debugRegsLayout],
    ["kvm_vcpu_events", registers.vcpuEventsLayout],
    ["kvm_cpuid_entry2", registers.cpuidEntryLayout],
    ["kvm_msr_entry", registers.msrLayout],
    ["kvm_translation", registers.translationLayout],
    ["kvm_guest_debug", registers.guestDebugLayout],
    ["kvm_pic_state", machine.picStateLayout],
    ["kvm_ioapic_state", machine.ioapicStateLayout],
    ["kvm_pit_state2", machine.pitStateLayout],
    ["kvm_pit_config", machine.pitConfigLayout],
    ["kvm_clock_data", machine.clockLayout],
    ["kvm_irqchip", machine.irqchipLayout],
    ["kvm_irq_level", machine.irqLevelLayout],
    ["kvm_msi", machine.msiLayout],
    ["kvm_irq_routing_entry", machine.routingEntryLayout],
    ["kvm_irqfd", machine.irqfdLayout],
    ["kvm_ioeventfd", machine.ioeventfdLayout],
    ["kvm_enable_cap", machine.enableCapLayout],
    ["kvm_coalesced_mmio_zone", machine.coalescedZoneLayout],
    ["kvm_reinject_control", machine.reinjectLayout],
  ])("%s has the kernel's size", (name, layout) => {
    expect(layout.size).toBe(kvmLayouts[name])
  })

  it("fields are where the kernel has them", () => {
    // Fills all bytes with their offset's low byte, so that a field's value tells where it was read from.
    const ramp = (size: number) => new DataView(Uint8Array.from({ length: size }, (_, i) => i & 0xff).buffer)
    const at = (name: string) => kvmLayouts[name]! & 0xff
    const low = (value: bigint) => Number(value & 0xffn)
    const sregs = registers.sregsLayout.read(ramp(312), 0)
    expect(low(sregs.gdt.base)).toBe(at("kvm_sregs.gdt"))
    expect(low(sregs.cr0)).toBe(at("kvm_sregs.cr0"))
    expect(low(sregs.apicBase)).toBe(at("kvm_sregs.apic_base"))
    expect(low(sregs.interruptBitmap[0]!)).toBe(at("kvm_sregs.interrupt_bitmap"))
    expect(low(registers.regsLayout.read(ramp(144), 0).rip)).toBe(at("kvm_regs.rip"))
    const fpu = registers.fpuLayout.read(ramp(416), 0)
    expect(fpu.lastOpcode & 0xff).toBe(at("kvm_fpu.last_opcode"))
    expect(fpu.xmm[0]![0]).toBe(at("kvm_fpu.xmm"))
    expect(fpu.mxcsr & 0xff).toBe(at("kvm_fpu.mxcsr"))
    const events = registers.vcpuEventsLayout.read(ramp(64), 0)
    expect(events.sipiVector & 0xff).toBe(at("kvm_vcpu_events.sipi_vector"))
    expect(low(events.exceptionPayload)).toBe(at("kvm_vcpu_events.exception_payload"))
    expect(low(machine.clockLayout.read(ramp(48), 0).hostTsc)).toBe(at("kvm_clock_data.host_tsc"))
    expect(machine.irqfdLayout.read(ramp(32), 0).resamplefd & 0xff).toBe(at("kvm_irqfd.resamplefd"))
    expect(machine.ioeventfdLayout.read(ramp(64), 0).flags & 0xff).toBe(at("kvm_ioeventfd.flags"))
    expect(low(machine.enableCapLayout.read(ramp(104), 0).args[0]!)).toBe(at("kvm_enable_cap.args"))
    expect(low(registers.debugRegsLayout.read(ramp(128), 0).flags)).toBe(at("kvm_debugregs.flags"))
    expect(low(machine.ioapicStateLayout.read(ramp(216), 0).redirtbl[0]!)).toBe(
      at("kvm_ioapic_state.redirtbl"),
    )
  })

  it("align, pad, nest and round trip", () => {
    interface Inner {
      a: number
      b: bigint
    }
    const inner = struct<Inner>({ a: u8, b: u64 })
    interface Outer {
      x: number
      inner: Inner
      list: readonly number[]
      tail: Uint8Array
    }
    const outer = struct<Outer>({ x: u16, inner, list: array(u32, 2), _pad: reserved(3), tail: bytes(2) })
    expect([inner.size, outer.size, outer.align]).toEqual([16, 40, 8])
    const value = { x: 1, inner: { a: 2, b: 3n }, list: [4, 5], tail: Uint8Array.of(6, 7) }
    expect(outer.read(encode(outer, value), 0)).toEqual(value)
    expect(() => encode(outer, { ...value, list: [1] })).toThrow(RangeError)
    expect(() => encode(outer, { ...value, tail: new Uint8Array(3) })).toThrow(RangeError)
    expect(decodeList(8, u32, encodeList(8, u32, [7, 8]))).toEqual([7, 8])
  })
})

describe("the exit slot", () => {
  it("is where the addon has it", () => {
    expect({
      state: slot.STATE,
      kind: slot.KIND,
      address: slot.ADDRESS,
      size: slot.SIZE,
      write: slot.WRITE,
      data: slot.DATA,
      reason: slot.REASON,
      error: slot.ERROR,
      coalesced: slot.COALESCED,
      payload: slot.PAYLOAD,
      runs: slot.COUNTERS,
      reasons: slot.COUNTERS + 8 * slot.FIRST_REASON,
    }).toEqual(
      Object.fromEntries(
        ["state", "kind", "address", "size", "write", "data", "reason", "error"]
          .concat(["coalesced", "payload", "runs", "reasons"])
          .map((name) => [name, kvmLayouts[`ExitSlot.${name}`]]),
      ),
    )
    expect(slot.SLOT_BYTES).toBe(kvmLayouts.ExitSlot)
    const counters = ["runs", "delivered", "native", "sleeps"].map((name) => kvmLayouts[`ExitSlot.${name}`])
    expect([slot.RUNS, slot.DELIVERED, slot.NATIVE, slot.SLEEPS].map((i) => slot.COUNTERS + 8 * i)).toEqual(
      counters,
    )
  })

  it("counters are named, unknown reasons added up", () => {
    const words = new Float64Array(64)
    words.set([10, 8, 2, 1])
    words[slot.FIRST_REASON + kvmConstants.KVM_EXIT_IO] = 5
    words[slot.FIRST_REASON + 50] = 2
    words[slot.FIRST_REASON + 55] = 3
    expect(readCounters(words)).toEqual({
      runs: 10,
      delivered: 8,
      native: 2,
      sleeps: 1,
      byReason: { io: 5, unknown: 5 },
    })
  })
})

/** An exit union: 32-bit and 64-bit words at offsets. */
function union(...fields: [offset: number, value: number | bigint][]): DataView {
  const view = new DataView(new ArrayBuffer(256))
  for (const [offset, value] of fields) {
    if (typeof value === "bigint") view.setBigUint64(offset, value, true)
    else view.setUint32(offset, value, true)
  }
  return view
}

describe("exits that cannot be provoked everywhere", () => {
  const K = kvmConstants
  it.each([
    [
      K.KVM_EXIT_FAIL_ENTRY,
      union([0, 0x80000021n], [8, 3]),
      { hardwareReason: 0x80000021n, cpu: 3 },
      "fail-entry",
    ],
    [
      K.KVM_EXIT_INTERNAL_ERROR,
      union([0, 3], [4, 2], [8, 5n], [16, 6n]),
      { suberror: "delivery", suberrorNumber: 3, data: [5n, 6n] },
      "internal-error",
    ],
    [
      K.KVM_EXIT_INTERNAL_ERROR,
      // ndata beyond the array must not be believed.
      union([0, 77], [4, 0xffffffff]),
      { suberror: "unknown", suberrorNumber: 77, data: Array(16).fill(0n) },
      "internal-error",
    ],
    [
      K.KVM_EXIT_SYSTEM_EVENT,
      union([0, 3], [4, 1], [8, 9n]),
      { event: "crash", type: 3, data: [9n] },
      "system-event",
    ],
    [K.KVM_EXIT_SYSTEM_EVENT, union([0, 99]), { event: "unknown", type: 99, data: [] }, "system-event"],
    [
      K.KVM_EXIT_HYPERCALL,
      union([0, 12n], [8, 1n], [48, 6n], [64, 1]),
      { number: 12n, args: [1n, 0n, 0n, 0n, 0n, 6n], longMode: true },
      "hypercall",
    ],
    [
      K.KVM_EXIT_MEMORY_FAULT,
      union([0, 8n], [8, 0x1000n], [16, 4096n]),
      { flags: 8n, guestAddress: 0x1000n, size: 4096n },
      "memory-fault",
    ],
    [K.KVM_EXIT_TPR_ACCESS, union([0, 0x99n], [8, 1]), { rip: 0x99n, isWrite: true }, "tpr-access"],
    [K.KVM_EXIT_EXCEPTION, union([0, 14], [4, 2]), { exception: 14, errorCode: 2 }, "exception"],
    [K.KVM_EXIT_IOAPIC_EOI, union([0, 0x31]), { vector: 0x31 }, "ioapic-eoi"],
    [K.KVM_EXIT_NOTIFY, union([0, 1]), { flags: 1 }, "notify"],
    [K.KVM_EXIT_X86_BUS_LOCK, union(), {}, "bus-lock"],
    [K.KVM_EXIT_DIRTY_RING_FULL, union(), {}, "dirty-ring-full"],
    [K.KVM_EXIT_IRQ_WINDOW_OPEN, union(), {}, "irq-window-open"],
  ])("%i", (number, payload, fields, reason) => {
    expect(decodeExit(number, 0, payload)).toEqual({ reason, ...fields })
  })

  it("instruction bytes of a failed emulation, never more than there are", () => {
    const payload = union([0, 1], [4, 3], [8, 1n])
    payload.setUint8(16, 200)
    payload.setUint8(17, 0x0f)
    const exit = decodeExit(K.KVM_EXIT_INTERNAL_ERROR, 0, payload)
    expect(exit).toMatchObject({ suberror: "emulation" })
    expect("instructionBytes" in exit && exit.instructionBytes?.length).toBe(15)
    expect("instructionBytes" in exit && exit.instructionBytes?.[0]).toBe(0x0f)
  })

  it("an unknown reason and a failed KVM_RUN", () => {
    expect(decodeExit(1000, 0, union([0, 7n]))).toMatchObject({
      reason: "unknown",
      exitReason: 1000,
      hardwareReason: 7n,
    })
    expect(decodeExit(K.KVM_EXIT_HLT, 12, union())).toEqual({
      reason: "run-failed",
      errno: 12,
      code: "ENOMEM",
    })
    // KVM reports a memory fault together with EFAULT.
    expect(decodeExit(K.KVM_EXIT_MEMORY_FAULT, 14, union())).toMatchObject({ reason: "memory-fault" })
  })

  it("answers are where KVM looks for them", () => {
    const payload = union()
    encodeAnswer(K.KVM_EXIT_HYPERCALL, { result: 5n }, payload)
    expect(payload.getBigUint64(56, true)).toBe(5n)
    encodeAnswer(K.KVM_EXIT_X86_RDMSR, { value: 6n, error: true }, payload)
    expect([payload.getUint8(0), payload.getBigUint64(16, true)]).toEqual([1, 6n])
  })
})

describe("errors", () => {
  it("get a hint where there is one", () => {
    const error = Object.assign(new Error("open: EACCES"), { code: "EACCES", errno: 13, syscall: "open" })
    expect(convertError(error)).toMatchObject({ message: expect.stringMatching(/usermod/), cause: error })
    const other = Object.assign(new Error("x"), { code: "EIO", errno: 5, syscall: "KVM_RUN" })
    expect(convertError(other)).toMatchObject({ message: "x", code: "EIO" })
    expect(convertError(5)).toBe(5)
  })
})
