#include "vcpu.h"

#include <sys/ioctl.h>
#include <sys/mman.h>

#include <cstring>
#include <system_error>

namespace virtkit {

int Mapping::Map(int fd, size_t size, off_t offset) {
  void* data = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, offset);
  if (data == MAP_FAILED) return errno;
  data_ = static_cast<char*>(data);
  size_ = size;
  return 0;
}

void Mapping::Reset() {
  if (data_ != nullptr) munmap(data_, size_);
  data_ = nullptr;
}

KvmVcpu::KvmVcpu(const Napi::CallbackInfo& info) : Base(info), env_(info.Env()) {
  Napi::Env env = info.Env();
  KvmVm* vm = KvmVm::From(info[0]);
  uint64_t id = IntegerOf(info[1], "id");
  int fd = ::ioctl(vm->fd(), KVM_CREATE_VCPU, id);
  if (fd < 0) ThrowErrno(env, errno, "KVM_CREATE_VCPU");
  fd_.Reset(fd);
  id_ = static_cast<int>(id);
  xsave_size_ = vm->xsave_size();
  ports_ = vm->ports();
  int error = run_.Map(fd, vm->run_size(), 0);
  if (error != 0) ThrowErrno(env, error, "mmap", "of a vCPU's kvm_run");
  // The ring is a page of the same mapping, if this kernel has one.
  size_t page = KVM_COALESCED_MMIO_PAGE_OFFSET * 4096;
  if (run_.size() >= page + 4096) coalesced_ring_ = run_.data() + page;
}

KvmVcpu::~KvmVcpu() { StopThread(); }

void KvmVcpu::Check(Napi::Env env) const {
  if (thread_ != nullptr && thread_->InGuest()) ThrowState(env, "the vCPU is running; pause it first");
}

void KvmVcpu::Close(const Napi::CallbackInfo&) {
  StopThread();
  coalesced_ring_ = nullptr;
  dirty_ring_.Reset();
  run_.Reset();
  ports_.reset();
  fd_.Reset();
}

void KvmVcpu::StopThread() {
  if (thread_ == nullptr) return;
  thread_.reset();
  napi_remove_env_cleanup_hook(env_, &OnEnvironmentExit, this);
  hub_->Detach();
  hub_.reset();
}

// The environment goes (worker terminated, process ends): the thread must not outlive what it wakes.
void KvmVcpu::OnEnvironmentExit(void* self) {
  auto* vcpu = static_cast<KvmVcpu*>(self);
  vcpu->thread_.reset();
  vcpu->hub_->Detach();
  vcpu->hub_.reset();
}

// (hub: ExitHub, slot: number, reportInterrupted: boolean)
void KvmVcpu::Start(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  CheckOpen(env);
  if (thread_ != nullptr) ThrowState(env, "the vCPU has a thread already");
  ExitHub* hub = ExitHub::From(info[0]);
  uint64_t slot = IntegerOf(info[1], "slot");
  if (slot >= hub->core()->slots()) ThrowRange(env, "no such exit slot");
  if (!hub->core()->Attach(static_cast<uint32_t>(slot))) ThrowState(env, "the ExitHub is closed");
  try {
    thread_ = std::make_unique<VcpuThread>(VcpuThread::Options{
        fd(), reinterpret_cast<kvm_run*>(run_.data()), hub->core(), static_cast<uint32_t>(slot), ports_,
        coalesced_ring_, info[2].ToBoolean(), id_});
  } catch (const std::system_error& error) {
    hub->core()->Detach();
    ThrowErrno(env, error.code().value(), "pthread_create", error.what());
  }
  hub_ = hub->core();
  napi_add_env_cleanup_hook(env_, &OnEnvironmentExit, this);
}

// (request: "kick" | "pause" | "stop")
void KvmVcpu::Ask(const Napi::CallbackInfo& info) {
  CheckOpen(info.Env());
  if (thread_ == nullptr) ThrowState(info.Env(), "the vCPU has no thread");
  std::string request = info[0].ToString();
  if (request == "kick")
    thread_->Ask(VcpuThread::kKick);
  else if (request == "pause")
    thread_->Ask(VcpuThread::kPause);
  else if (request == "stop")
    thread_->Ask(VcpuThread::kStop);
  else
    ThrowType(info.Env(), "the request must be kick, pause or stop");
}

