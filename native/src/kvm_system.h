// KvmSystem: /dev/kvm itself.
#pragma once

#include "kvm_fd.h"

namespace virtkit {

class KvmSystem : public FdObject<KvmSystem> {
 public:
  static constexpr const char* kName = "KvmSystem";
  static constexpr Owner kOwner = kSystem;
  static constexpr napi_type_tag kTag = {0x7b1c3f1a52d94e01, 0x9e0d6a4c8f2b7701};

  // (path: string)
  explicit KvmSystem(const Napi::CallbackInfo& info);
  static void Init(Napi::Env env, Napi::Object exports);
};

}  // namespace virtkit
