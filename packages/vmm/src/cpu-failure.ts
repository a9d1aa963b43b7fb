import type { GuestMemory } from "@virtkit/interface"
import type { Regs, Sregs, Vcpu, VcpuExit } from "@virtkit/kvm"
import type { CpuFailure } from "./exit.js"

const CODE_BYTES = 16

type Failure = Extract<
  VcpuExit,
  { reason: "internal-error" | "fail-entry" | "run-failed" | "unknown" | "memory-fault" }
>

/** Everything about a vCPU with which KVM could not go on that helps to find out why. The vCPU is stopped by `exit`. */
export function cpuFailure(vcpu: Vcpu, exit: Failure, memory: GuestMemory): CpuFailure {
  const regs = vcpu.getRegs()
  const sregs = vcpu.getSregs()
  return {
    reason: exit.reason === "fail-entry" ? "fail-entry" : "internal-error",
    vcpu: vcpu.id,
    detail: detailOf(exit),
    registers: registersOf(regs, sregs),
    code: codeBytes(vcpu, exit, regs, sregs, memory),
    hint: hintOf(exit),
  }
}

function detailOf(exit: Failure): string {
  switch (exit.reason) {
    case "internal-error":
      return `KVM_EXIT_INTERNAL_ERROR, ${exit.suberror} (${exit.suberrorNumber})`
    case "fail-entry":
      return `KVM_EXIT_FAIL_ENTRY, hardware reason ${hex(exit.hardwareReason)}`
    case "run-failed":
      return `KVM_RUN failed with ${exit.code}`
    case "memory-fault":
      return `KVM_EXIT_MEMORY_FAULT at ${hex(exit.guestAddress)}, ${exit.size} bytes`
    case "unknown":
      return `exit reason ${exit.exitReason}, hardware reason ${hex(exit.hardwareReason)}`
  }
}

function hintOf(exit: Failure): string {
  if (exit.reason === "internal-error" && exit.suberror === "emulation") {
    return "the host's KVM cannot execute this instruction; if it is KVM in software, run the guest in the lab (--accel lab)"
  }
  if (exit.reason === "fail-entry") return "the CPU refused the guest's state; see the host's kernel log"
  if (exit.reason === "run-failed") return "see the host's kernel log; it may be out of memory"
  return "see the host's kernel log"
}

function registersOf(regs: Regs, sregs: Sregs): Record<string, string> {
  const general = Object.entries(regs).map(([name, value]) => [name, hex(value as bigint)])
  const { cr0, cr2, cr3, cr4, efer, cs } = sregs
  const system = Object.entries({ cr0, cr2, cr3, cr4, efer, cs: cs.base }).map(([name, value]) => [
    name,
    hex(value),
  ])
  return Object.fromEntries([...general, ...system])
}

/** As KVM reported them, else what memory has at the instruction pointer; empty where neither says. */
function codeBytes(vcpu: Vcpu, exit: Failure, regs: Regs, sregs: Sregs, memory: GuestMemory): string {
  if (exit.reason === "internal-error" && exit.instructionBytes?.length) {
    return Buffer.from(exit.instructionBytes).toString("hex")
  }
  const { valid, physicalAddress } = vcpu.translate(sregs.cs.base + regs.rip)
  const address = Number(physicalAddress)
  if (!valid || !memory.contains(address, CODE_BYTES)) return ""
  const bytes = Buffer.alloc(CODE_BYTES)
  memory.read(address, bytes)
  return bytes.toString("hex")
}

function hex(value: bigint): string {
  return `0x${value.toString(16)}`
}
