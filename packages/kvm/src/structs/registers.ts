import { array, bytes, flag, type Layout, reserved, struct, u8, u16, u32, u64 } from "../layout.js"

/** General purpose registers (struct kvm_regs). */
export interface Regs {
  rax: bigint
  rbx: bigint
  rcx: bigint
  rdx: bigint
  rsi: bigint
  rdi: bigint
  rsp: bigint
  rbp: bigint
  r8: bigint
  r9: bigint
  r10: bigint
  r11: bigint
  r12: bigint
  r13: bigint
  r14: bigint
  r15: bigint
  rip: bigint
  rflags: bigint
}

export const regsLayout: Layout<Regs> = struct<Regs>({
  rax: u64,
  rbx: u64,
  rcx: u64,
  rdx: u64,
  rsi: u64,
  rdi: u64,
  rsp: u64,
  rbp: u64,
  r8: u64,
  r9: u64,
  r10: u64,
  r11: u64,
  r12: u64,
  r13: u64,
  r14: u64,
  r15: u64,
  rip: u64,
  rflags: u64,
})

/** A segment register with its hidden part (struct kvm_segment); the one-bit fields are those of the descriptor. */
export interface Segment {
  base: bigint
  /** In bytes, already scaled by `g`. */
  limit: number
  selector: number
  type: number
  present: number
  dpl: number
  db: number
  s: number
  l: number
  g: number
  avl: number
  unusable: number
}

export const segmentLayout: Layout<Segment> = struct<Segment>({
  base: u64,
  limit: u32,
  selector: u16,
  type: u8,
  present: u8,
  dpl: u8,
  db: u8,
  s: u8,
  l: u8,
  g: u8,
  avl: u8,
  unusable: u8,
})

/** GDTR or IDTR (struct kvm_dtable). */
export interface DescriptorTable {
  base: bigint
  limit: number
}

export const descriptorTableLayout: Layout<DescriptorTable> = struct<DescriptorTable>({
  base: u64,
  limit: u16,
})

/** What Sregs and Sregs2 have in common. */
interface SystemRegisters {
  cs: Segment
  ds: Segment
  es: Segment
  fs: Segment
  gs: Segment
  ss: Segment
  tr: Segment
  ldt: Segment
  gdt: DescriptorTable
  idt: DescriptorTable
  cr0: bigint
  cr2: bigint
  cr3: bigint
  cr4: bigint
  cr8: bigint
  efer: bigint
  apicBase: bigint
}

const systemRegisters = {
  cs: segmentLayout,
  ds: segmentLayout,
  es: segmentLayout,
  fs: segmentLayout,
  gs: segmentLayout,
  ss: segmentLayout,
  tr: segmentLayout,
  ldt: segmentLayout,
  gdt: descriptorTableLayout,
  idt: descriptorTableLayout,
  cr0: u64,
  cr2: u64,
  cr3: u64,
  cr4: u64,
  cr8: u64,
  efer: u64,
  apicBase: u64,
} as const

/** Segment, table and control registers (struct kvm_sregs). */
export interface Sregs extends SystemRegisters {
  /** 256 bits, of the external interrupt that waits for injection at most one. */
  interruptBitmap: readonly bigint[]
}

export const sregsLayout: Layout<Sregs> = struct<Sregs>({
  ...systemRegisters,
  interruptBitmap: array(u64, 4),
})

/** As Sregs, with PDPTRs instead of the interrupt bitmap (struct kvm_sregs2). */
export interface Sregs2 extends SystemRegisters {
  /** 1: `pdptrs` are valid (KVM_SREGS2_FLAGS_PDPTRS_VALID). */
  flags: bigint
  pdptrs: readonly bigint[]
}

export const sregs2Layout: Layout<Sregs2> = struct<Sregs2>({
  ...systemRegisters,
  flags: u64,
  pdptrs: array(u64, 4),
})

/** Legacy floating point and SSE state (struct kvm_fpu). */
export interface Fpu {
  /** Eight registers of 16 bytes. */
  fpr: readonly Uint8Array[]
  fcw: number
  fsw: number
  /** Tag word as FXSAVE has it: one bit a register, 1 is valid. */
  ftwx: number
  lastOpcode: number
  lastIp: bigint
  lastDp: bigint
  /** Sixteen registers of 16 bytes. */
  xmm: readonly Uint8Array[]
  mxcsr: number
}

