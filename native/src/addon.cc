#include "modules.h"

namespace {

Napi::Object Init(Napi::Env env, Napi::Object exports) {
  virtkit::InitKvm(env, exports);
  virtkit::InitMemory(env, exports);
  virtkit::InitEvents(env, exports);
  virtkit::InitPoller(env, exports);
  virtkit::InitBlock(env, exports);
  virtkit::InitNet(env, exports);
  virtkit::InitUnix(env, exports);
  virtkit::InitHost(env, exports);
  return exports;
}

NODE_API_MODULE(virtkit_native, Init)

}  // namespace
