/** Why a VM came to its end. `vm.exited` resolves with it and never rejects. */
export type VmExit =
  | { readonly reason: "poweroff" }
  /** The guest reset itself, which a virtkit VM takes as its end. */
  | { readonly reason: "reset" }
  /** `console`: the last lines that the guest wrote, oldest first. */
  | { readonly reason: "panic"; readonly console: readonly string[] }
  /** `vcpu`: the APIC id of the one that crashed. */
  | { readonly reason: "triple-fault"; readonly vcpu: number; readonly console: readonly string[] }
  | CpuFailure
  /** `kill()`, `close()` or the AbortSignal ended it. */
  | { readonly reason: "killed" }
  /** Something on the host side failed: a device model threw, or a thread was refused. */
  | { readonly reason: "host-error"; readonly error: Error }

/** KVM could not go on with a vCPU. */
export interface CpuFailure {
  readonly reason: "internal-error" | "fail-entry"
  /** Its APIC id. */
  readonly vcpu: number
  /** What KVM said, such as "emulation failure". */
  readonly detail: string
  /** Register names and values in hexadecimal, as far as they could be read. */
  readonly registers: Readonly<Record<string, string>>
  /** Instruction bytes at the instruction pointer, in hexadecimal; empty when unknown. */
  readonly code: string
  /** What that usually means and what to do. */
  readonly hint: string
}

/** The end as one line for people. */
export function describeExit(exit: VmExit): string {
  switch (exit.reason) {
    case "poweroff":
      return "the guest powered off"
    case "reset":
      return "the guest reset itself"
    case "panic":
      return "the guest kernel panicked"
    case "triple-fault":
      return `the guest crashed: triple fault on vCPU ${exit.vcpu}`
    case "internal-error":
    case "fail-entry":
      return `KVM could not go on with vCPU ${exit.vcpu}: ${exit.detail}; ${exit.hint}`
    case "killed":
      return "the VM was killed"
    case "host-error":
      return `the VM ended by an error on the host: ${exit.error.message}`
  }
}

/** Whether the guest ended on its own accord and in good health. */
export function isCleanExit(exit: VmExit): boolean {
  return exit.reason === "poweroff" || exit.reason === "reset"
}
