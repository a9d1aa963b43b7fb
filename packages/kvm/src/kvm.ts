import { KvmSystem, kvmConstants } from "@virtkit/native"
import { type Capability, capabilityNumber } from "./capability.js"
import { converting } from "./errors.js"
import { Handle } from "./handle.js"
import { decodeList, encodeList, type Layout, u32 } from "./layout.js"
import { type CpuidEntry, cpuidEntryLayout, type Msr, msrLayout } from "./structs/registers.js"
import { Vm } from "./vm.js"

/** The system-wide handle: /dev/kvm. */
export class Kvm extends Handle<KvmSystem> {
  /** Opens /dev/kvm. Throws SystemError whose message says what to do about it. */
  static open(path = "/dev/kvm"): Kvm {
    return new Kvm(converting(() => new KvmSystem(path)))
  }

  /** KVM_GET_API_VERSION: 12 since Linux 2.6.22. */
  apiVersion(): number {
    return this.ioctl("KVM_GET_API_VERSION")
  }

  /** KVM_CHECK_EXTENSION: 0 if absent, else 1 or a number that the capability defines. */
  checkExtension(capability: Capability | number): number {
    return this.ioctl("KVM_CHECK_EXTENSION", capabilityNumber(capability))
  }

  /** Every capability that this KVM has, with its value. */
  capabilities(): Partial<Record<Capability, number>> {
    const present: Partial<Record<Capability, number>> = {}
    for (const name of Object.keys(kvmConstants)) {
      if (!name.startsWith("KVM_CAP_")) continue
      const value = this.checkExtension(name as Capability)
      if (value !== 0) present[name as Capability] = value
    }
    return present
  }

  /** KVM_CREATE_VM. `machineType` is 0 for an ordinary VM. */
  createVm(options: { machineType?: number } = {}): Vm {
    this.assertOpen()
    return Vm.create(this, options.machineType ?? 0)
  }

  /** KVM_GET_SUPPORTED_CPUID: the leaves that a guest can be given. */
  supportedCpuid(): CpuidEntry[] {
    return this.#list("KVM_GET_SUPPORTED_CPUID", 8, cpuidEntryLayout)
  }

  /** KVM_GET_EMULATED_CPUID: features that KVM emulates, slowly. */
  emulatedCpuid(): CpuidEntry[] {
    return this.#list("KVM_GET_EMULATED_CPUID", 8, cpuidEntryLayout)
  }

  /** KVM_GET_SUPPORTED_HV_CPUID: the leaves of the Hyper-V interface. */
  supportedHypervCpuid(): CpuidEntry[] {
    return this.#list("KVM_GET_SUPPORTED_HV_CPUID", 8, cpuidEntryLayout)
  }

  /** KVM_GET_MSR_INDEX_LIST: what is to be saved and restored. */
  msrIndexList(): number[] {
    return this.#list("KVM_GET_MSR_INDEX_LIST", 4, u32)
  }

  /** KVM_GET_MSR_FEATURE_INDEX_LIST: MSRs that tell the host's features. */
  featureMsrIndexList(): number[] {
    return this.#list("KVM_GET_MSR_FEATURE_INDEX_LIST", 4, u32)
  }

  /** Values of feature MSRs; ends before the first one that this KVM lacks. */
  featureMsrs(indices: readonly number[]): Msr[] {
    const view = encodeList(
      8,
      msrLayout,
      indices.map((index) => ({ index, value: 0n })),
    )
    const count = this.ioctl("KVM_GET_MSRS", view)
    return decodeList(8, msrLayout, view).slice(0, count)
  }

  /** Lists whose length only the kernel knows: E2BIG means that the buffer was too small. */
  #list<T>(request: string, headerSize: number, element: Layout<T>): T[] {
    for (let room = 64; ; room *= 2) {
      const view = encodeList(headerSize, element, [], room)
      try {
        this.ioctl(request, view)
        return decodeList(headerSize, element, view)
      } catch (error) {
        if (room >= 4096 || (error as { code?: unknown }).code !== "E2BIG") throw error
      }
    }
  }
}
