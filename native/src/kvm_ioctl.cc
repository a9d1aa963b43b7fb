#include "kvm_ioctl.h"

#include <sys/ioctl.h>

#include <cerrno>
#include <string>

#include "errors.h"
#include "kvm_api.h"
#include "kvm_fd.h"

namespace virtkit {

namespace {

const KvmRequest& Find(Napi::Env env, Napi::Value name, Owner owner) {
  if (!name.IsString()) ThrowType(env, "the request must be a name such as KVM_GET_REGS");
  std::string text = name.As<Napi::String>();
  const KvmRequest* request = FindKvmRequest(text, owner);
  if (request == nullptr) ThrowType(env, "this handle takes no request " + text);
  return *request;
}

void CheckSize(Napi::Env env, const KvmRequest& request, const Bytes& bytes, size_t opaque_size) {
  const BufferSize needed = NeededBytes(request, bytes.data, bytes.size, opaque_size);
  if (needed.Fits(bytes.size)) return;
  ThrowRange(env, std::string(request.name) + " needs a buffer of " + (needed.exact ? "" : "at least ") +
                      std::to_string(needed.bytes) + " bytes, not " + std::to_string(bytes.size));
}

}  // namespace

Napi::Value TableIoctl(const Napi::CallbackInfo& info, int fd, Owner owner, size_t opaque_size) {
  Napi::Env env = info.Env();
  const KvmRequest& request = Find(env, info[0], owner);
  unsigned long argument = 0;
  if (request.kind == kValue) {
    argument = IntegerOf(info[1], request.name);
  } else if (request.kind != kNone) {
    Bytes bytes = BytesOf(info[1], request.name);
    CheckSize(env, request, bytes, opaque_size);
    argument = reinterpret_cast<unsigned long>(bytes.data);
  }
  int result = ::ioctl(fd, request.number, argument);
  if (result < 0) ThrowErrno(env, errno, request.name);
  return Napi::Number::New(env, result);
}

Napi::Value DeviceAttribute(const Napi::CallbackInfo& info, int fd) {
  Napi::Env env = info.Env();
  std::string operation = info[0].ToString();
  kvm_device_attr attribute{};
  attribute.group = static_cast<uint32_t>(IntegerOf(info[1], "group"));
  attribute.attr = IntegerOf(info[2], "attribute");
  if (!info[3].IsUndefined()) {
    Bytes value = BytesOf(info[3], "value");
    if (value.size < sizeof(uint64_t)) ThrowRange(env, "an attribute's value needs a buffer of at least 8 bytes");
    attribute.addr = reinterpret_cast<uint64_t>(value.data);
  }
  if (operation == "has") {
    if (::ioctl(fd, KVM_HAS_DEVICE_ATTR, &attribute) == 0) return Napi::Boolean::New(env, true);
    // EPERM, ENOTTY: the handle knows no attributes at all.
    if (errno == ENXIO || errno == EPERM || errno == ENOTTY) return Napi::Boolean::New(env, false);
    ThrowErrno(env, errno, "KVM_HAS_DEVICE_ATTR");
  }
  bool set = operation == "set";
  if (!set && operation != "get") ThrowType(env, "the operation must be has, get or set");
  if (::ioctl(fd, set ? KVM_SET_DEVICE_ATTR : KVM_GET_DEVICE_ATTR, &attribute) < 0)
    ThrowErrno(env, errno, set ? "KVM_SET_DEVICE_ATTR" : "KVM_GET_DEVICE_ATTR");
  return env.Undefined();
}

Bytes BytesOf(Napi::Value value, const char* what) {
  if (value.IsTypedArray()) {
    // napi_get_typedarray_info works for views of a SharedArrayBuffer too; Napi::TypedArray does not.
    napi_typedarray_type type;
    size_t length;
    void* data;
    napi_get_typedarray_info(value.Env(), value, &type, &length, &data, nullptr, nullptr);
    static constexpr size_t kWidth[] = {1, 1, 1, 2, 2, 4, 4, 4, 8, 8, 8};
    return {static_cast<uint8_t*>(data), length * kWidth[type]};
  }
  if (value.IsDataView()) {
    size_t length;
    void* data;
    napi_get_dataview_info(value.Env(), value, &length, &data, nullptr, nullptr);
    return {static_cast<uint8_t*>(data), length};
  }
  if (value.IsArrayBuffer()) {
    Napi::ArrayBuffer buffer = value.As<Napi::ArrayBuffer>();
    return {static_cast<uint8_t*>(buffer.Data()), buffer.ByteLength()};
  }
  ThrowType(value.Env(), std::string(what) + " needs a buffer");
}

uint64_t IntegerOf(Napi::Value value, const char* what) {
  double number = value.IsNumber() ? value.As<Napi::Number>().DoubleValue() : -1;
  if (!(number >= 0 && number <= 9007199254740991.0) || number != static_cast<double>(static_cast<uint64_t>(number)))
    ThrowRange(value.Env(), std::string(what) + " needs an integer from 0 to 2^53 - 1");
  return static_cast<uint64_t>(number);
}

void ThrowState(Napi::Env env, const std::string& message) {
  Napi::Error error = Napi::Error::New(env, message);
  error.Set("code", Napi::String::New(env, "ERR_VIRTKIT_STATE"));
  throw error;
}

}  // namespace virtkit
