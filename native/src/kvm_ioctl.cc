#include "kvm_ioctl.h"

#include <sys/ioctl.h>

#include <algorithm>
#include <cstring>
#include <string>

#include "errors.h"
#include "kvm_api.h"
#include "kvm_fd.h"

namespace virtkit {

namespace {

enum Kind : uint8_t {
  kNone,    // no argument
  kValue,   // an integer
  kStruct,  // a buffer of exactly `header` bytes
  kArray,   // `header` bytes that hold a 32-bit count at `count_offset`, and that many entries of `entry` bytes
  kSized,   // a buffer whose own length is the 32-bit value at `count_offset`, at least `header`
  kOpaque,  // a buffer of at least the size that the kernel reported for this handle (XSAVE)
};

struct Request {
  const char* name;
  unsigned long number;
  uint8_t owners;
  Kind kind;
  uint32_t header;
  uint32_t entry;
  uint32_t count_offset;
};

#define NONE(owners, name) {#name, name, owners, kNone, 0, 0, 0}
#define VALUE(owners, name) {#name, name, owners, kValue, 0, 0, 0}
#define STRUCT(owners, name, type) {#name, name, owners, kStruct, sizeof(type), 0, 0}
#define ARRAY(owners, name, type, entry, count) \
  {#name, name, owners, kArray, sizeof(type), sizeof(entry), offsetof(type, count)}

constexpr Request kRequests[] = {
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

const Request& Find(Napi::Env env, Napi::Value name, Owner owner) {
  if (!name.IsString()) ThrowType(env, "the request must be a name such as KVM_GET_REGS");
  std::string text = name.As<Napi::String>();
  for (const Request& request : kRequests) {
    if (text == request.name && (request.owners & owner) != 0) return request;
  }
  ThrowType(env, "this handle takes no request " + text);
}

uint32_t CountAt(const Bytes& bytes, uint32_t offset) {
  uint32_t count;
  memcpy(&count, bytes.data + offset, sizeof count);
  return count;
}

void CheckSize(Napi::Env env, const Request& request, const Bytes& bytes, size_t opaque_size) {
  size_t needed = request.header;
  bool exact = false;
  switch (request.kind) {
    case kStruct:
      exact = true;
      break;
    case kArray:
      if (bytes.size >= needed) needed += size_t{CountAt(bytes, request.count_offset)} * request.entry;
      break;
    case kSized:
      if (bytes.size >= needed) needed = std::max<size_t>(needed, CountAt(bytes, request.count_offset));
      break;
    case kOpaque:
      needed = opaque_size;
      break;
    default:
      break;
  }
  if (exact ? bytes.size != needed : bytes.size < needed) {
    ThrowRange(env, std::string(request.name) + " needs a buffer of " + (exact ? "" : "at least ") +
                        std::to_string(needed) + " bytes, not " + std::to_string(bytes.size));
  }
}

}  // namespace

Napi::Value TableIoctl(const Napi::CallbackInfo& info, int fd, Owner owner, size_t opaque_size) {
  Napi::Env env = info.Env();
  const Request& request = Find(env, info[0], owner);
  unsigned long argument = 0;
  if (request.kind == kValue) {
    argument = IntegerOf(info[1], request.name);
  } else if (request.kind != kNone) {
    Bytes bytes = BytesOf(info[1], request.name);
    CheckSize(env, request, bytes, opaque_size);
    argument = reinterpret_cast<unsigned long>(bytes.data);
  }
  int result = ::ioctl(fd, request.number, argument);
  if (result < 0) ThrowErrno(env, errno, request.name);
  return Napi::Number::New(env, result);
}

Napi::Value DeviceAttribute(const Napi::CallbackInfo& info, int fd) {
  Napi::Env env = info.Env();
  std::string operation = info[0].ToString();
  kvm_device_attr attribute{};
  attribute.group = static_cast<uint32_t>(IntegerOf(info[1], "group"));
  attribute.attr = IntegerOf(info[2], "attribute");
  if (!info[3].IsUndefined()) {
    Bytes value = BytesOf(info[3], "value");
    if (value.size < sizeof(uint64_t)) ThrowRange(env, "an attribute's value needs a buffer of at least 8 bytes");
    attribute.addr = reinterpret_cast<uint64_t>(value.data);
  }
  if (operation == "has") {
    if (::ioctl(fd, KVM_HAS_DEVICE_ATTR, &attribute) == 0) return Napi::Boolean::New(env, true);
    // EPERM, ENOTTY: the handle knows no attributes at all.
    if (errno == ENXIO || errno == EPERM || errno == ENOTTY) return Napi::Boolean::New(env, false);
    ThrowErrno(env, errno, "KVM_HAS_DEVICE_ATTR");
  }
  bool set = operation == "set";
  if (!set && operation != "get") ThrowType(env, "the operation must be has, get or set");
  if (::ioctl(fd, set ? KVM_SET_DEVICE_ATTR : KVM_GET_DEVICE_ATTR, &attribute) < 0)
    ThrowErrno(env, errno, set ? "KVM_SET_DEVICE_ATTR" : "KVM_GET_DEVICE_ATTR");
  return env.Undefined();
}

Bytes BytesOf(Napi::Value value, const char* what) {
  if (value.IsTypedArray()) {
    // napi_get_typedarray_info works for views of a SharedArrayBuffer too; Napi::TypedArray does not.
    napi_typedarray_type type;
    size_t length;
    void* data;
    napi_get_typedarray_info(value.Env(), value, &type, &length, &data, nullptr, nullptr);
    static constexpr size_t kWidth[] = {1, 1, 1, 2, 2, 4, 4, 4, 8, 8, 8};
    return {static_cast<uint8_t*>(data), length * kWidth[type]};
  }
  if (value.IsDataView()) {
    size_t length;
    void* data;
    napi_get_dataview_info(value.Env(), value, &length, &data, nullptr, nullptr);
    return {static_cast<uint8_t*>(data), length};
  }
  if (value.IsArrayBuffer()) {
    Napi::ArrayBuffer buffer = value.As<Napi::ArrayBuffer>();
    return {static_cast<uint8_t*>(buffer.Data()), buffer.ByteLength()};
  }
  ThrowType(value.Env(), std::string(what) + " needs a buffer");
}

uint64_t IntegerOf(Napi::Value value, const char* what) {
  double number = value.IsNumber() ? value.As<Napi::Number>().DoubleValue() : -1;
  if (!(number >= 0 && number <= 9007199254740991.0) || number != static_cast<double>(static_cast<uint64_t>(number)))
    ThrowRange(value.Env(), std::string(what) + " needs an integer from 0 to 2^53 - 1");
  return static_cast<uint64_t>(number);
}

void ThrowState(Napi::Env env, const std::string& message) {
  Napi::Error error = Napi::Error::New(env, message);
  error.Set("code", Napi::String::New(env, "ERR_VIRTKIT_STATE"));
  throw error;
}

}  // namespace virtkit
