#include "exit_hub.h"

#include <sys/mman.h>
#include <time.h>

#include <algorithm>
#include <new>

#include "kvm_fd.h"

namespace virtkit {

int64_t NowNanoseconds() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
}

namespace {

// What Node.js does with exceptions of a thread-safe function differs between versions; here they are uncaught
// exceptions like those of any other callback.
void CallWake(napi_env env, napi_value function, void*, void*) {
  if (env == nullptr) return;  // the environment is being torn down
  napi_value undefined, result;
  napi_get_undefined(env, &undefined);
  if (napi_call_function(env, undefined, function, 0, nullptr, &result) != napi_pending_exception) return;
  napi_value error;
  if (napi_get_and_clear_last_exception(env, &error) == napi_ok) napi_fatal_exception(env, error);
}

}  // namespace

HubCore::HubCore(uint32_t slots, int64_t spin_ns) : count_(slots), spin_ns_(spin_ns) {
  // Mapped, not allocated: pages of slots that are never used cost nothing.
  void* memory = mmap(nullptr, bytes(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  header_ = static_cast<HubHeader*>(memory);
  slots_ = reinterpret_cast<ExitSlot*>(header_ + 1);
  header_->sleeping = 1;  // JavaScript is in its event loop until the first wake-up
}

HubCore::~HubCore() { munmap(header_, bytes()); }

bool HubCore::Attach(uint32_t slot) {
  if (function_ == nullptr || napi_acquire_threadsafe_function(function_) != napi_ok) return false;
  used_ = std::max(used_, slot + 1);
  return true;
}

void HubCore::Detach() { napi_release_threadsafe_function(function_, napi_tsfn_release); }

bool HubCore::Wake() {
  std::atomic_ref<uint32_t> sleeping(header_->sleeping);
  if (sleeping.load() == 0 || sleeping.exchange(0) == 0) return false;
  napi_call_threadsafe_function(function_, nullptr, napi_tsfn_nonblocking);
  return true;
}

void HubCore::NotePreempted(int64_t now) {
  constexpr int64_t kLeast = 50'000'000, kMost = 1'000'000'000;
  int64_t last = quiet_ns_.load(std::memory_order_relaxed);
  bool again = now - quiet_until_.load(std::memory_order_relaxed) < 4 * last;
  int64_t quiet = again ? std::min(kMost, last * 2) : kLeast;
  quiet_ns_.store(quiet, std::memory_order_relaxed);
  quiet_until_.store(now + quiet, std::memory_order_relaxed);
}

int HubCore::Find() {
  for (uint32_t i = 0; i < used_; i++) {
    uint32_t index = next_ + i < used_ ? next_ + i : next_ + i - used_;
    uint32_t state = std::atomic_ref<uint32_t>(slots_[index].state).load();
    if ((state & (kPublished | kTaken)) == kPublished) {
      next_ = index + 1 < used_ ? index + 1 : 0;
      return static_cast<int>(index);
    }
  }
  return -1;
}

int HubCore::Poll(int64_t spin_ns) {
  std::atomic_ref<uint32_t> sleeping(header_->sleeping);
  sleeping.store(0);
  int found = Find();
  if (found >= 0) return found;
  int64_t now = spin_ns > 0 ? NowNanoseconds() : 0;
  if (spin_ns > 0 && MaySpin(now)) {
    int64_t end = now + std::min(spin_ns, spin_ns_);
    for (int64_t before = now; before < end; before = now) {
      for (int i = 0; i < 16; i++) {
        __builtin_ia32_pause();
        if ((found = Find()) >= 0) return found;
      }
      now = NowNanoseconds();
      if (now - before > kPreemptedNs) {
        NotePreempted(now);
        break;
      }
    }
  }
  sleeping.store(1);
  found = Find();
  // If a thread turned `sleeping` off meanwhile, its wake-up comes for nothing: harmless.
  if (found >= 0) sleeping.store(0);
  return found;
}

ExitHub::ExitHub(const Napi::CallbackInfo& info) : Napi::ObjectWrap<ExitHub>(info) {
  Napi::Env env = info.Env();
  info.This().As<Napi::Object>().TypeTag(&kTag);
  uint64_t slots = IntegerOf(info[0], "slots");
  if (slots == 0 || slots > 4096) ThrowRange(env, "slots must be 1 to 4096");
  core_ = std::make_shared<HubCore>(static_cast<uint32_t>(slots),
                                    static_cast<int64_t>(IntegerOf(info[1], "spinMicroseconds")) * 1000);
  // A thread-safe function, not an eventfd with uv_poll_t: it is the one way onto this environment's own event loop
  // that is part of Node-API, so that one binary serves all Node versions, and it costs the same eventfd write.
  napi_value name = Napi::String::New(env, "virtkit:exits");
  napi_status status = napi_create_threadsafe_function(env, info[2], nullptr, name, 0, 1, nullptr, nullptr, nullptr,
                                                       &CallWake, &function_);
  if (status != napi_ok) throw Napi::Error::New(env);
  core_->set_function(function_);
}

ExitHub::~ExitHub() { Release(); }

void ExitHub::Release() {
  if (function_ == nullptr) return;
  core_->set_function(nullptr);
  napi_release_threadsafe_function(function_, napi_tsfn_release);
  function_ = nullptr;
}

ExitHub* ExitHub::From(Napi::Value value) {
  if (!value.IsObject() || !value.As<Napi::Object>().CheckTypeTag(&kTag)) ThrowType(value.Env(), "not an ExitHub");
  return Unwrap(value.As<Napi::Object>());
}

Napi::Value ExitHub::GetBuffer(const Napi::CallbackInfo& info) {
  if (!buffer_.IsEmpty()) return buffer_.Value();
  auto* keep = new std::shared_ptr<HubCore>(core_);
  Napi::ArrayBuffer buffer = Napi::ArrayBuffer::New(
      info.Env(), core_->memory(), core_->bytes(), [](Napi::Env, void*, std::shared_ptr<HubCore>* core) { delete core; },
      keep);
  buffer_ = Napi::Persistent(buffer);
  return buffer;
}

// (spinMicroseconds) -> slot index or -1
Napi::Value ExitHub::Poll(const Napi::CallbackInfo& info) {
  int64_t spin = static_cast<int64_t>(info[0].As<Napi::Number>().DoubleValue() * 1000);
  return Napi::Number::New(info.Env(), core_->Poll(spin));
}

void ExitHub::Close(const Napi::CallbackInfo&) { Release(); }

void ExitHub::Init(Napi::Env env, Napi::Object exports) {
  exports.Set("ExitHub", DefineClass(env, "ExitHub",
                                     {InstanceAccessor("buffer", &ExitHub::GetBuffer, nullptr),
                                      InstanceMethod("poll", &ExitHub::Poll),
                                      InstanceMethod("wakeSlot", &ExitHub::WakeSlot),
                                      InstanceMethod("close", &ExitHub::Close)}));
}

void InitExitHub(Napi::Env env, Napi::Object exports) { ExitHub::Init(env, exports); }

}  // namespace virtkit
