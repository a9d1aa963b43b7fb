// What all KVM handles share: an owned file descriptor, checked parent handles, and the table-driven ioctl.
#pragma once

#include <napi.h>
#include <unistd.h>

#include <string>
#include <utility>

#include "errors.h"
#include "kvm_ioctl.h"

namespace virtkit {

// Owns a file descriptor.
class UniqueFd {
 public:
  UniqueFd() = default;
  explicit UniqueFd(int fd) : fd_(fd) {}
  UniqueFd(UniqueFd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  UniqueFd& operator=(UniqueFd&& other) noexcept {
    if (this != &other) Reset(std::exchange(other.fd_, -1));
    return *this;
  }
  ~UniqueFd() { Reset(); }
  int get() const { return fd_; }
  void Reset(int fd = -1) {
    if (fd_ >= 0) ::close(fd_);
    fd_ = fd;
  }

 private:
  int fd_ = -1;
};

// Throws the error that @virtkit/kvm turns into a StateError.
[[noreturn]] void ThrowState(Napi::Env env, const std::string& message);

// Base of the JavaScript classes. `T` names its class (kName), its type tag (kTag) and which ioctls it takes (kOwner);
// it may hide Check() to refuse ioctls in some states.
template <class T>
class FdObject : public Napi::ObjectWrap<T> {
 public:
  explicit FdObject(const Napi::CallbackInfo& info) : Napi::ObjectWrap<T>(info) {
    info.This().As<Napi::Object>().TypeTag(&T::kTag);
  }

  // The object behind `value`; throws when it is of another class or closed.
  static T* From(Napi::Value value) {
    Napi::Env env = value.Env();
    if (!value.IsObject() || !value.As<Napi::Object>().CheckTypeTag(&T::kTag))
      ThrowType(env, std::string("not a ") + T::kName);
    T* object = T::Unwrap(value.As<Napi::Object>());
    object->CheckOpen(env);
    return object;
  }

  int fd() const { return fd_.get(); }

 protected:
  using Base = FdObject<T>;

  void CheckOpen(Napi::Env env) const {
    if (fd_.get() < 0) ThrowState(env, std::string(T::kName) + " is closed");
  }
  void Check(Napi::Env) const {}

  Napi::Value GetFd(const Napi::CallbackInfo& info) { return Napi::Number::New(info.Env(), fd_.get()); }
  void Close(const Napi::CallbackInfo&) { fd_.Reset(); }
  Napi::Value Ioctl(const Napi::CallbackInfo& info) {
    CheckOpen(info.Env());
    static_cast<T*>(this)->Check(info.Env());
    return TableIoctl(info, fd_.get(), T::kOwner, static_cast<T*>(this)->OpaqueSize());
  }
  Napi::Value Attribute(const Napi::CallbackInfo& info) {
    CheckOpen(info.Env());
    static_cast<T*>(this)->Check(info.Env());
    return DeviceAttribute(info, fd_.get());
  }
  // Bytes that requests of kind kOpaque move.
  size_t OpaqueSize() const { return 0; }

  // The members that every class exports.
  static std::vector<Napi::ClassPropertyDescriptor<T>> Members(
      std::initializer_list<Napi::ClassPropertyDescriptor<T>> more) {
    std::vector<Napi::ClassPropertyDescriptor<T>> all = {
        T::InstanceAccessor("fd", static_cast<typename Napi::ObjectWrap<T>::InstanceGetterCallback>(&T::GetFd), nullptr),
        T::InstanceMethod("ioctl", static_cast<typename Napi::ObjectWrap<T>::InstanceMethodCallback>(&T::Ioctl)),
        T::InstanceMethod("attribute",
                          static_cast<typename Napi::ObjectWrap<T>::InstanceMethodCallback>(&T::Attribute)),
        T::InstanceMethod("close",
                          static_cast<typename Napi::ObjectWrap<T>::InstanceVoidMethodCallback>(&T::Close)),
    };
    all.insert(all.end(), more.begin(), more.end());
    return all;
  }

  UniqueFd fd_;
};

// A byte range of an ArrayBuffer, SharedArrayBuffer view or Node Buffer argument; throws a TypeError for anything else.
struct Bytes {
  uint8_t* data;
  size_t size;
};
Bytes BytesOf(Napi::Value value, const char* what);

// An integer argument of at most 2^53 - 1.
uint64_t IntegerOf(Napi::Value value, const char* what);

void InitKvmSystem(Napi::Env env, Napi::Object exports);
void InitKvmVm(Napi::Env env, Napi::Object exports);
void InitVcpu(Napi::Env env, Napi::Object exports);
void InitExitHub(Napi::Env env, Napi::Object exports);
void InitKvmDevice(Napi::Env env, Napi::Object exports);
void InitKvmStats(Napi::Env env, Napi::Object exports);
void InitKvmConstants(Napi::Env env, Napi::Object exports);

}  // namespace virtkit
