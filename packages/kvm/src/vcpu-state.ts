import { type KvmVcpu, kvmConstants } from "@virtkit/native"
import { type Capability, capabilityNumber } from "./capability.js"
import { Handle } from "./handle.js"
import { blank, decodeList, encode, encodeList, type Layout, u32, u64 } from "./layout.js"
import { enableCapLayout } from "./structs/machine.js"
import {
  type CpuidEntry,
  cpuidEntryLayout,
  type DebugRegs,
  debugRegsLayout,
  type Fpu,
  fpuLayout,
  type GuestDebug,
  guestDebugLayout,
  type Msr,
  msrLayout,
  type Regs,
  regsLayout,
  type Sregs,
  type Sregs2,
  sregs2Layout,
  sregsLayout,
  type Translation,
  translationLayout,
  type VcpuEvents,
  vcpuEventsLayout,
  type Xcr,
  xcrLayout,
} from "./structs/registers.js"

/** KVM_MP_STATE_*. */
export type MpState = "runnable" | "uninitialized" | "init-received" | "halted" | "sipi-received"

const mpStates: Readonly<Record<MpState, number>> = {
  runnable: kvmConstants.KVM_MP_STATE_RUNNABLE,
  uninitialized: kvmConstants.KVM_MP_STATE_UNINITIALIZED,
  "init-received": kvmConstants.KVM_MP_STATE_INIT_RECEIVED,
  halted: kvmConstants.KVM_MP_STATE_HALTED,
  "sipi-received": kvmConstants.KVM_MP_STATE_SIPI_RECEIVED,
}

/**
 * The state of a vCPU: one getter and one setter an ioctl pair. All throw StateError while the vCPU runs, because the
 * kernel would block them until KVM_RUN returns: pause it first, or use them while it is stopped by an exit.
 */
export abstract class VcpuState extends Handle<KvmVcpu> {
  /** @internal Bytes of the XSAVE area. */
  protected abstract readonly xsaveSize: number

  getRegs(): Regs {
    return this.#get("KVM_GET_REGS", regsLayout)
  }
  setRegs(regs: Regs): void {
    this.ioctl("KVM_SET_REGS", encode(regsLayout, regs))
  }

  getSregs(): Sregs {
    return this.#get("KVM_GET_SREGS", sregsLayout)
  }
  setSregs(sregs: Sregs): void {
    this.ioctl("KVM_SET_SREGS", encode(sregsLayout, sregs))
  }

  /** Needs KVM_CAP_SREGS2. */
  getSregs2(): Sregs2 {
    return this.#get("KVM_GET_SREGS2", sregs2Layout)
  }
  setSregs2(sregs: Sregs2): void {
    this.ioctl("KVM_SET_SREGS2", encode(sregs2Layout, sregs))
  }

  getFpu(): Fpu {
    return this.#get("KVM_GET_FPU", fpuLayout)
  }
  setFpu(fpu: Fpu): void {
    this.ioctl("KVM_SET_FPU", encode(fpuLayout, fpu))
  }

  /** The XSAVE area, laid out as CPUID leaf 0xd of the host says. */
  getXsave(): Uint8Array {
    const area = new Uint8Array(this.xsaveSize)
    this.ioctl(this.xsaveSize > 4096 ? "KVM_GET_XSAVE2" : "KVM_GET_XSAVE", area)
    return area
  }
  /** `area` has the length that `getXsave` gives. */
  setXsave(area: Uint8Array): void {
    this.ioctl("KVM_SET_XSAVE", area)
  }

  getXcrs(): Xcr[] {
    const view = new DataView(new ArrayBuffer(8 + 16 * 16 + 128))
    this.ioctl("KVM_GET_XCRS", view)
    return decodeList(8, xcrLayout, view)
  }
  setXcrs(xcrs: readonly Xcr[]): void {
    const view = new DataView(new ArrayBuffer(8 + 16 * 16 + 128))
    if (xcrs.length > 16) throw new RangeError("at most 16 XCRs")
    view.setUint32(0, xcrs.length, true)
    xcrs.forEach((xcr, i) => {
      xcrLayout.write(view, 8 + i * xcrLayout.size, xcr)
    })
    this.ioctl("KVM_SET_XCRS", view)
  }

  getDebugRegs(): DebugRegs {
    return this.#get("KVM_GET_DEBUGREGS", debugRegsLayout)
  }
  setDebugRegs(regs: DebugRegs): void {
    this.ioctl("KVM_SET_DEBUGREGS", encode(debugRegsLayout, regs))
  }

  /** The MSRs of `indices` in their order; ends before the first one that this KVM does not know. */
  getMsrs(indices: readonly number[]): Msr[] {
    const view = encodeList(
      8,
      msrLayout,
      indices.map((index) => ({ index, value: 0n })),
    )
    const count = this.ioctl("KVM_GET_MSRS", view)
    return decodeList(8, msrLayout, view).slice(0, count)
  }
  /** Sets MSRs in order and stops at the first one that KVM refuses; returns how many were set. */
  setMsrs(msrs: readonly Msr[]): number {
    return this.ioctl("KVM_SET_MSRS", encodeList(8, msrLayout, msrs))
  }

