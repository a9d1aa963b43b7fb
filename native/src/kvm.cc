#include "modules.h"

namespace virtkit {

void InitKvm(Napi::Env, Napi::Object) {}

}  // namespace virtkit