// After the slot said kKindStopped: the thread is at its very end.
void KvmVcpu::Join(const Napi::CallbackInfo&) { StopThread(); }

// (bytes), the size that KVM_CAP_DIRTY_LOG_RING was enabled with
void KvmVcpu::MapDirtyRing(const Napi::CallbackInfo& info) {
  CheckOpen(info.Env());
  uint64_t bytes = IntegerOf(info[0], "bytes");
  if (dirty_ring_.data() != nullptr) ThrowState(info.Env(), "the dirty ring is mapped already");
  int error = dirty_ring_.Map(fd(), bytes, KVM_DIRTY_LOG_PAGE_OFFSET * 4096);
  if (error != 0) ThrowErrno(info.Env(), error, "mmap", "of a vCPU's dirty ring");
}

// (out: Float64Array of pairs slot, page) -> number of pairs. They count as harvested: KVM_RESET_DIRTY_RINGS frees them.
Napi::Value KvmVcpu::HarvestDirtyRing(const Napi::CallbackInfo& info) {
  CheckOpen(info.Env());
  if (dirty_ring_.data() == nullptr) ThrowState(info.Env(), "the dirty ring is not mapped");
  Bytes bytes = BytesOf(info[0], "out");
  auto* out = reinterpret_cast<double*>(bytes.data);
  size_t room = bytes.size / (2 * sizeof(double));
  auto* ring = reinterpret_cast<kvm_dirty_gfn*>(dirty_ring_.data());
  size_t entries = dirty_ring_.size() / sizeof(kvm_dirty_gfn), count = 0;
  for (; count < room; count++) {
    kvm_dirty_gfn& entry = ring[dirty_next_ % entries];
    std::atomic_ref<uint32_t> flags(entry.flags);
    // Acquire and release as the kernel's documentation of the ring asks.
    if ((flags.load(std::memory_order_acquire) & KVM_DIRTY_GFN_F_MASK) != KVM_DIRTY_GFN_F_DIRTY) break;
    out[2 * count] = entry.slot;
    out[2 * count + 1] = static_cast<double>(entry.offset);
    flags.store(KVM_DIRTY_GFN_F_RESET, std::memory_order_release);
    dirty_next_++;
  }
  return Napi::Number::New(info.Env(), static_cast<double>(count));
}

// (out: Uint8Array of struct kvm_coalesced_mmio) -> number of entries, oldest first
Napi::Value KvmVcpu::DrainCoalesced(const Napi::CallbackInfo& info) {
  CheckOpen(info.Env());
  Bytes out = BytesOf(info[0], "out");
  uint32_t count = 0;
  if (coalesced_ring_ != nullptr) {
    auto* ring = reinterpret_cast<kvm_coalesced_mmio_ring*>(coalesced_ring_);
    constexpr uint32_t kEntries =
        (4096 - sizeof(kvm_coalesced_mmio_ring)) / sizeof(kvm_coalesced_mmio);  // KVM_COALESCED_MMIO_MAX
    kvm_coalesced_mmio* entries = ring->coalesced_mmio;
    std::atomic_ref<uint32_t> first(ring->first), last(ring->last);
    while (first.load(std::memory_order_relaxed) != last.load(std::memory_order_acquire) &&
           (count + 1) * sizeof(kvm_coalesced_mmio) <= out.size) {
      uint32_t index = first.load(std::memory_order_relaxed) % kEntries;
      memcpy(out.data + count * sizeof(kvm_coalesced_mmio), &entries[index], sizeof(kvm_coalesced_mmio));
      first.store((index + 1) % kEntries, std::memory_order_release);
      count++;
    }
  }
  return Napi::Number::New(info.Env(), count);
}

void KvmVcpu::Init(Napi::Env env, Napi::Object exports) {
  exports.Set(kName, DefineClass(env, kName,
                                 Members({InstanceMethod("start", &KvmVcpu::Start),
                                          InstanceMethod("ask", &KvmVcpu::Ask),
                                          InstanceMethod("join", &KvmVcpu::Join),
                                          InstanceMethod("mapDirtyRing", &KvmVcpu::MapDirtyRing),
                                          InstanceMethod("harvestDirtyRing", &KvmVcpu::HarvestDirtyRing),
                                          InstanceMethod("drainCoalesced", &KvmVcpu::DrainCoalesced)})));
}

void InitVcpu(Napi::Env env, Napi::Object exports) { KvmVcpu::Init(env, exports); }

}  // namespace virtkit
