#include "modules.h"

namespace virtkit {

void InitEvents(Napi::Env, Napi::Object) {}

}  // namespace virtkit
