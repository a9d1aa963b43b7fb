#include "modules.h"

namespace virtkit {

void InitMemory(Napi::Env, Napi::Object) {}

}  // namespace virtkit