  getCpuid(): CpuidEntry[] {
    const view = encodeList(8, cpuidEntryLayout, [], 256)
    this.ioctl("KVM_GET_CPUID2", view)
    return decodeList(8, cpuidEntryLayout, view)
  }
  /** Before the vCPU first runs. */
  setCpuid(entries: readonly CpuidEntry[]): void {
    this.ioctl("KVM_SET_CPUID2", encodeList(8, cpuidEntryLayout, entries))
  }

  /** The local APIC's register page, 1024 bytes. */
  getLapic(): Uint8Array {
    const page = new Uint8Array(1024)
    this.ioctl("KVM_GET_LAPIC", page)
    return page
  }
  setLapic(page: Uint8Array): void {
    this.ioctl("KVM_SET_LAPIC", page)
  }

  getMpState(): MpState {
    const value = this.#get("KVM_GET_MP_STATE", u32)
    const found = Object.entries(mpStates).find(([, number]) => number === value)
    if (found === undefined) throw new RangeError(`KVM_GET_MP_STATE: unknown state ${value}`)
    return found[0] as MpState
  }
  setMpState(state: MpState): void {
    this.ioctl("KVM_SET_MP_STATE", encode(u32, mpStates[state]))
  }

  getEvents(): VcpuEvents {
    return this.#get("KVM_GET_VCPU_EVENTS", vcpuEventsLayout)
  }
  setEvents(events: VcpuEvents): void {
    this.ioctl("KVM_SET_VCPU_EVENTS", encode(vcpuEventsLayout, events))
  }

  /** Nested virtualisation's state, struct kvm_nested_state; needs KVM_CAP_NESTED_STATE. */
  getNestedState(size: number): Uint8Array {
    const state = new Uint8Array(Math.max(size, 128))
    new DataView(state.buffer).setUint32(4, state.length, true)
    this.ioctl("KVM_GET_NESTED_STATE", state)
    return state.slice(0, new DataView(state.buffer).getUint32(4, true))
  }
  setNestedState(state: Uint8Array): void {
    this.ioctl("KVM_SET_NESTED_STATE", state)
  }

  /** KVM_SET_GUEST_DEBUG: single step, break points; `control` is KVM_GUESTDBG_*, 0 turns it off. */
  setGuestDebug(debug: Partial<GuestDebug>): void {
    const debugregs = Array.from({ length: 8 }, (_, i) => debug.debugregs?.[i] ?? 0n)
    this.ioctl("KVM_SET_GUEST_DEBUG", encode(guestDebugLayout, { control: debug.control ?? 0, debugregs }))
  }

  /** KVM_TRANSLATE: guest virtual to guest physical address by the vCPU's page tables. */
  translate(linearAddress: bigint): Translation {
    const empty = { linearAddress, physicalAddress: 0n, valid: false, writeable: false, usermode: false }
    const view = encode(translationLayout, empty)
    this.ioctl("KVM_TRANSLATE", view)
    return translationLayout.read(view, 0)
  }

  /** KVM_INTERRUPT: queues an external interrupt; only without in-kernel local APIC. */
  interrupt(vector: number): void {
    this.ioctl("KVM_INTERRUPT", encode(u32, vector))
  }
  nmi(): void {
    this.ioctl("KVM_NMI")
  }
  /** Needs KVM_CAP_X86_SMM. */
  smi(): void {
    this.ioctl("KVM_SMI")
  }

  getTscKhz(): number {
    return this.ioctl("KVM_GET_TSC_KHZ")
  }
  setTscKhz(khz: number): void {
    this.ioctl("KVM_SET_TSC_KHZ", khz)
  }

  /** KVM_KVMCLOCK_CTRL: tells the guest that it was paused, so that its watchdogs stay calm. */
  notifyPaused(): void {
    this.ioctl("KVM_KVMCLOCK_CTRL")
  }

  /** KVM_X86_SETUP_MCE: number of banks in bits 0 to 7, MCG_CAP features above. */
  setupMce(capabilities: bigint): void {
    this.ioctl("KVM_X86_SETUP_MCE", encode(u64, capabilities))
  }

  /** KVM_ENABLE_CAP. */
  enableCapability(capability: Capability | number, args: readonly bigint[] = [], flags = 0): void {
    const padded = [0, 1, 2, 3].map((i) => args[i] ?? 0n)
    this.ioctl(
      "KVM_ENABLE_CAP",
      encode(enableCapLayout, { cap: capabilityNumber(capability), flags, args: padded }),
    )
  }

  #get<T>(request: string, layout: Layout<T>): T {
    const view = blank(layout)
    this.ioctl(request, view)
    return layout.read(view, 0)
  }
}
