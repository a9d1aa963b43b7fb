// KvmVcpu: one virtual CPU, and its thread while it runs.
#pragma once

#include <memory>

#include "kvm_api.h"
#include "kvm_fd.h"
#include "vcpu_thread.h"

namespace virtkit {

// Owns a memory mapping.
class Mapping {
 public:
  Mapping() = default;
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;
  ~Mapping() { Reset(); }
  // 0 or an errno.
  int Map(int fd, size_t size, off_t offset);
  void Reset();
  char* data() const { return data_; }
  size_t size() const { return size_; }

 private:
  char* data_ = nullptr;
  size_t size_ = 0;
};

class KvmVcpu : public FdObject<KvmVcpu> {
 public:
  static constexpr const char* kName = "KvmVcpu";
  static constexpr Owner kOwner = kVcpu;
  static constexpr napi_type_tag kTag = {0x7b1c3f1a52d94e03, 0x9e0d6a4c8f2b7703};

  // (vm: KvmVm, id: number)
  explicit KvmVcpu(const Napi::CallbackInfo& info);
  ~KvmVcpu() override;
  static void Init(Napi::Env env, Napi::Object exports);

  // Throws while the thread may be in KVM_RUN: another ioctl would block until that returns.
  void Check(Napi::Env env) const;
  size_t OpaqueSize() const { return xsave_size_; }
  void Close(const Napi::CallbackInfo& info);

 private:
  void Start(const Napi::CallbackInfo& info);
  void Ask(const Napi::CallbackInfo& info);
  void Join(const Napi::CallbackInfo& info);
  void MapDirtyRing(const Napi::CallbackInfo& info);
  Napi::Value HarvestDirtyRing(const Napi::CallbackInfo& info);
  Napi::Value DrainCoalesced(const Napi::CallbackInfo& info);

  void StopThread();
  static void OnEnvironmentExit(void* self);

  napi_env env_;
  int id_ = 0;
  size_t xsave_size_ = 4096;
  Mapping run_;
  Mapping dirty_ring_;
  uint32_t dirty_next_ = 0;
  char* coalesced_ring_ = nullptr;
  std::shared_ptr<PortTable> ports_;
  std::shared_ptr<HubCore> hub_;
  std::unique_ptr<VcpuThread> thread_;
};

}  // namespace virtkit
