// NeededBytes: buffers of any contents for the ioctls that hold their own size. What is accepted is as large as the kernel
// takes it to be.
#include "kvm_requests.h"

#include <cstring>
#include <iterator>
#include <memory>

#include "input.h"

namespace {

constexpr const char* kNames[] = {
    "KVM_GET_MSRS",  "KVM_SET_CPUID2",  "KVM_SET_GSI_ROUTING",      "KVM_SET_NESTED_STATE", "KVM_GET_MSR_INDEX_LIST",
    "KVM_SET_REGS",  "KVM_SET_XSAVE",   "KVM_SET_PMU_EVENT_FILTER", "KVM_SET_TSS_ADDR",     "KVM_RUN",
};
constexpr virtkit::Owner kOwners[] = {virtkit::kSystem, virtkit::kVm, virtkit::kVcpu, virtkit::kDevice};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  Input input(data, size);
  const char* name = kNames[input.U8() % std::size(kNames)];
  const auto* request = virtkit::FindKvmRequest(name, kOwners[input.U8() % std::size(kOwners)]);
  if (request == nullptr) return 0;
  MUST(strcmp(request->name, name) == 0);
  const size_t opaque = input.U16();
  const size_t bytes = input.U8() * (input.U8() % 17u);
  // Of its own, so that a byte beside it is noticed.
  auto buffer = std::make_unique<uint8_t[]>(bytes);
  for (size_t i = 0; i < bytes && input.Left() > 0; i++) buffer[i] = input.U8();
  const auto needed = virtkit::NeededBytes(*request, buffer.get(), bytes, opaque);
  if (!needed.Fits(bytes)) return 0;
  uint32_t count = 0;
  switch (request->kind) {
    case virtkit::kStruct:
      MUST(bytes == request->header);
      break;
    case virtkit::kArray:
      MUST(bytes >= request->header);
      memcpy(&count, buffer.get() + request->count_offset, sizeof count);
      MUST((bytes - request->header) / request->entry >= count);
      break;
    case virtkit::kSized:
      MUST(bytes >= request->header);
      memcpy(&count, buffer.get() + request->count_offset, sizeof count);
      MUST(bytes >= count);
      break;
    case virtkit::kOpaque:
      MUST(bytes >= opaque);
      break;
    default:
      break;
  }
  return 0;
}
