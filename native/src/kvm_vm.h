// KvmVm: one virtual machine.
#pragma once

#include <atomic>
#include <map>
#include <memory>

#include "kvm_fd.h"

namespace virtkit {

// What the vCPU threads answer by themselves: per port a constant byte to read and whether writes are ignored. One
// 16-bit entry a port; written by JavaScript's thread, read by vCPU threads, each entry on its own.
class PortTable {
 public:
  static constexpr uint16_t kIgnoreWrites = 0x100, kConstant = 0x200;

  PortTable();
  ~PortTable();
  PortTable(const PortTable&) = delete;
  PortTable& operator=(const PortTable&) = delete;

  void Set(uint32_t port, uint16_t entry) {
    std::atomic_ref<uint16_t>(entries_[port]).store(entry, std::memory_order_relaxed);
  }
  // Ports past 0xffff are nobody's: JavaScript decides.
  uint16_t Get(uint32_t port) const {
    return port < kPorts ? std::atomic_ref<uint16_t>(entries_[port]).load(std::memory_order_relaxed) : 0;
  }

 private:
  static constexpr uint32_t kPorts = 0x10000;
  uint16_t* entries_;  // mapped, so that pages in which no entry was set cost nothing
};

class KvmVm : public FdObject<KvmVm> {
 public:
  static constexpr const char* kName = "KvmVm";
  static constexpr Owner kOwner = kVm;
  static constexpr napi_type_tag kTag = {0x7b1c3f1a52d94e02, 0x9e0d6a4c8f2b7702};

  // (system: KvmSystem, machineType: number)
  explicit KvmVm(const Napi::CallbackInfo& info);
  static void Init(Napi::Env env, Napi::Object exports);

  void Close(const Napi::CallbackInfo& info);

  const std::shared_ptr<PortTable>& ports() const { return ports_; }
  // Bytes of struct kvm_run and the rings behind it; of KVM_GET_XSAVE2.
  size_t run_size() const { return run_size_; }
  size_t xsave_size() const { return xsave_size_; }

 private:
  void SetMemorySlot(const Napi::CallbackInfo& info);
  void GetDirtyLog(const Napi::CallbackInfo& info);
  void ClearDirtyLog(const Napi::CallbackInfo& info);
  void SetMsrFilter(const Napi::CallbackInfo& info);
  void SetPort(const Napi::CallbackInfo& info);

  std::shared_ptr<PortTable> ports_ = std::make_shared<PortTable>();
  size_t run_size_ = 0;
  size_t xsave_size_ = 4096;
  // Pages of each slot: the kernel writes a dirty log of the slot's size, whatever buffer it is given.
  std::map<uint32_t, uint64_t> slot_pages_;
};

}  // namespace virtkit
