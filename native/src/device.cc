// KvmDevice: an in-kernel device made by KVM_CREATE_DEVICE; all it has are attributes.
#include <sys/ioctl.h>

#include "kvm_api.h"
#include "kvm_vm.h"

namespace virtkit {

namespace {

class KvmDevice : public FdObject<KvmDevice> {
 public:
  static constexpr const char* kName = "KvmDevice";
  static constexpr Owner kOwner = kDevice;
  static constexpr napi_type_tag kTag = {0x7b1c3f1a52d94e04, 0x9e0d6a4c8f2b7704};

  // (vm: KvmVm, type: number, test: boolean). With `test` KVM only says whether it could; fd stays -1.
  explicit KvmDevice(const Napi::CallbackInfo& info) : Base(info) {
    KvmVm* vm = KvmVm::From(info[0]);
    kvm_create_device create{};
    create.type = static_cast<uint32_t>(IntegerOf(info[1], "type"));
    bool test = info[2].ToBoolean();
    if (test) create.flags = KVM_CREATE_DEVICE_TEST;
    if (::ioctl(vm->fd(), KVM_CREATE_DEVICE, &create) < 0) ThrowErrno(info.Env(), errno, "KVM_CREATE_DEVICE");
    if (!test) fd_.Reset(static_cast<int>(create.fd));
  }

  static void Init(Napi::Env env, Napi::Object exports) {
    exports.Set(kName, DefineClass(env, kName, Members({})));
  }
};

}  // namespace

void InitKvmDevice(Napi::Env env, Napi::Object exports) { KvmDevice::Init(env, exports); }

}  // namespace virtkit
