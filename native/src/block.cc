#include "modules.h"

namespace virtkit {

void InitBlock(Napi::Env, Napi::Object) {}

}  // namespace virtkit
