#include "vcpu_thread.h"

#include <linux/futex.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <system_error>

namespace virtkit {

namespace {

constexpr int64_t kLeastSpin = 1000;  // ns

long Futex(uint32_t* word, int operation, uint32_t value) {
  return syscall(SYS_futex, word, operation | FUTEX_PRIVATE_FLAG, value, nullptr, nullptr, 0);
}

// The signal whose only purpose is to end KVM_RUN early. Real-time signals are not used by Node.js; the first one that
// nobody handles is taken, once for the process, with a handler that does nothing.
int KickSignal() {
  static const int signal = [] {
    for (int number = SIGRTMIN; number <= SIGRTMAX; number++) {
      struct sigaction current;
      if (sigaction(number, nullptr, &current) != 0 || current.sa_handler != SIG_DFL) continue;
      struct sigaction action{};
      action.sa_handler = [](int) {};
      sigemptyset(&action.sa_mask);
      if (sigaction(number, &action, nullptr) == 0) return number;
    }
    return -1;
  }();
  return signal;
}

}  // namespace

void ExitHub::WakeSlot(const Napi::CallbackInfo& info) {
  uint32_t index = info[0].As<Napi::Number>().Uint32Value();
  if (index < core_->slots()) Futex(&core_->slot(index)->state, FUTEX_WAKE, 1);
}

VcpuThread::VcpuThread(Options options)
    : options_(std::move(options)), slot_(options_.hub->slot(options_.slot)), spin_ns_(options_.hub->spin_ns()) {
  if (KickSignal() < 0) throw std::system_error(EBUSY, std::system_category(), "no free real-time signal");
  std::atomic_ref<uint8_t>(options_.run->immediate_exit).store(0);
  std::atomic_ref<uint32_t>(slot_->state).store(0);
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  pthread_attr_setstacksize(&attributes, 256 * 1024);
  int error = pthread_create(&thread_, &attributes, &Main, this);
  pthread_attr_destroy(&attributes);
  if (error != 0) throw std::system_error(error, std::system_category(), "pthread_create");
}

VcpuThread::~VcpuThread() {
  if (joined_) return;
  Ask(kStop);
  Join();
}

void VcpuThread::Join() {
  if (joined_) return;
  pthread_join(thread_, nullptr);
  joined_ = true;
}

bool VcpuThread::InGuest() const {
  return !joined_ && (std::atomic_ref<uint32_t>(slot_->state).load() & kPublished) == 0;
}

void VcpuThread::Ask(Request request) {
  if (joined_) return;
  // Order matters: the thread clears immediate_exit before it reads the requests, so one of the two reads of it sees
  // this request. The signal is for a thread that is past the kernel's check of immediate_exit.
  requests_.fetch_or(request);
  std::atomic_ref<uint8_t>(options_.run->immediate_exit).store(1);
  pthread_kill(thread_, KickSignal());
  if (request == kStop) {
    // It may wait for an answer; the changed value keeps it from going to sleep after this wake.
    std::atomic_ref<uint32_t>(slot_->state).fetch_or(kStopAsked);
    Futex(&slot_->state, FUTEX_WAKE, 1);
  }
}

void* VcpuThread::Main(void* self) {
  auto* thread = static_cast<VcpuThread*>(self);
  // All other signals are for other threads, above all for Node.js.
  sigset_t mask;
  sigfillset(&mask);
  sigdelset(&mask, KickSignal());
  pthread_sigmask(SIG_SETMASK, &mask, nullptr);
  char name[16];
  snprintf(name, sizeof name, "vcpu-%d", thread->options_.id);
  pthread_setname_np(pthread_self(), name);
  thread->Loop();
  ExitSlot* slot = thread->slot_;
  slot->kind = kKindStopped;
  std::atomic_ref<uint32_t>(slot->state).store(kPublished);
  thread->options_.hub->Wake();
  return nullptr;
}

void VcpuThread::Loop() {
  kvm_run* run = options_.run;
  for (;;) {
    int error = ::ioctl(options_.fd, KVM_RUN, 0) < 0 ? errno : 0;
    slot_->runs += 1;
    // EAGAIN: an application processor that waited for its start-up message was made runnable.
    if (error == EAGAIN) continue;
    uint32_t reason = error == EINTR ? KVM_EXIT_INTR : run->exit_reason;
    slot_->reasons[std::min<size_t>(reason, kReasonCounters - 1)] += 1;
    bool go;
    if (reason == KVM_EXIT_INTR)
      go = HandleInterrupted();
    else if (error != 0)
      go = HandleOther(reason, error);
    else if (reason == KVM_EXIT_IO)
      go = HandleIo();
    else if (reason == KVM_EXIT_MMIO)
      go = HandleMmio();
    else
      go = HandleOther(reason, 0);
    if (!go) return;
  }
}

bool VcpuThread::HandleInterrupted() {
  std::atomic_ref<uint8_t>(options_.run->immediate_exit).store(0);
  uint32_t requests = requests_.exchange(0);
  if (requests & kStop) return false;
  if (requests & kPause) {
    // KVM_RUN has completed the access of the last exit before it looked at immediate_exit: the state is consistent.
    slot_->kind = kKindPaused;
    return Exchange();
  }
  return options_.report_intr ? HandleOther(KVM_EXIT_INTR, 0) : true;
}

bool VcpuThread::HandleIo() {
  const kvm_run* run = options_.run;
  // Copied: the union is the kernel's.
  uint32_t port = run->io.port, size = run->io.size, count = run->io.count;
  bool write = run->io.direction == KVM_EXIT_IO_OUT;
  uint8_t* data = reinterpret_cast<uint8_t*>(options_.run) + run->io.data_offset;
  // String instructions give several accesses to one port in one exit.
  for (uint32_t i = 0; i < count; i++, data += size) {
    if (NativePort(port, size, write, data)) continue;
    if (!Access(kKindIo, port, size, write, data)) return false;
  }
  return true;
}

bool VcpuThread::NativePort(uint32_t port, uint32_t size, bool write, uint8_t* data) {
  uint16_t wanted = write ? PortTable::kIgnoreWrites : PortTable::kConstant;
  uint16_t entries[4];
  for (uint32_t i = 0; i < size; i++) {
    entries[i] = options_.ports->Get(port + i);
    if ((entries[i] & wanted) == 0) return false;
  }
  if (!write) {
    for (uint32_t i = 0; i < size; i++) data[i] = static_cast<uint8_t>(entries[i]);
  }
  slot_->native += 1;
  return true;
}

bool VcpuThread::HandleMmio() {
  double address = static_cast<double>(options_.run->mmio.phys_addr);
  uint32_t length = std::min<uint32_t>(options_.run->mmio.len, 8);
  bool write = options_.run->mmio.is_write != 0;
  uint8_t* data = options_.run->mmio.data;
  for (uint32_t done = 0; done < length;) {
    uint32_t left = length - done;
    uint32_t size = left >= 4 ? 4 : left >= 2 ? 2 : 1;
    if (!Access(kKindMmio, address + done, size, write, data + done)) return false;
    done += size;
  }
  return true;
}

bool VcpuThread::Access(uint32_t kind, double address, uint32_t size, bool write, uint8_t* data) {
  slot_->kind = kind;
  slot_->address = address;
  slot_->size = size;
  slot_->write = write;
  memset(slot_->data, 0, sizeof slot_->data);
  if (write) memcpy(slot_->data, data, size);
  if (!Exchange()) return false;
  if (!write) memcpy(data, slot_->data, size);
  return true;
}

bool VcpuThread::HandleOther(uint32_t reason, int error) {
  kvm_run* run = options_.run;
  slot_->kind = kKindExit;
  slot_->reason = reason;
  slot_->error = static_cast<uint32_t>(error);
  slot_->flags = run->flags;
  memcpy(slot_->payload, run->padding, kPayloadBytes);
  if (!Exchange()) return false;
  switch (reason) {  // those whose result KVM reads from the union
    case KVM_EXIT_HYPERCALL:
    case KVM_EXIT_X86_RDMSR:
    case KVM_EXIT_X86_WRMSR:
    case KVM_EXIT_HYPERV:
    case KVM_EXIT_XEN:
      memcpy(run->padding, slot_->payload, kPayloadBytes);
  }
  return true;
}

bool VcpuThread::Exchange() {
  slot_->delivered += 1;
  slot_->coalesced = 0;
  if (options_.coalesced_ring != nullptr) {
    auto* ring = reinterpret_cast<kvm_coalesced_mmio_ring*>(const_cast<char*>(options_.coalesced_ring));
    uint32_t last = std::atomic_ref<uint32_t>(ring->last).load(std::memory_order_acquire);
    slot_->coalesced = std::atomic_ref<uint32_t>(ring->first).load(std::memory_order_relaxed) != last;
  }
  std::atomic_ref<uint32_t>(slot_->state).store(kPublished);
  // A thread that has to be woken first takes longer than spinning is worth, and may need this one's processor.
  bool woken = options_.hub->Wake();
  return Await(!woken && slot_->kind != kKindPaused);
}

// Spinning pays when the answer comes sooner than a futex sleep and wake-up take. So the time grows while answers come
// within reach and shrinks while they do not.
bool VcpuThread::Await(bool spin) {
  std::atomic_ref<uint32_t> state(slot_->state);
  HubCore& hub = *options_.hub;
  int64_t most = hub.spin_ns();
  int64_t start = NowNanoseconds();
  if (!spin || !hub.MaySpin(start)) return SleepUntilAnswered();
  for (int64_t before = start, now; before - start < spin_ns_; before = now) {
    for (int i = 0; i < 32; i++) {
      if ((state.load() & kPublished) == 0) {
        spin_ns_ = std::min(most, spin_ns_ * 2);
        return true;
      }
      __builtin_ia32_pause();
    }
    if (requests_.load() & kStop) return false;
    now = NowNanoseconds();
    if (now - before > HubCore::kPreemptedNs) {
      hub.NotePreempted(now);
      break;
    }
  }
  bool go = SleepUntilAnswered();
  int64_t waited = NowNanoseconds() - start;
  spin_ns_ = waited < 2 * most ? std::min(most, spin_ns_ * 2) : std::max(kLeastSpin, spin_ns_ / 2);
  return go;
}

bool VcpuThread::SleepUntilAnswered() {
  std::atomic_ref<uint32_t> state(slot_->state);
  slot_->sleeps += 1;
  for (;;) {
    uint32_t current = state.load();
    if ((current & kPublished) == 0) return true;
    if (requests_.load() & kStop) return false;
    if ((current & kSleeping) == 0 && !state.compare_exchange_strong(current, current | kSleeping)) continue;
    Futex(&slot_->state, FUTEX_WAIT, current | kSleeping);
  }
}

}  // namespace virtkit
