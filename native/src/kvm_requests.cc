#include "kvm_requests.h"

#include <algorithm>
#include <cstring>

#include "kvm_api.h"

namespace virtkit {

namespace {

#define NONE(owners, name) {#name, name, owners, kNone, 0, 0, 0}
#define VALUE(owners, name) {#name, name, owners, kValue, 0, 0, 0}
#define STRUCT(owners, name, type) {#name, name, owners, kStruct, sizeof(type), 0, 0}
#define ARRAY(owners, name, type, entry, count) \
  {#name, name, owners, kArray, sizeof(type), sizeof(entry), offsetof(type, count)}

constexpr KvmRequest kRequests[] = {
    NONE(kSystem, KVM_GET_API_VERSION),
    VALUE(kSystem | kVm, KVM_CHECK_EXTENSION),
    NONE(kSystem, KVM_GET_VCPU_MMAP_SIZE),
    ARRAY(kSystem, KVM_GET_MSR_INDEX_LIST, kvm_msr_list, uint32_t, nmsrs),
    ARRAY(kSystem, KVM_GET_MSR_FEATURE_INDEX_LIST, kvm_msr_list, uint32_t, nmsrs),
    ARRAY(kSystem, KVM_GET_SUPPORTED_CPUID, kvm_cpuid2, kvm_cpuid_entry2, nent),
    ARRAY(kSystem, KVM_GET_EMULATED_CPUID, kvm_cpuid2, kvm_cpuid_entry2, nent),
    ARRAY(kSystem | kVcpu, KVM_GET_SUPPORTED_HV_CPUID, kvm_cpuid2, kvm_cpuid_entry2, nent),
    ARRAY(kSystem | kVcpu, KVM_GET_MSRS, kvm_msrs, kvm_msr_entry, nmsrs),
    STRUCT(kSystem, KVM_X86_GET_MCE_CAP_SUPPORTED, uint64_t),

    VALUE(kVm, KVM_SET_TSS_ADDR),
    STRUCT(kVm, KVM_SET_IDENTITY_MAP_ADDR, uint64_t),
    VALUE(kVm, KVM_SET_NR_MMU_PAGES),
    NONE(kVm, KVM_GET_NR_MMU_PAGES),
    VALUE(kVm, KVM_SET_BOOT_CPU_ID),
    NONE(kVm, KVM_CREATE_IRQCHIP),
    STRUCT(kVm, KVM_GET_IRQCHIP, kvm_irqchip),
    STRUCT(kVm, KVM_SET_IRQCHIP, kvm_irqchip),
    STRUCT(kVm, KVM_IRQ_LINE, kvm_irq_level),
    STRUCT(kVm, KVM_IRQ_LINE_STATUS, kvm_irq_level),
    STRUCT(kVm, KVM_SIGNAL_MSI, kvm_msi),
    ARRAY(kVm, KVM_SET_GSI_ROUTING, kvm_irq_routing, kvm_irq_routing_entry, nr),
    STRUCT(kVm, KVM_IRQFD, kvm_irqfd),
    STRUCT(kVm, KVM_IOEVENTFD, kvm_ioeventfd),
    STRUCT(kVm, KVM_CREATE_PIT2, kvm_pit_config),
    STRUCT(kVm, KVM_GET_PIT2, kvm_pit_state2),
    STRUCT(kVm, KVM_SET_PIT2, kvm_pit_state2),
    STRUCT(kVm, KVM_REINJECT_CONTROL, kvm_reinject_control),
    STRUCT(kVm, KVM_GET_CLOCK, kvm_clock_data),
    STRUCT(kVm, KVM_SET_CLOCK, kvm_clock_data),
    STRUCT(kVm, KVM_REGISTER_COALESCED_MMIO, kvm_coalesced_mmio_zone),
    STRUCT(kVm, KVM_UNREGISTER_COALESCED_MMIO, kvm_coalesced_mmio_zone),
    ARRAY(kVm, KVM_SET_PMU_EVENT_FILTER, kvm_pmu_event_filter, uint64_t, nevents),
    NONE(kVm, KVM_RESET_DIRTY_RINGS),

    STRUCT(kVm | kVcpu, KVM_ENABLE_CAP, kvm_enable_cap),
    NONE(kVm | kVcpu, KVM_GET_TSC_KHZ),
    VALUE(kVm | kVcpu, KVM_SET_TSC_KHZ),

    STRUCT(kVcpu, KVM_GET_REGS, kvm_regs),
    STRUCT(kVcpu, KVM_SET_REGS, kvm_regs),
    STRUCT(kVcpu, KVM_GET_SREGS, kvm_sregs),
    STRUCT(kVcpu, KVM_SET_SREGS, kvm_sregs),
    STRUCT(kVcpu, KVM_GET_SREGS2, kvm_sregs2),
    STRUCT(kVcpu, KVM_SET_SREGS2, kvm_sregs2),
    STRUCT(kVcpu, KVM_GET_FPU, kvm_fpu),
    STRUCT(kVcpu, KVM_SET_FPU, kvm_fpu),
    {"KVM_GET_XSAVE", KVM_GET_XSAVE, kVcpu, kStruct, 4096, 0, 0},
    {"KVM_GET_XSAVE2", KVM_GET_XSAVE2, kVcpu, kOpaque, 0, 0, 0},
    {"KVM_SET_XSAVE", KVM_SET_XSAVE, kVcpu, kOpaque, 0, 0, 0},
    STRUCT(kVcpu, KVM_GET_XCRS, kvm_xcrs),
    STRUCT(kVcpu, KVM_SET_XCRS, kvm_xcrs),
    STRUCT(kVcpu, KVM_GET_DEBUGREGS, kvm_debugregs),
    STRUCT(kVcpu, KVM_SET_DEBUGREGS, kvm_debugregs),
    ARRAY(kVcpu, KVM_SET_MSRS, kvm_msrs, kvm_msr_entry, nmsrs),
    ARRAY(kVcpu, KVM_GET_CPUID2, kvm_cpuid2, kvm_cpuid_entry2, nent),
    ARRAY(kVcpu, KVM_SET_CPUID2, kvm_cpuid2, kvm_cpuid_entry2, nent),
    STRUCT(kVcpu, KVM_GET_LAPIC, kvm_lapic_state),
    STRUCT(kVcpu, KVM_SET_LAPIC, kvm_lapic_state),
    STRUCT(kVcpu, KVM_GET_MP_STATE, kvm_mp_state),
    STRUCT(kVcpu, KVM_SET_MP_STATE, kvm_mp_state),
    STRUCT(kVcpu, KVM_GET_VCPU_EVENTS, kvm_vcpu_events),
    STRUCT(kVcpu, KVM_SET_VCPU_EVENTS, kvm_vcpu_events),
    STRUCT(kVcpu, KVM_SET_GUEST_DEBUG, kvm_guest_debug),
    STRUCT(kVcpu, KVM_TRANSLATE, kvm_translation),
    STRUCT(kVcpu, KVM_INTERRUPT, kvm_interrupt),
    STRUCT(kVcpu, KVM_TPR_ACCESS_REPORTING, kvm_tpr_access_ctl),
    STRUCT(kVcpu, KVM_SET_VAPIC_ADDR, kvm_vapic_addr),
    STRUCT(kVcpu, KVM_X86_SETUP_MCE, uint64_t),
    STRUCT(kVcpu, KVM_X86_SET_MCE, kvm_x86_mce),
    {"KVM_GET_NESTED_STATE", KVM_GET_NESTED_STATE, kVcpu, kSized, sizeof(kvm_nested_state), 0,
     offsetof(kvm_nested_state, size)},
    {"KVM_SET_NESTED_STATE", KVM_SET_NESTED_STATE, kVcpu, kSized, sizeof(kvm_nested_state), 0,
     offsetof(kvm_nested_state, size)},
    NONE(kVcpu, KVM_NMI),
    NONE(kVcpu, KVM_SMI),
    NONE(kVcpu, KVM_KVMCLOCK_CTRL),
};

uint32_t CountAt(const uint8_t* data, uint32_t offset) {
  uint32_t count;
  memcpy(&count, data + offset, sizeof count);
  return count;
}

}  // namespace

const KvmRequest* FindKvmRequest(std::string_view name, Owner owner) {
  for (const KvmRequest& request : kRequests) {
    if (name == request.name && (request.owners & owner) != 0) return &request;
  }
  return nullptr;
}

BufferSize NeededBytes(const KvmRequest& request, const uint8_t* data, size_t size, size_t opaque_size) {
  size_t needed = request.header;
  switch (request.kind) {
    case kStruct:
      return {needed, true};
    case kArray:
      if (size >= needed) needed += size_t{CountAt(data, request.count_offset)} * request.entry;
      break;
    case kSized:
      if (size >= needed) needed = std::max<size_t>(needed, CountAt(data, request.count_offset));
      break;
    case kOpaque:
      needed = opaque_size;
      break;
    default:
      break;
  }
  return {needed, false};
}

}  // namespace virtkit
