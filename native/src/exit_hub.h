// ExitHub: the exit slots of the vCPUs that one JavaScript thread serves, and the way to wake that thread.
#pragma once

#include <napi.h>

#include <atomic>
#include <memory>

#include "exit_slot.h"

namespace virtkit {

// Shared by the JavaScript object, its ArrayBuffer and the vCPU threads; the last one frees the memory.
class HubCore {
 public:
  // `spin_ns`: the most that either side spins; 0 on a machine with one CPU.
  HubCore(uint32_t slots, int64_t spin_ns);
  ~HubCore();

  ExitSlot* slot(uint32_t index) { return &slots_[index]; }
  uint32_t slots() const { return count_; }
  void* memory() { return header_; }
  size_t bytes() const { return (count_ + 1) * kSlotBytes; }
  int64_t spin_ns() const { return spin_ns_; }

  // Spinning needs a processor for either side. A spinning thread that finds that the clock leapt was preempted: others
  // want the processor, and who spins then delays the very thread it waits for. So nobody spins for a while, the longer
  // the more often that happens. Callable from all threads.
  bool MaySpin(int64_t now) const { return spin_ns_ > 0 && now >= quiet_until_.load(std::memory_order_relaxed); }
  void NotePreempted(int64_t now);
  static constexpr int64_t kPreemptedNs = 200'000;

  // From a vCPU thread, after it published: wakes JavaScript if that sleeps, and returns whether it did.
  bool Wake();
  // From JavaScript's thread: index of a slot with an exit not yet taken, looking and spinning for `spin_ns`; or -1,
  // and then `sleeping` is set and a wake-up will come.
  int Poll(int64_t spin_ns);

  // From JavaScript's thread, around the life of a vCPU thread that uses `slot`: holds the wake-up function.
  bool Attach(uint32_t slot);
  void Detach();
  void set_function(napi_threadsafe_function function) { function_ = function; }

 private:
  int Find();

  HubHeader* header_;
  ExitSlot* slots_;
  uint32_t count_;
  uint32_t used_ = 0;  // slots that were ever attached are below this
  uint32_t next_ = 0;  // where Find starts, so that no vCPU starves another
  int64_t spin_ns_;
  std::atomic<int64_t> quiet_until_{0};
  std::atomic<int64_t> quiet_ns_{0};
  napi_threadsafe_function function_ = nullptr;
};

int64_t NowNanoseconds();

class ExitHub : public Napi::ObjectWrap<ExitHub> {
 public:
  static constexpr napi_type_tag kTag = {0x7b1c3f1a52d94e06, 0x9e0d6a4c8f2b7706};

  // (slots: number, spinMicroseconds: number, wake: () => void)
  explicit ExitHub(const Napi::CallbackInfo& info);
  ~ExitHub() override;
  static void Init(Napi::Env env, Napi::Object exports);
  static ExitHub* From(Napi::Value value);

  const std::shared_ptr<HubCore>& core() const { return core_; }

 private:
  Napi::Value GetBuffer(const Napi::CallbackInfo& info);
  Napi::Value Poll(const Napi::CallbackInfo& info);
  void WakeSlot(const Napi::CallbackInfo& info);
  void Close(const Napi::CallbackInfo& info);
  void Release();

  std::shared_ptr<HubCore> core_;
  napi_threadsafe_function function_ = nullptr;
  Napi::Reference<Napi::ArrayBuffer> buffer_;
};

}  // namespace virtkit
