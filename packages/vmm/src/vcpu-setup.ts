import type { CpuSetup } from "@virtkit/boot"
import { ConfigError } from "@virtkit/interface"
import type { CpuidEntry, Kvm, Vm as KvmVm, Msr, Vcpu } from "@virtkit/kvm"
import { applyModel } from "./cpu-apply.js"
import { apicIds } from "./cpu-topology.js"
import { vcpuCpuid } from "./cpuid.js"
import type { VmConfig } from "./options.js"

const MSR_IA32_MISC_ENABLE = 0x1a0
const MISC_ENABLE_FAST_STRING = 1n
const MSR_MTRR_DEF_TYPE = 0x2ff
/** MTRRs enabled, everything that no range names is write-back: without firmware nobody else says so. */
const MTRR_ENABLED_WRITE_BACK = 0x806n

const APIC_LVT_LINT0 = 0x350
const APIC_LVT_LINT1 = 0x360
const DELIVERY_MODE_MASK = 0x700
const DELIVERY_MODE_NMI = 0x400
const DELIVERY_MODE_EXTINT = 0x700

/** KVM_MSR_EXIT_REASON_FILTER. */
const EXIT_FILTERED = 4

/** The vCPUs with the state that firmware would have left; the first one starts the kernel, the others wait for it. */
export function createVcpus(kvm: Kvm, vm: KvmVm, config: VmConfig): Vcpu[] {
  const { cpus: topology, cpu: model } = config
  const most = kvm.checkExtension("KVM_CAP_MAX_VCPUS")
  if (topology.count > most)
    throw new ConfigError(`cpus: ${topology.count} are more than this KVM can have, ${most}`)
  filterMsrs(vm, config)
  const shown = modelCpuid(kvm, model)
  const tscDeadline = kvm.checkExtension("KVM_CAP_TSC_DEADLINE_TIMER") > 0
  return apicIds(topology).map((apicId) => {
    const vcpu = vm.createVcpu(apicId)
    vcpu.setCpuid(vcpuCpuid(shown, { apicId, topology, tscDeadline }))
    // KVM stops at the first MSR that it does not have; one call each, so that the other is set all the same.
    vcpu.setMsrs([{ index: MSR_IA32_MISC_ENABLE, value: MISC_ENABLE_FAST_STRING }])
    vcpu.setMsrs([{ index: MSR_MTRR_DEF_TYPE, value: MTRR_ENABLED_WRITE_BACK }])
    if (model !== undefined) setModelMsrs(vcpu, model.name, model.msrs)
    vcpu.setLapic(wiredLapic(vcpu.getLapic()))
    return vcpu
  })
}

/** What the model shows on this host, or what KVM supports; of no vCPU yet. */
export function modelCpuid(kvm: Kvm, model: VmConfig["cpu"]): CpuidEntry[] {
  const supported = kvm.supportedCpuid()
  return model === undefined ? supported : applyModel(supported, model)
}

function setModelMsrs(vcpu: Vcpu, model: string, msrs: readonly Msr[]): void {
  const done = msrs.length === 0 ? 0 : vcpu.setMsrs(msrs)
  const refused = msrs[done]
  if (refused === undefined) return
  const [index, value] = [refused.index.toString(16), refused.value.toString(16)]
  throw new ConfigError(`cpu: model "${model}" sets MSR 0x${index} to 0x${value}, which this KVM refuses`)
}

/** Without a callback KVM itself answers a denied access with #GP, and nobody hears of it. */
function filterMsrs(vm: KvmVm, { msrFilter, onDeniedMsr }: VmConfig): void {
  if (msrFilter === undefined) return
  if (vm.checkExtension("KVM_CAP_X86_MSR_FILTER") === 0)
    throw new ConfigError("msrFilter: this KVM has no MSR filters (Linux 5.10 has)")
  if (onDeniedMsr !== undefined) vm.setUserspaceMsrReasons(EXIT_FILTERED)
  vm.setMsrFilter(msrFilter.defaultAccess, msrFilter.ranges)
}

/** LINT0 takes the 8259's interrupts and LINT1 is the NMI, as on every PC (Intel MultiProcessor Specification 3.6.2.1). */
function wiredLapic(page: Uint8Array): Uint8Array {
  const view = new DataView(page.buffer, page.byteOffset, page.byteLength)
  const wire = (register: number, mode: number) => {
    view.setUint32(register, (view.getUint32(register, true) & ~DELIVERY_MODE_MASK) | mode, true)
  }
  wire(APIC_LVT_LINT0, DELIVERY_MODE_EXTINT)
  wire(APIC_LVT_LINT1, DELIVERY_MODE_NMI)
  return page
}

/** Points the boot CPU at the kernel. */
export function setBootState(vcpu: Vcpu, setup: CpuSetup): void {
  vcpu.setSregs(setup.applySregs(vcpu.getSregs()))
  vcpu.setRegs(setup.regs)
}

/** Before vCPUs go on after a pause: their guest's watchdogs shall not take it for a lockup. */
export function tellPaused(vcpus: readonly Vcpu[]): void {
  for (const vcpu of vcpus) {
    try {
      vcpu.notifyPaused()
    } catch (error) {
      // This vCPU has no kvm-clock (yet) to be told by.
      if ((error as { code?: unknown }).code !== "EINVAL") throw error
    }
  }
}
