#include "errors.h"

#include <cstring>
#include <string>

namespace virtkit {

void ThrowErrno(Napi::Env env, int error, const char* syscall, const std::string& detail) {
  const char* name = strerrorname_np(error);
  std::string code = name != nullptr ? name : "E" + std::to_string(error);
  std::string message = std::string(syscall) + ": " + code + ", " + strerror(error);
  if (!detail.empty()) message += " (" + detail + ")";
  Napi::Error e = Napi::Error::New(env, message);
  e.Set("code", Napi::String::New(env, code));
  e.Set("errno", Napi::Number::New(env, error));
  e.Set("syscall", Napi::String::New(env, syscall));
  throw e;
}

void ThrowType(Napi::Env env, const std::string& message) { throw Napi::TypeError::New(env, message); }

void ThrowRange(Napi::Env env, const std::string& message) { throw Napi::RangeError::New(env, message); }

}  // namespace virtkit
