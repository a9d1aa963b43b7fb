// Questions about the host that no file under /proc answers.
#include <linux/io_uring.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>

#include "modules.h"

namespace virtkit {

namespace {

// errno of an attempt to make an io_uring, 0 when it could be made: containers forbid the call by seccomp.
Napi::Value ProbeIoUring(const Napi::CallbackInfo& info) {
  io_uring_params params{};
  const long fd = syscall(__NR_io_uring_setup, 1, &params);
  const int error = fd < 0 ? errno : 0;
  if (fd >= 0) close(static_cast<int>(fd));
  return Napi::Number::New(info.Env(), error);
}

}  // namespace

void InitHost(Napi::Env env, Napi::Object exports) {
  exports.Set("probeIoUring", Napi::Function::New(env, ProbeIoUring, "probeIoUring"));
}

}  // namespace virtkit
