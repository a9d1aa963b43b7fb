// KvmStats: the binary statistics of a VM or vCPU (KVM_GET_STATS_FD), read as raw bytes.
#include <sys/ioctl.h>

#include "kvm_api.h"
#include "kvm_vm.h"
#include "vcpu.h"

namespace virtkit {

namespace {

class KvmStats : public Napi::ObjectWrap<KvmStats> {
 public:
  // (of: KvmVm | KvmVcpu)
  explicit KvmStats(const Napi::CallbackInfo& info) : Napi::ObjectWrap<KvmStats>(info) {
    Napi::Env env = info.Env();
    bool vm = info[0].IsObject() && info[0].As<Napi::Object>().CheckTypeTag(&KvmVm::kTag);
    int fd;
    if (vm) {
      fd = KvmVm::From(info[0])->fd();
    } else {
      // Opening waits for KVM_RUN, reading later does not.
      KvmVcpu* vcpu = KvmVcpu::From(info[0]);
      vcpu->Check(env);
      fd = vcpu->fd();
    }
    int stats = ::ioctl(fd, KVM_GET_STATS_FD, 0);
    if (stats < 0) ThrowErrno(env, errno, "KVM_GET_STATS_FD");
    fd_.Reset(stats);
  }

  static void Init(Napi::Env env, Napi::Object exports) {
    exports.Set("KvmStats", DefineClass(env, "KvmStats",
                                        {InstanceMethod("read", &KvmStats::Read),
                                         InstanceMethod("close", &KvmStats::Close)}));
  }

 private:
  // (offset, target: view) -> bytes read
  Napi::Value Read(const Napi::CallbackInfo& info) {
    if (fd_.get() < 0) ThrowState(info.Env(), "KvmStats is closed");
    Bytes bytes = BytesOf(info[1], "target");
    ssize_t size = pread(fd_.get(), bytes.data, bytes.size, static_cast<off_t>(IntegerOf(info[0], "offset")));
    if (size < 0) ThrowErrno(info.Env(), errno, "pread", "of KVM statistics");
    return Napi::Number::New(info.Env(), static_cast<double>(size));
  }
  void Close(const Napi::CallbackInfo&) { fd_.Reset(); }

  UniqueFd fd_;
};

}  // namespace

void InitKvmStats(Napi::Env env, Napi::Object exports) { KvmStats::Init(env, exports); }

}  // namespace virtkit
