// The ioctl requests that take nothing, an integer or a flat buffer: who takes which, and how large its buffer must be.
// Knows nothing of JavaScript.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace virtkit {

enum Owner : uint8_t { kSystem = 1, kVm = 2, kVcpu = 4, kDevice = 8 };

enum RequestKind : uint8_t {
  kNone,    // no argument
  kValue,   // an integer
  kStruct,  // a buffer of exactly `header` bytes
  kArray,   // `header` bytes that hold a 32-bit count at `count_offset`, and that many entries of `entry` bytes
  kSized,   // a buffer whose own length is the 32-bit value at `count_offset`, at least `header`
  kOpaque,  // a buffer of at least the size that the kernel reported for this handle (XSAVE)
};

struct KvmRequest {
  const char* name;
  unsigned long number;
  uint8_t owners;
  RequestKind kind;
  uint32_t header;
  uint32_t entry;
  uint32_t count_offset;
};

// The request of that name that `owner` takes, or nullptr.
const KvmRequest* FindKvmRequest(std::string_view name, Owner owner);

struct BufferSize {
  size_t bytes = 0;
  // A longer buffer is as wrong as a shorter one.
  bool exact = false;

  bool Fits(size_t size) const { return exact ? size == bytes : size >= bytes; }
};

// How large the buffer of a request must be, given the `size` bytes that it has: some hold a count of what follows.
// `opaque_size`: see kOpaque.
BufferSize NeededBytes(const KvmRequest& request, const uint8_t* data, size_t size, size_t opaque_size);

}  // namespace virtkit
