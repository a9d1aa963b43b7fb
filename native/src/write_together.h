#pragma once

#include <napi.h>

namespace virtkit {

void InitWriteTogether(Napi::Env env, Napi::Object exports);

}  // namespace virtkit
