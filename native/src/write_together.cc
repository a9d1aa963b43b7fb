// Pieces of a file that are written together: no SIGKILL of this process comes in between.
//
// SIGKILL ends a write of several pages half way, and a loop of writes anywhere. A child that shares the memory (as
// vfork makes one) is another process: it ends its work when its parent is killed.

#include "write_together.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <vector>

#include "errors.h"

namespace virtkit {
namespace {

constexpr size_t kStackBytes = 32 * 1024;

struct Batch {
  int fd;
  std::vector<uint8_t> bytes;
  // Pairs of offset and length.
  std::vector<double> places;
  int error = 0;
  bool finished = false;
};

// Runs on memory that it shares, with the thread-local data of a thread that waits: it makes system calls and nothing else.
int WriteAll(void* argument) {
  Batch& batch = *static_cast<Batch*>(argument);
  const uint8_t* bytes = batch.bytes.data();
  for (size_t i = 0; i < batch.places.size(); i += 2) {
    auto offset = static_cast<off_t>(batch.places[i]);
    auto left = static_cast<size_t>(batch.places[i + 1]);
    while (left > 0) {
      const long written = syscall(SYS_pwrite64, batch.fd, bytes, left, offset);
      if (written < 0 && errno == EINTR) continue;
      if (written <= 0) {
        batch.error = written < 0 ? errno : EIO;
        batch.finished = true;
        return 0;
      }
      bytes += written;
      offset += written;
      left -= static_cast<size_t>(written);
    }
  }
  batch.finished = true;
  return 0;
}

void WriteInChild(Batch& batch) {
  std::vector<uint8_t> stack(kStackBytes);
  sigset_t all;
  sigset_t former;
  sigfillset(&all);
  // A handler must not run in the child: it would believe to be in this process.
  pthread_sigmask(SIG_SETMASK, &all, &former);
  // Without a signal for its end, which is awaited here: no SIGCHLD handler of the process learns of it.
  const auto top = reinterpret_cast<uintptr_t>(stack.data() + stack.size()) & ~uintptr_t{15};
  const int flags = CLONE_VM | CLONE_VFORK | CLONE_FILES;
  const pid_t child = clone(WriteAll, reinterpret_cast<void*>(top), flags, &batch);
  if (child > 0) {
    while (waitpid(child, nullptr, __WCLONE) < 0 && errno == EINTR) continue;
  }
  pthread_sigmask(SIG_SETMASK, &former, nullptr);
}

class Writer : public Napi::AsyncWorker {
 public:
  Writer(Napi::Env env, Batch batch)
      : Napi::AsyncWorker(env, "writeTogether"),
        batch_(std::move(batch)),
        deferred_(Napi::Promise::Deferred::New(env)) {}

  Napi::Promise Promise() const { return deferred_.Promise(); }

 protected:
  void Execute() override {
    WriteInChild(batch_);
    // No process could be made, or somebody killed it.
    if (!batch_.finished) WriteAll(&batch_);
  }

  void OnOK() override {
    if (batch_.error == 0) {
      deferred_.Resolve(Env().Undefined());
      return;
    }
    try {
      ThrowErrno(Env(), batch_.error, "pwrite");
    } catch (const Napi::Error& error) {
      deferred_.Reject(error.Value());
    }
  }

 private:
  Batch batch_;
  Napi::Promise::Deferred deferred_;
};

// writeTogether(fd, bytes, places)
Napi::Value WriteTogether(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  if (info.Length() < 3 || !info[0].IsNumber() || !info[1].IsTypedArray() || !info[2].IsTypedArray() ||
      info[1].As<Napi::TypedArray>().TypedArrayType() != napi_uint8_array ||
      info[2].As<Napi::TypedArray>().TypedArrayType() != napi_float64_array) {
    ThrowType(env, "writeTogether(fd, bytes: Uint8Array, places: Float64Array)");
  }
  auto bytes = info[1].As<Napi::Uint8Array>();
  auto places = info[2].As<Napi::Float64Array>();
  double total = 0;
  for (size_t i = 0; i < places.ElementLength(); i++) {
    if (!(places[i] >= 0 && places[i] <= 9007199254740991.0)) ThrowRange(env, "places are offsets and lengths in bytes");
    if (i % 2 == 1) total += places[i];
  }
  if (places.ElementLength() % 2 != 0 || total != static_cast<double>(bytes.ByteLength())) {
    ThrowRange(env, "the lengths of the places must be that of the bytes");
  }
  Batch batch{.fd = info[0].As<Napi::Number>().Int32Value(),
              .bytes = {bytes.Data(), bytes.Data() + bytes.ByteLength()},
              .places = {places.Data(), places.Data() + places.ElementLength()}};
  auto* writer = new Writer(env, std::move(batch));
  Napi::Promise promise = writer->Promise();
  writer->Queue();
  return promise;
}

}  // namespace

void InitWriteTogether(Napi::Env env, Napi::Object exports) {
  exports.Set("writeTogether", Napi::Function::New<WriteTogether>(env, "writeTogether"));
}

}  // namespace virtkit
