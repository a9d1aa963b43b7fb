#pragma once

#include <napi.h>

namespace virtkit {

void InitBlockEngine(Napi::Env env, Napi::Object exports);

}  // namespace virtkit
