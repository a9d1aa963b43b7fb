import { getSystemErrorName } from "node:util"
import { kvmConstants } from "@virtkit/native"

/**
 * Why KVM_RUN returned, for all reasons but port and memory accesses, which reach the handler as calls. The union of
 * struct kvm_run, Documentation/virt/kvm/api.rst section 5.
 */
export type VcpuExit =
  /** HLT without in-kernel local APIC. */
  | { reason: "hlt" }
  /** Triple fault, or another shutdown condition. */
  | { reason: "shutdown" }
  /** The processor refused the guest's state. */
  | { reason: "fail-entry"; hardwareReason: bigint; cpu: number }
  /** KVM cannot go on with this guest. */
  | {
      reason: "internal-error"
      suberror: "emulation" | "simultaneous-exceptions" | "delivery" | "unexpected-exit" | "unknown"
      suberrorNumber: number
      data: readonly bigint[]
      /** Of the instruction that could not be emulated, when KVM tells. */
      instructionBytes?: Uint8Array
    }
  | { reason: "system-event"; event: SystemEvent; type: number; data: readonly bigint[] }
  /** Answer with `vcpu.resume({ result })`. */
  | { reason: "hypercall"; number: bigint; args: readonly bigint[]; longMode: boolean }
  | { reason: "debug"; exception: number; pc: bigint; dr6: bigint; dr7: bigint }
  /** KVM_RUN was interrupted by `kick()`; only with `reportInterrupted`. */
  | { reason: "intr" }
  /** Answer with `vcpu.resume({ value })`, or `vcpu.resume({ error: true })` for #GP. */
  | { reason: "rdmsr"; index: number; cause: MsrExitCause }
  /** Answer with `vcpu.resume()`, or `vcpu.resume({ error: true })` for #GP. */
  | { reason: "wrmsr"; index: number; cause: MsrExitCause; value: bigint }
  /** Harvest the dirty rings, `vm.resetDirtyRings()`, resume. */
  | { reason: "dirty-ring-full" }
  | { reason: "memory-fault"; flags: bigint; guestAddress: bigint; size: bigint }
  | { reason: "irq-window-open" }
  | { reason: "set-tpr" }
  | { reason: "tpr-access"; rip: bigint; isWrite: boolean }
  | { reason: "nmi" }
  | { reason: "exception"; exception: number; errorCode: number }
  /** End of interrupt of a level-triggered vector, with a split irqchip. */
  | { reason: "ioapic-eoi"; vector: number }
  | { reason: "ap-reset-hold" }
  | { reason: "bus-lock" }
  | { reason: "notify"; flags: number }
  /** `payload` is the exit union, which the answer may change in place: KVM_EXIT_HYPERV and KVM_EXIT_XEN. */
  | { reason: "hyperv" | "xen"; type: number; payload: Uint8Array }
  /** KVM_RUN failed: the host is out of memory, guest memory is not mapped in this process, ... */
  | { reason: "run-failed"; errno: number; code: string }
  /** A reason that this version does not know, or KVM_EXIT_UNKNOWN. `payload` is a copy of the exit union. */
  | { reason: "unknown"; exitReason: number; hardwareReason: bigint; payload: Uint8Array }

/** KVM_MSR_EXIT_REASON_*: a known MSR refused the access, KVM does not know the MSR, a filter denies it. */
export type MsrExitCause = "invalid" | "unknown" | "filtered"

export type SystemEvent = "shutdown" | "reset" | "crash" | "wakeup" | "suspend" | "sev-terminate" | "unknown"

/** Names of all exit reasons, as in {@link VcpuExit} and the counters. */
export type ExitReason = VcpuExit["reason"] | "io" | "mmio"

const K = kvmConstants

const reasonNames: ReadonlyMap<number, ExitReason> = new Map([
  [K.KVM_EXIT_EXCEPTION, "exception"],
  [K.KVM_EXIT_IO, "io"],
  [K.KVM_EXIT_HYPERCALL, "hypercall"],
  [K.KVM_EXIT_DEBUG, "debug"],
  [K.KVM_EXIT_HLT, "hlt"],
  [K.KVM_EXIT_MMIO, "mmio"],
  [K.KVM_EXIT_IRQ_WINDOW_OPEN, "irq-window-open"],
  [K.KVM_EXIT_SHUTDOWN, "shutdown"],
  [K.KVM_EXIT_FAIL_ENTRY, "fail-entry"],
  [K.KVM_EXIT_INTR, "intr"],
  [K.KVM_EXIT_SET_TPR, "set-tpr"],
  [K.KVM_EXIT_TPR_ACCESS, "tpr-access"],
  [K.KVM_EXIT_NMI, "nmi"],
  [K.KVM_EXIT_INTERNAL_ERROR, "internal-error"],
  [K.KVM_EXIT_SYSTEM_EVENT, "system-event"],
  [K.KVM_EXIT_IOAPIC_EOI, "ioapic-eoi"],
  [K.KVM_EXIT_HYPERV, "hyperv"],
  [K.KVM_EXIT_X86_RDMSR, "rdmsr"],
  [K.KVM_EXIT_X86_WRMSR, "wrmsr"],
  [K.KVM_EXIT_DIRTY_RING_FULL, "dirty-ring-full"],
  [K.KVM_EXIT_AP_RESET_HOLD, "ap-reset-hold"],
  [K.KVM_EXIT_X86_BUS_LOCK, "bus-lock"],
  [K.KVM_EXIT_XEN, "xen"],
  [K.KVM_EXIT_NOTIFY, "notify"],
  [K.KVM_EXIT_MEMORY_FAULT, "memory-fault"],
])

/** The name of a KVM_EXIT_* number. */
export function exitReasonName(number: number): ExitReason {
  return reasonNames.get(number) ?? "unknown"
}

