// KvmSystem, and the registration of all KVM classes.
#include <fcntl.h>

#include "kvm_system.h"
#include "modules.h"

namespace virtkit {

KvmSystem::KvmSystem(const Napi::CallbackInfo& info) : Base(info) {
  std::string path = info[0].ToString();
  fd_.Reset(::open(path.c_str(), O_RDWR | O_CLOEXEC));
  if (fd_.get() < 0) ThrowErrno(info.Env(), errno, "open", path);
}

void KvmSystem::Init(Napi::Env env, Napi::Object exports) { exports.Set(kName, DefineClass(env, kName, Members({}))); }

void InitKvm(Napi::Env env, Napi::Object exports) {
  KvmSystem::Init(env, exports);
  InitKvmVm(env, exports);
  InitVcpu(env, exports);
  InitExitHub(env, exports);
  InitKvmDevice(env, exports);
  InitKvmStats(env, exports);
  InitKvmConstants(env, exports);
}

}  // namespace virtkit
