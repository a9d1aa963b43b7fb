// One generic ioctl entry point for all requests whose argument is nothing, an integer or a flat buffer. The table says
// which handle takes a request and how large its buffer must be, so that the kernel never writes past a buffer.
#pragma once

#include <napi.h>

#include "kvm_requests.h"

namespace virtkit {

// (name, argument?) -> the ioctl's result. Throws the errno error with the request's name, or a TypeError/RangeError
// for a request that this handle does not take or a buffer of the wrong size. `opaque_size`: see kOpaque.
Napi::Value TableIoctl(const Napi::CallbackInfo& info, int fd, Owner owner, size_t opaque_size);

// (operation: "has" | "get" | "set", group, attribute, buffer?) -> for "has" a boolean. KVM_{HAS,GET,SET}_DEVICE_ATTR.
Napi::Value DeviceAttribute(const Napi::CallbackInfo& info, int fd);

}  // namespace virtkit