type Suberror = Extract<VcpuExit, { reason: "internal-error" }>["suberror"]

const suberrors: Readonly<Record<number, Suberror>> = {
  [K.KVM_INTERNAL_ERROR_EMULATION]: "emulation",
  [K.KVM_INTERNAL_ERROR_SIMUL_EX]: "simultaneous-exceptions",
  [K.KVM_INTERNAL_ERROR_DELIVERY_EV]: "delivery",
  [K.KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON]: "unexpected-exit",
}

const systemEvents: Readonly<Record<number, SystemEvent>> = {
  [K.KVM_SYSTEM_EVENT_SHUTDOWN]: "shutdown",
  [K.KVM_SYSTEM_EVENT_RESET]: "reset",
  [K.KVM_SYSTEM_EVENT_CRASH]: "crash",
  [K.KVM_SYSTEM_EVENT_WAKEUP]: "wakeup",
  [K.KVM_SYSTEM_EVENT_SUSPEND]: "suspend",
  [K.KVM_SYSTEM_EVENT_SEV_TERM]: "sev-terminate",
}

/**
 * Decodes the exit union `payload` (256 bytes of struct kvm_run from byte 32 on). `error` is KVM_RUN's errno, 0 when it
 * succeeded.
 */
export function decodeExit(number: number, error: number, payload: DataView): VcpuExit {
  const u32 = (offset: number): number => payload.getUint32(offset, true)
  const u64 = (offset: number): bigint => payload.getBigUint64(offset, true)
  const words = (offset: number, count: number): bigint[] =>
    Array.from({ length: Math.min(count, 16) }, (_, i) => u64(offset + i * 8))
  const reason = exitReasonName(number)
  // KVM reports a memory fault together with EFAULT or EHWPOISON; after other failures the union is stale.
  if (error !== 0 && reason !== "memory-fault" && reason !== "intr")
    return { reason: "run-failed", errno: error, code: getSystemErrorName(-error) }
  switch (reason) {
    case "hlt":
    case "shutdown":
    case "intr":
    case "dirty-ring-full":
    case "irq-window-open":
    case "set-tpr":
    case "nmi":
    case "ap-reset-hold":
    case "bus-lock":
      return { reason }
    case "fail-entry":
      return { reason, hardwareReason: u64(0), cpu: u32(8) }
    case "internal-error":
      return internalError(payload)
    case "system-event":
      return { reason, event: systemEvents[u32(0)] ?? "unknown", type: u32(0), data: words(8, u32(4)) }
    case "hypercall":
      return { reason, number: u64(0), args: words(8, 6), longMode: u32(64) !== 0 }
    case "debug":
      return { reason, exception: u32(0), pc: u64(8), dr6: u64(16), dr7: u64(24) }
    case "rdmsr":
      return { reason, cause: msrExitCause(u32(8)), index: u32(12) }
    case "wrmsr":
      return { reason, cause: msrExitCause(u32(8)), index: u32(12), value: u64(16) }
    case "memory-fault":
      return { reason, flags: u64(0), guestAddress: u64(8), size: u64(16) }
    case "tpr-access":
      return { reason, rip: u64(0), isWrite: u32(8) !== 0 }
    case "exception":
      return { reason, exception: u32(0), errorCode: u32(4) }
    case "ioapic-eoi":
      return { reason, vector: payload.getUint8(0) }
    case "notify":
      return { reason, flags: u32(0) }
    case "hyperv":
    case "xen":
      return {
        reason,
        type: u32(0),
        payload: new Uint8Array(payload.buffer, payload.byteOffset, payload.byteLength),
      }
    default:
      return {
        reason: "unknown",
        exitReason: number,
        hardwareReason: u64(0),
        payload: new Uint8Array(payload.buffer, payload.byteOffset, payload.byteLength).slice(),
      }
  }
}

function msrExitCause(number: number): MsrExitCause {
  if (number === K.KVM_MSR_EXIT_REASON_FILTER) return "filtered"
  return number === K.KVM_MSR_EXIT_REASON_INVAL ? "invalid" : "unknown"
}

function internalError(payload: DataView): VcpuExit {
  const suberrorNumber = payload.getUint32(0, true)
  const count = Math.min(payload.getUint32(4, true), 16)
  const data = Array.from({ length: count }, (_, i) => payload.getBigUint64(8 + i * 8, true))
  const suberror = suberrors[suberrorNumber] ?? "unknown"
  const exit = { reason: "internal-error" as const, suberror, suberrorNumber, data }
  // struct emulation_failure: flags, of which bit 0 says that length and 15 bytes of the instruction follow.
  if (suberror !== "emulation" || count < 1 || (data[0]! & 1n) === 0n) return exit
  const length = Math.min(payload.getUint8(16), 15)
  const start = payload.byteOffset + 17
  return { ...exit, instructionBytes: new Uint8Array(payload.buffer, start, length).slice() }
}

/** How an exit is answered, for those reasons that have an answer. */
export interface ExitAnswer {
  /** Of rdmsr. */
  value?: bigint
  /** rdmsr, wrmsr: the guest gets #GP. */
  error?: boolean
  /** Of a hypercall. */
  result?: bigint
}

/** Writes the answer where KVM looks for it. */
export function encodeAnswer(number: number, answer: ExitAnswer, payload: DataView): void {
  const reason = exitReasonName(number)
  if (reason === "rdmsr" || reason === "wrmsr") {
    payload.setUint8(0, answer.error ? 1 : 0)
    if (answer.value !== undefined) payload.setBigUint64(16, answer.value, true)
  } else if (reason === "hypercall") {
    payload.setBigUint64(56, answer.result ?? 0n, true)
  }
}
