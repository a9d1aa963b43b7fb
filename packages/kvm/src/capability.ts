import { type KvmConstant, kvmConstants } from "@virtkit/native"

/** Name of a capability, as in the kernel headers. */
export type Capability = Extract<KvmConstant, `KVM_CAP_${string}`>

/** @internal Numbers stand for capabilities newer than the headers that the addon was built with. */
export function capabilityNumber(capability: Capability | number): number {
  return typeof capability === "number" ? capability : kvmConstants[capability]
}
