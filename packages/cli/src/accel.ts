import type { Accel } from "./run-options.js"

export interface AccelChoice {
  readonly kind: "kvm" | "lab"
  /** Which and why, when it was not the user who chose. */
  readonly note: string | undefined
}

/** What a guest is to run on. "auto" takes /dev/kvm when a probe guest shows that Linux runs on it, else the lab. */
export async function chooseAccel(wanted: Accel): Promise<AccelChoice> {
  if (wanted !== "auto") return { kind: wanted, note: undefined }
  const { probeKvm } = await import("@virtkit/vmm")
  const probe = await probeKvm()
  if (probe.usable) return { kind: "kvm", note: "using /dev/kvm" }
  return { kind: "lab", note: `/dev/kvm cannot run Linux here: ${probe.reason}; using the lab` }
}
