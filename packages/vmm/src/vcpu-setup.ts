import type { CpuSetup } from "@virtkit/boot"
import type { Kvm, Vm as KvmVm, Vcpu } from "@virtkit/kvm"
import { vcpuCpuid } from "./cpuid.js"

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

/** The vCPUs with the state that firmware would have left; the first one starts the kernel, the others wait for it. */
export function createVcpus(kvm: Kvm, vm: KvmVm, cpus: number): Vcpu[] {
  const supported = kvm.supportedCpuid()
  const tscDeadline = kvm.checkExtension("KVM_CAP_TSC_DEADLINE_TIMER") > 0
  return Array.from({ length: cpus }, (_, apicId) => {
    const vcpu = vm.createVcpu(apicId)
    vcpu.setCpuid(vcpuCpuid(supported, { apicId, cpus, tscDeadline }))
    // KVM stops at the first MSR that it does not have; one call each, so that the other is set all the same.
    vcpu.setMsrs([{ index: MSR_IA32_MISC_ENABLE, value: MISC_ENABLE_FAST_STRING }])
    vcpu.setMsrs([{ index: MSR_MTRR_DEF_TYPE, value: MTRR_ENABLED_WRITE_BACK }])
    vcpu.setLapic(wiredLapic(vcpu.getLapic()))
    return vcpu
  })
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
