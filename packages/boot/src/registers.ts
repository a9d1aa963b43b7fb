/** General-purpose registers, named and typed as in KVM's struct kvm_regs. */
export interface GeneralRegisters {
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

/** struct kvm_segment. `limit` is in bytes whatever `g` says. */
export interface Segment {
  base: bigint
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

/** struct kvm_dtable. */
export interface DescriptorTable {
  base: bigint
  limit: number
}

/** The part of KVM's struct kvm_sregs that a boot protocol defines. */
export interface SpecialRegisters {
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
  cr3: bigint
  cr4: bigint
  efer: bigint
}

/** How the boot CPU starts. The other CPUs keep the state that KVM gives them, until the guest wakes them. */
export interface CpuSetup {
  readonly regs: GeneralRegisters
  /** A copy of `sregs`, as KVM_GET_SREGS gave it, with the fields that the boot protocol defines set. */
  applySregs<T extends SpecialRegisters>(sregs: T): T
}

/** All registers zero but the given ones. */
export function generalRegisters(values: Partial<GeneralRegisters>): GeneralRegisters {
  return {
    rax: 0n,
    rbx: 0n,
    rcx: 0n,
    rdx: 0n,
    rsi: 0n,
    rdi: 0n,
    rsp: 0n,
    rbp: 0n,
    r8: 0n,
    r9: 0n,
    r10: 0n,
    r11: 0n,
    r12: 0n,
    r13: 0n,
    r14: 0n,
    r15: 0n,
    rip: 0n,
    rflags: 0x2n,
    ...values,
  }
}
