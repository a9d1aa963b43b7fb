// BlockEngine: batches of block requests from JavaScript to the kernel, and their completions back.

#include "block_engine.h"

#include <napi.h>
#include <sched.h>
#include <uv.h>

#include <algorithm>
#include <ctime>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "block_jobs.h"
#include "errors.h"
#include "io_engine.h"
#include "loop_handle.h"
#include "options.h"
#include "write_pause.h"

namespace virtkit {
namespace {

// Bytes that one `submit` may copy from and to the page cache on the JavaScript thread: some 50 us, about what waking a thread
// and being woken by it costs.
constexpr uint64_t kInlineBytes = 256 * 1024;
// Requests from which on one system call for all is cheaper than one for each.
constexpr size_t kRingBatch = 8;

// What one `submit` may do on the JavaScript thread.
struct Now {
  bool reads = false;
  bool writes = false;
  uint64_t bytes = kInlineBytes;
  bool wrote = false;
};

// A typed array that both sides see, kept alive by its reference.
template <typename Array>
class SharedArray {
 public:
  void Create(Napi::Object owner, const char* name, size_t length) {
    Array array = Array::New(owner.Env(), length);
    owner.DefineProperty(Napi::PropertyDescriptor::Value(name, array, napi_enumerable));
    data_ = array.Data();
    keep_ = Napi::Persistent(array);
  }
  auto& operator[](size_t index) const { return data_[index]; }
  auto* data() const { return data_; }

 private:
  using Element = std::remove_pointer_t<decltype(std::declval<Array>().Data())>;
  Napi::Reference<Array> keep_;
  Element* data_ = nullptr;
};

class BlockEngine : public Napi::ObjectWrap<BlockEngine> {
 public:
  static void Init(Napi::Env env, Napi::Object exports) {
    exports.Set("BlockEngine", DefineClass(env, "BlockEngine",
                                           {
                                               InstanceAccessor<&BlockEngine::InFlight>("inFlight"),
                                               InstanceAccessor<&BlockEngine::Kind>("kind"),
                                               InstanceMethod<&BlockEngine::RegisterFile>("registerFile"),
                                               InstanceMethod<&BlockEngine::UnregisterFiles>("unregisterFiles"),
                                               InstanceMethod<&BlockEngine::Submit>("submit"),
                                               InstanceMethod<&BlockEngine::Poll>("poll"),
                                               InstanceMethod<&BlockEngine::Cancel>("cancel"),
                                               InstanceMethod<&BlockEngine::SetPolling>("setPolling"),
                                               InstanceMethod<&BlockEngine::Wake>("wake"),
                                               InstanceMethod<&BlockEngine::Close>("close"),
                                           }));
  }

  explicit BlockEngine(const Napi::CallbackInfo& info) : Napi::ObjectWrap<BlockEngine>(info) {
    Napi::Env env = info.Env();
    if (info.Length() < 2 || !info[0].IsObject() || !info[1].IsFunction()) ThrowType(env, "BlockEngine(options, onComplete)");
    const Options options(info[0].As<Napi::Object>(), "BlockEngine");
    depth_ = static_cast<size_t>(options.Integer("depth", 1, 32768));
    segments_ = static_cast<size_t>(options.Integer("segments", 1, 1 << 20));
    const auto threads = static_cast<size_t>(options.Integer("threads", 1, 64, 4));
    writeNow_ = options.Boolean("writeNow", false);
    CreateArrays(info.This().As<Napi::Object>());
    jobs_.resize(depth_);
    completedNow_.resize(depth_);
    for (IoJob& job : jobs_) Free(&job);
    OpenEngine(env, options.Has("kind") ? options.Text("kind") : "auto", threads);

    loop_ = LoopHandle<uv_poll_t>::Create(env, this, info[1].As<Napi::Function>());
    const int error = uv_poll_init(loop_->Loop(), loop_->Raw(), engine_->EventFd());
    if (error != 0) {
      loop_->Abandon();
      loop_ = nullptr;
      ThrowErrno(env, -error, "uv_poll_init");
    }
    uv_poll_start(loop_->Raw(), UV_READABLE, [](uv_poll_t* handle, int, int) {
      auto* loop = LoopHandle<uv_poll_t>::From(handle);
      auto* self = static_cast<BlockEngine*>(loop->Owner());
      if (self != nullptr) self->Deliver(loop);
    });
    Ref();
    loop_->Started([](void* owner) { static_cast<BlockEngine*>(owner)->Shut(); });
    KeepAlive(false);
  }

