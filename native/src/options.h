// Typed access to the options object of a constructor. Every mistake of the caller is a TypeError or RangeError that
// names the option.
#pragma once

#include <napi.h>

#include <cmath>
#include <string>

#include "errors.h"

namespace virtkit {

constexpr double kMaxSafeInteger = 9007199254740991.0;

class Options {
 public:
  Options(Napi::Object object, const char* owner) : object_(object), owner_(owner) {}

  bool Has(const char* name) const {
    Napi::Value value = object_.Get(name);
    return !value.IsUndefined();
  }

  // A required integer.
  double Integer(const char* name, double minimum, double maximum) const {
    Napi::Value value = object_.Get(name);
    if (!value.IsNumber()) ThrowType(object_.Env(), Path(name) + " must be a number");
    const double number = value.As<Napi::Number>().DoubleValue();
    // Written so that NaN fails.
    if (!(number >= minimum && number <= maximum) || number != std::floor(number)) {
      ThrowRange(object_.Env(), Path(name) + " is out of range");
    }
    return number;
  }

  double Integer(const char* name, double minimum, double maximum, double fallback) const {
    return Has(name) ? Integer(name, minimum, maximum) : fallback;
  }

  // A required string.
  std::string Text(const char* name) const {
    Napi::Value value = object_.Get(name);
    if (!value.IsString()) ThrowType(object_.Env(), Path(name) + " must be a string");
    return value.As<Napi::String>().Utf8Value();
  }

  bool Boolean(const char* name, bool fallback) const {
    Napi::Value value = object_.Get(name);
    if (value.IsUndefined()) return fallback;
    if (!value.IsBoolean()) ThrowType(object_.Env(), Path(name) + " must be a boolean");
    return value.As<Napi::Boolean>().Value();
  }

 private:
  std::string Path(const char* name) const { return std::string(owner_) + ": " + name; }

  Napi::Object object_;
  const char* owner_;
};

}  // namespace virtkit
