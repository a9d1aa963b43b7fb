#pragma once

#include <napi.h>

#include "errors.h"

namespace virtkit {

// A file descriptor that JavaScript passes. Throws TypeError or RangeError when it can be none.
inline int FdArgument(const Napi::CallbackInfo& info, size_t index) {
  if (info.Length() <= index || !info[index].IsNumber()) ThrowType(info.Env(), "a file descriptor must be a number");
  const double fd = info[index].As<Napi::Number>().DoubleValue();
  if (!(fd >= 0 && fd <= 0x7fffffff)) ThrowRange(info.Env(), "file descriptor out of range");
  return static_cast<int>(fd);
}

}  // namespace virtkit