  ~BlockEngine() override { Shut(); }

 private:
  void CreateArrays(Napi::Object self) {
    ops_.Create(self, "ops", depth_);
    flags_.Create(self, "flags", depth_);
    fds_.Create(self, "fds", depth_);
    offsets_.Create(self, "offsets", depth_);
    lengths_.Create(self, "lengths", depth_);
    tags_.Create(self, "tags", depth_);
    firstSegments_.Create(self, "firstSegments", depth_);
    segmentCounts_.Create(self, "segmentCounts", depth_);
    segmentAddresses_.Create(self, "segmentAddresses", segments_);
    segmentLengths_.Create(self, "segmentLengths", segments_);
    completedTags_.Create(self, "completedTags", depth_);
    results_.Create(self, "results", depth_);
    clock_.Create(self, "clock", 1);
    arrays_ = {ops_.data(),           flags_.data(),         fds_.data(),
               offsets_.data(),       lengths_.data(),       tags_.data(),
               firstSegments_.data(), segmentCounts_.data(), segmentAddresses_.data(),
               segmentLengths_.data(), segments_};
  }

  void OpenEngine(Napi::Env env, const std::string& kind, size_t threads) {
    if (kind != "auto" && kind != "io_uring" && kind != "threads") ThrowRange(env, "BlockEngine: unknown kind " + kind);
    engine_.emplace(threads);
    int error = engine_->Open();
    if (error != 0) ThrowErrno(env, error, "eventfd");
    if (kind == "threads") return;
    error = engine_->OpenRing(depth_);
    if (error != 0 && kind == "io_uring") ThrowErrno(env, error, "io_uring_setup");
    ring_ = error == 0;
  }

  void Free(IoJob* job) {
    job->next = free_;
    free_ = job;
  }

  void Fill(Napi::Env env, IoJob& job, size_t index) {
    const char* wrong = FillJob(arrays_, index, job);
    if (wrong != nullptr) ThrowRange(env, std::string("BlockEngine: ") + wrong);
  }

  // What the page cache can do is quickest as an ordinary system call on this thread. True if the request is finished.
  bool TryNow(IoJob& job, Now& now) {
    const bool read = job.op == IoOp::kRead && now.reads && readNow_ && (job.flags & kIoFlagWaits) == 0;
    if (!read && !(now.writes && IsPlainWrite(job))) return false;
    uint64_t bytes = 0;
    for (const iovec& segment : job.segments) bytes += segment.iov_len;
    if (bytes > now.bytes) return false;
    now.bytes -= bytes;
    if (read) return TryReadNow(job, readNow_);
    now.wrote = true;
    PerformIo(job);
    return true;
  }

  void Complete(IoJob* job, size_t index) {
    job->inFlight = false;
    completedTags_[index] = job->tag;
    results_[index] = static_cast<double>(job->result);
    Free(job);
  }

