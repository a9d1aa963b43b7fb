// The thread of one vCPU: loops over KVM_RUN, answers what it can by itself, and hands all other exits to JavaScript
// through its exit slot. Knows nothing of N-API. The protocol is described in exit_slot.h and docs/threading.md.
#pragma once

#include <pthread.h>

#include <atomic>
#include <memory>

#include "exit_hub.h"
#include "exit_slot.h"
#include "kvm_api.h"
#include "kvm_vm.h"

namespace virtkit {

class VcpuThread {
 public:
  struct Options {
    int fd;
    kvm_run* run;
    std::shared_ptr<HubCore> hub;
    uint32_t slot;
    std::shared_ptr<PortTable> ports;
    const char* coalesced_ring;  // page of kvm_run, or nullptr
    bool report_intr;
    int id;
  };

  enum Request : uint32_t { kKick = 1, kPause = 2, kStop = 4 };

  // Starts the thread; throws std::system_error.
  explicit VcpuThread(Options options);
  // Stops and joins.
  ~VcpuThread();

  // Makes KVM_RUN return. After kPause the thread publishes kPaused and waits, after kStop it publishes kStopped and
  // ends, also when it waits for an answer. Callable from any thread.
  void Ask(Request request);
  // Waits for the thread's end, which kStop brings about.
  void Join();
  // Whether KVM_RUN may be executing, so that another ioctl on the vCPU would wait for it.
  bool InGuest() const;

 private:
  static void* Main(void* self);
  void Loop();
  // Each of these returns false when the thread must end.
  bool HandleInterrupted();
  bool HandleIo();
  bool HandleMmio();
  bool HandleOther(uint32_t reason, int error);
  bool NativePort(uint32_t port, uint32_t size, bool write, uint8_t* data);
  bool Access(uint32_t kind, double address, uint32_t size, bool write, uint8_t* data);
  // Publishes the filled slot and waits until JavaScript answered.
  bool Exchange();
  bool Await(bool spin);
  bool SleepUntilAnswered();

  Options options_;
  ExitSlot* slot_;
  pthread_t thread_;
  bool joined_ = false;
  std::atomic<uint32_t> requests_{0};
  // Nanoseconds that the next answer is worth spinning for.
  int64_t spin_ns_;
};

}  // namespace virtkit