export const fpuLayout: Layout<Fpu> = struct<Fpu>({
  fpr: array(bytes(16), 8),
  fcw: u16,
  fsw: u16,
  ftwx: u8,
  lastOpcode: u16,
  lastIp: u64,
  lastDp: u64,
  xmm: array(bytes(16), 16),
  mxcsr: u32,
  _pad: reserved(4),
})

/** struct kvm_debugregs. */
export interface DebugRegs {
  db: readonly bigint[]
  dr6: bigint
  dr7: bigint
  flags: bigint
}

export const debugRegsLayout: Layout<DebugRegs> = struct<DebugRegs>({
  db: array(u64, 4),
  dr6: u64,
  dr7: u64,
  flags: u64,
  _pad: reserved(72),
})

/** An extended control register (struct kvm_xcr). */
export interface Xcr {
  /** 0 is XCR0. */
  xcr: number
  value: bigint
}

export const xcrLayout: Layout<Xcr> = struct<Xcr>({ xcr: u32, _pad: reserved(4), value: u64 })

/** What is pending or in progress: exceptions, interrupts, NMI, SMI (struct kvm_vcpu_events). */
export interface VcpuEvents {
  exception: { injected: boolean; nr: number; hasErrorCode: boolean; pending: boolean; errorCode: number }
  interrupt: { injected: boolean; nr: number; soft: boolean; shadow: number }
  nmi: { injected: boolean; pending: number; masked: boolean }
  sipiVector: number
  /** KVM_VCPUEVENT_VALID_*: which of the optional fields count. */
  flags: number
  smi: { smm: boolean; pending: boolean; smmInsideNmi: boolean; latchedInit: boolean }
  tripleFaultPending: boolean
  exceptionHasPayload: boolean
  exceptionPayload: bigint
}

export const vcpuEventsLayout: Layout<VcpuEvents> = struct<VcpuEvents>({
  exception: struct<VcpuEvents["exception"]>({
    injected: flag,
    nr: u8,
    hasErrorCode: flag,
    pending: flag,
    errorCode: u32,
  }),
  interrupt: struct<VcpuEvents["interrupt"]>({ injected: flag, nr: u8, soft: flag, shadow: u8 }),
  nmi: struct<VcpuEvents["nmi"]>({ injected: flag, pending: u8, masked: flag, _pad: reserved(1) }),
  sipiVector: u32,
  flags: u32,
  smi: struct<VcpuEvents["smi"]>({ smm: flag, pending: flag, smmInsideNmi: flag, latchedInit: flag }),
  tripleFaultPending: flag,
  _pad: reserved(26),
  exceptionHasPayload: flag,
  exceptionPayload: u64,
})

/** One CPUID leaf (struct kvm_cpuid_entry2). */
export interface CpuidEntry {
  function: number
  /** Subleaf (ECX); counts if `flags` has 1, KVM_CPUID_FLAG_SIGNIFCANT_INDEX. */
  index: number
  flags: number
  eax: number
  ebx: number
  ecx: number
  edx: number
}

export const cpuidEntryLayout: Layout<CpuidEntry> = struct<CpuidEntry>({
  function: u32,
  index: u32,
  flags: u32,
  eax: u32,
  ebx: u32,
  ecx: u32,
  edx: u32,
  _pad: reserved(12),
})

/** A model specific register (struct kvm_msr_entry). */
export interface Msr {
  index: number
  value: bigint
}

export const msrLayout: Layout<Msr> = struct<Msr>({ index: u32, _pad: reserved(4), value: u64 })

/** Result of a walk of the guest's page tables (struct kvm_translation). */
export interface Translation {
  linearAddress: bigint
  physicalAddress: bigint
  valid: boolean
  writeable: boolean
  usermode: boolean
}

export const translationLayout: Layout<Translation> = struct<Translation>({
  linearAddress: u64,
  physicalAddress: u64,
  valid: flag,
  writeable: flag,
  usermode: flag,
  _pad: reserved(5),
})

/** struct kvm_guest_debug. */
export interface GuestDebug {
  /** KVM_GUESTDBG_*. */
  control: number
  /** DR0 to DR7, for hardware breakpoints. */
  debugregs: readonly bigint[]
}

export const guestDebugLayout: Layout<GuestDebug> = struct<GuestDebug>({
  control: u32,
  _pad: reserved(4),
  debugregs: array(u64, 8),
})