  // Either all entries are accepted or, with an exception, none.
  Napi::Value Submit(const Napi::CallbackInfo& info) {
    Napi::Env env = info.Env();
    const auto count = info.Length() > 0 && info[0].IsNumber() ? info[0].As<Napi::Number>().DoubleValue() : -1;
    if (!(count >= 0 && count <= static_cast<double>(depth_ - inFlight_))) {
      ThrowRange(env, "BlockEngine.submit: more requests than can be in flight");
    }
    if (loop_ == nullptr || closing_) throw Napi::Error::New(env, "BlockEngine is closed");
    const auto total = static_cast<size_t>(count);
    IoJob* job = free_;
    for (size_t i = 0; i < total; i++, job = job->next) Fill(env, *job, i);

    size_t completed = 0;
    size_t queued = 0;
    Now now{.reads = !ring_ || total < kRingBatch, .writes = writeNow_ && pause_.Allows()};
    if (now.writes) pause_.Begin();
    IoJob* first = nullptr;
    IoJob** link = &first;
    IoJob* last = nullptr;
    for (size_t i = 0; i < total; i++) {
      job = free_;
      free_ = job->next;
      if (TryNow(*job, now)) {
        completedNow_[completed++] = job;
        continue;
      }
      job->inFlight = true;
      *link = last = job;
      link = &job->next;
      queued++;
    }
    if (now.wrote) pause_.End();
    for (size_t i = 0; i < completed; i++) Complete(completedNow_[i], i);
    if (queued > 0) {
      inFlight_ += queued;
      KeepAlive(true);
      engine_->Quiet();
      engine_->Submit(first, last, queued);
      completed = Collect(completed);
    }
    return Napi::Number::New(env, static_cast<double>(completed));
  }

  // Moves what is done into the completion arrays, from `count` on; returns where they end.
  size_t Collect(size_t count) {
    if (inFlight_ == 0 || loop_ == nullptr) return count;
    engine_->Quiet();
    count = TakeDone(count);
    // What comes from now on wakes the event loop, and what came just before must not be left lying.
    if (inFlight_ > 0 && !polling_ && engine_->Listen()) count = TakeDone(count);
    if (inFlight_ == 0) KeepAlive(wakes_);
    return count;
  }

  size_t TakeDone(size_t count) {
    for (IoJob* job = engine_->TakeDone(); job != nullptr;) {
      IoJob* next = job->next;
      Complete(job, count++);
      inFlight_--;
      job = next;
    }
    return count;
  }

  void Deliver(LoopHandle<uv_poll_t>* loop) {
    engine_->ClearEvent();
    const bool asked = wakes_;
    wakes_ = false;
    const size_t count = Collect(0);
    if (inFlight_ == 0) KeepAlive(false);
    if (count > 0 || asked) loop->Call(static_cast<uint32_t>(count));
    // The callback may have closed, and then even have been collected.
    if (loop->Owner() != this) return;
    try {
      FinishClose();
    } catch (const Napi::Error&) {
      // The environment is being terminated; its cleanup hook does the rest.
    }
  }

  Napi::Value Poll(const Napi::CallbackInfo& info) {
    timespec now{};
    clock_gettime(CLOCK_MONOTONIC, &now);
    clock_[0] = static_cast<double>(now.tv_sec) * 1e3 + static_cast<double>(now.tv_nsec) / 1e6;
    const size_t count = Collect(0);
    // What the kernel works on may need this very processor.
    if (count == 0 && inFlight_ > 0) sched_yield();
    return Napi::Number::New(info.Env(), static_cast<double>(count));
  }

  Napi::Value Cancel(const Napi::CallbackInfo& info) {
    Napi::Env env = info.Env();
    const auto count = info.Length() > 0 && info[0].IsNumber() ? info[0].As<Napi::Number>().DoubleValue() : -1;
    if (!(count >= 0 && count <= static_cast<double>(depth_))) ThrowRange(env, "BlockEngine.cancel: more tags than can be in flight");
    if (inFlight_ == 0 || loop_ == nullptr) return Napi::Number::New(env, 0);
    std::vector<uint32_t> tags(tags_.data(), tags_.data() + static_cast<size_t>(count));
    std::sort(tags.begin(), tags.end());
    std::vector<IoJob*> wanted;
    for (IoJob& job : jobs_) {
      if (job.inFlight && std::binary_search(tags.begin(), tags.end(), job.tag)) wanted.push_back(&job);
    }
    engine_->Quiet();
    engine_->Cancel(wanted.data(), wanted.size());
    return Napi::Number::New(env, static_cast<double>(Collect(0)));
  }

  Napi::Value SetPolling(const Napi::CallbackInfo& info) {
    if (info.Length() < 1 || !info[0].IsBoolean()) ThrowType(info.Env(), "BlockEngine.setPolling needs a boolean");
    polling_ = info[0].As<Napi::Boolean>().Value();
    if (!polling_ && inFlight_ > 0 && engine_->Listen()) engine_->Wake();
    return info.Env().Undefined();
  }

