#include "kvm_vm.h"

#include <sys/ioctl.h>
#include <sys/mman.h>

#include <new>

#include "kvm_api.h"
#include "kvm_system.h"

namespace virtkit {

PortTable::PortTable() {
  void* memory = mmap(nullptr, kPorts * sizeof(uint16_t), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  entries_ = static_cast<uint16_t*>(memory);
}

PortTable::~PortTable() { munmap(entries_, kPorts * sizeof(uint16_t)); }

void KvmVm::Close(const Napi::CallbackInfo& info) {
  Base::Close(info);
  ports_.reset();
}

KvmVm::KvmVm(const Napi::CallbackInfo& info) : Base(info) {
  Napi::Env env = info.Env();
  KvmSystem* system = KvmSystem::From(info[0]);
  int fd;
  do {  // KVM_CREATE_VM is interruptible by the signals of a process under a profiler.
    fd = ::ioctl(system->fd(), KVM_CREATE_VM, IntegerOf(info[1], "KVM_CREATE_VM"));
  } while (fd < 0 && errno == EINTR);
  if (fd < 0) ThrowErrno(env, errno, "KVM_CREATE_VM");
  fd_.Reset(fd);
  int size = ::ioctl(system->fd(), KVM_GET_VCPU_MMAP_SIZE, 0);
  if (size < 0) ThrowErrno(env, errno, "KVM_GET_VCPU_MMAP_SIZE");
  run_size_ = static_cast<size_t>(size);
  int xsave = ::ioctl(fd, KVM_CHECK_EXTENSION, KVM_CAP_XSAVE2);
  if (xsave > 0) xsave_size_ = static_cast<size_t>(xsave);
}

// (slot, flags, guestAddress, size, hostAddress)
void KvmVm::SetMemorySlot(const Napi::CallbackInfo& info) {
  CheckOpen(info.Env());
  kvm_userspace_memory_region region{};
  region.slot = static_cast<uint32_t>(IntegerOf(info[0], "slot"));
  region.flags = static_cast<uint32_t>(IntegerOf(info[1], "flags"));
  region.guest_phys_addr = IntegerOf(info[2], "guestAddress");
  region.memory_size = IntegerOf(info[3], "size");
  region.userspace_addr = IntegerOf(info[4], "hostAddress");
  if (::ioctl(fd(), KVM_SET_USER_MEMORY_REGION, &region) < 0)
    ThrowErrno(info.Env(), errno, "KVM_SET_USER_MEMORY_REGION");
  if (region.memory_size == 0)
    slot_pages_.erase(region.slot);
  else
    slot_pages_[region.slot] = region.memory_size / 4096;
}

// (slot, bitmap: view)
void KvmVm::GetDirtyLog(const Napi::CallbackInfo& info) {
  CheckOpen(info.Env());
  kvm_dirty_log log{};
  log.slot = static_cast<uint32_t>(IntegerOf(info[0], "slot"));
  Bytes bitmap = BytesOf(info[1], "bitmap");
  auto pages = slot_pages_.find(log.slot);
  if (pages == slot_pages_.end()) ThrowErrno(info.Env(), ENOENT, "KVM_GET_DIRTY_LOG", "no such slot");
  if (bitmap.size < (pages->second + 63) / 64 * 8) ThrowRange(info.Env(), "KVM_GET_DIRTY_LOG: the bitmap is too short");
  log.dirty_bitmap = bitmap.data;
  if (::ioctl(fd(), KVM_GET_DIRTY_LOG, &log) < 0) ThrowErrno(info.Env(), errno, "KVM_GET_DIRTY_LOG");
}

// (slot, firstPage, pages, bitmap: view)
void KvmVm::ClearDirtyLog(const Napi::CallbackInfo& info) {
  CheckOpen(info.Env());
  kvm_clear_dirty_log log{};
  log.slot = static_cast<uint32_t>(IntegerOf(info[0], "slot"));
  log.first_page = IntegerOf(info[1], "firstPage");
  log.num_pages = static_cast<uint32_t>(IntegerOf(info[2], "pages"));
  Bytes bitmap = BytesOf(info[3], "bitmap");
  if (bitmap.size < (uint64_t{log.num_pages} + 63) / 64 * 8)
    ThrowRange(info.Env(), "KVM_CLEAR_DIRTY_LOG: the bitmap is too short");
  log.dirty_bitmap = bitmap.data;
  if (::ioctl(fd(), KVM_CLEAR_DIRTY_LOG, &log) < 0) ThrowErrno(info.Env(), errno, "KVM_CLEAR_DIRTY_LOG");
}

// (flags, ranges: {flags, base, count, bitmap: view}[])
void KvmVm::SetMsrFilter(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  CheckOpen(env);
  kvm_msr_filter filter{};
  filter.flags = static_cast<uint32_t>(IntegerOf(info[0], "flags"));
  if (!info[1].IsArray()) ThrowType(env, "the ranges must be an array");
  Napi::Array ranges = info[1].As<Napi::Array>();
  if (ranges.Length() > KVM_MSR_FILTER_MAX_RANGES) ThrowRange(env, "KVM_X86_SET_MSR_FILTER takes at most 16 ranges");
  for (uint32_t i = 0; i < ranges.Length(); i++) {
    Napi::Value item = ranges[i];
    if (!item.IsObject()) ThrowType(env, "a range must be an object");
    Napi::Object range = item.As<Napi::Object>();
    kvm_msr_filter_range& out = filter.ranges[i];
    out.flags = static_cast<uint32_t>(IntegerOf(range.Get("flags"), "flags"));
    out.base = static_cast<uint32_t>(IntegerOf(range.Get("base"), "base"));
    out.nmsrs = static_cast<uint32_t>(IntegerOf(range.Get("count"), "count"));
    Bytes bitmap = BytesOf(range.Get("bitmap"), "bitmap");
    if (bitmap.size < (uint64_t{out.nmsrs} + 7) / 8)
      ThrowRange(env, "KVM_X86_SET_MSR_FILTER: the bitmap is too short");
    out.bitmap = bitmap.data;
  }
  if (::ioctl(fd(), KVM_X86_SET_MSR_FILTER, &filter) < 0) ThrowErrno(env, errno, "KVM_X86_SET_MSR_FILTER");
}

// (port, length, ignoreWrites: boolean, constant: byte or -1)
void KvmVm::SetPort(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  CheckOpen(env);
  uint64_t port = IntegerOf(info[0], "port");
  uint64_t length = IntegerOf(info[1], "length");
  if (port > 0xffff || length == 0 || length > 0x10000 - port) ThrowRange(env, "ports are 0 to 0xffff");
  int constant = info[3].As<Napi::Number>().Int32Value();
  uint16_t entry = constant < 0 ? 0 : static_cast<uint16_t>(PortTable::kConstant | (constant & 0xff));
  if (info[2].ToBoolean()) entry |= PortTable::kIgnoreWrites;
  for (uint64_t i = 0; i < length; i++) ports_->Set(static_cast<uint32_t>(port + i), entry);
}

void KvmVm::Init(Napi::Env env, Napi::Object exports) {
  exports.Set(kName, DefineClass(env, kName,
                                 Members({InstanceMethod("setMemorySlot", &KvmVm::SetMemorySlot),
                                          InstanceMethod("getDirtyLog", &KvmVm::GetDirtyLog),
                                          InstanceMethod("clearDirtyLog", &KvmVm::ClearDirtyLog),
                                          InstanceMethod("setMsrFilter", &KvmVm::SetMsrFilter),
                                          InstanceMethod("setPort", &KvmVm::SetPort)})));
}

void InitKvmVm(Napi::Env env, Napi::Object exports) { KvmVm::Init(env, exports); }

}  // namespace virtkit
