// Errors that cross into JavaScript: they carry errno and the name of the system call or ioctl.
#pragma once

#include <napi.h>

#include <cerrno>

namespace virtkit {

// Throws a JavaScript Error with `code` (errno's name), `errno` (positive) and `syscall`. `detail` ends the message.
[[noreturn]] void ThrowErrno(Napi::Env env, int error, const char* syscall, const std::string& detail = "");

// Throws a TypeError or RangeError for a caller's mistake.
[[noreturn]] void ThrowType(Napi::Env env, const std::string& message);
[[noreturn]] void ThrowRange(Napi::Env env, const std::string& message);

}  // namespace virtkit