  Napi::Value Wake(const Napi::CallbackInfo& info) {
    if (loop_ != nullptr && !wakes_) {
      wakes_ = true;
      KeepAlive(true);
      engine_->Wake();
    }
    return info.Env().Undefined();
  }

  Napi::Value RegisterFile(const Napi::CallbackInfo& info) {
    if (info.Length() < 1 || !info[0].IsNumber()) ThrowType(info.Env(), "a file descriptor must be a number");
    if (loop_ == nullptr) return info.Env().Undefined();
    const int error = engine_->RegisterFile(info[0].As<Napi::Number>().Int32Value());
    if (error != 0) ThrowErrno(info.Env(), error, "io_uring_register");
    return info.Env().Undefined();
  }

  Napi::Value UnregisterFiles(const Napi::CallbackInfo& info) {
    if (loop_ != nullptr) engine_->UnregisterFiles();
    return info.Env().Undefined();
  }

  Napi::Value Kind(const Napi::CallbackInfo& info) {
    return Napi::String::New(info.Env(), ring_ ? "io_uring" : "threads");
  }

  Napi::Value InFlight(const Napi::CallbackInfo& info) {
    return Napi::Number::New(info.Env(), static_cast<double>(inFlight_));
  }

  Napi::Value Close(const Napi::CallbackInfo& info) {
    if (!closed_) closed_.emplace(Napi::Promise::Deferred::New(info.Env()));
    const Napi::Promise promise = closed_->Promise();
    closing_ = true;
    FinishClose();
    return promise;
  }

  void FinishClose() {
    if (!closing_ || inFlight_ > 0 || loop_ == nullptr) return;
    Napi::HandleScope scope(Env());
    // When this comes from the event loop, the scope is what runs the continuations of the promise.
    Napi::AsyncContext context(Env(), "BlockEngine.close");
    Napi::CallbackScope callbacks(Env(), context);
    closed_->Resolve(Env().Undefined());
    Shut();
  }

  void Shut() {
    if (loop_ == nullptr) return;
    engine_->Stop();
    loop_->Close();
    loop_ = nullptr;
    engine_.reset();
    inFlight_ = 0;
    Unref();
  }

  // An engine keeps the process alive while it has requests in flight, or is to wake the caller.
  void KeepAlive(bool on) {
    if (loop_ == nullptr || on == alive_) return;
    alive_ = on;
    auto* handle = reinterpret_cast<uv_handle_t*>(loop_->Raw());
    if (on) {
      uv_ref(handle);
    } else {
      uv_unref(handle);
    }
  }

  size_t depth_ = 0;
  size_t segments_ = 0;
  size_t inFlight_ = 0;
  bool closing_ = false;
  bool ring_ = false;
  bool readNow_ = true;
  bool writeNow_ = false;
  WritePause pause_;
  // The caller looks for completions; they do not wake the event loop.
  bool polling_ = false;
  // The caller asked to be called in the next turn of the event loop.
  bool wakes_ = false;
  bool alive_ = true;
  std::optional<Napi::Promise::Deferred> closed_;
  LoopHandle<uv_poll_t>* loop_ = nullptr;

  SharedArray<Napi::Uint8Array> ops_, flags_;
  SharedArray<Napi::Int32Array> fds_;
  SharedArray<Napi::Float64Array> offsets_, lengths_, segmentAddresses_, results_, clock_;
  SharedArray<Napi::Uint32Array> tags_, firstSegments_, segmentCounts_, segmentLengths_, completedTags_;
  JobArrays arrays_;

  std::vector<IoJob> jobs_;
  IoJob* free_ = nullptr;
  // Scratch of Submit.
  std::vector<IoJob*> completedNow_;
  // Last: its threads and the kernel use the jobs.
  std::optional<IoEngine> engine_;
};

}  // namespace

void InitBlockEngine(Napi::Env env, Napi::Object exports) { BlockEngine::Init(env, exports); }

}  // namespace virtkit
