// What a block request does, as blocking system calls. Called on the threads of the pool; knows nothing of JavaScript.
#pragma once

#include <sys/uio.h>

#include <cstdint>
#include <vector>

namespace virtkit {

// The values are part of the contract in types/block.d.ts.
enum class IoOp : uint8_t { kRead = 0, kWrite = 1, kFlush = 2, kDiscard = 3, kWriteZeroes = 4 };
constexpr uint8_t kIoOpLast = 4;

// Durable before it completes.
constexpr uint8_t kIoFlagSync = 1;
// Zeroed ranges may lose their disk space.
constexpr uint8_t kIoFlagUnmap = 2;
// A read that waits for the disk whatever the page cache has (O_DIRECT): never on the submitting thread.
constexpr uint8_t kIoFlagWaits = 4;

struct IoJob {
  IoOp op = IoOp::kRead;
  uint8_t flags = 0;
  int fd = -1;
  uint64_t offset = 0;
  // Bytes, of discard and write zeroes.
  uint64_t length = 0;
  uint32_t tag = 0;
  // Of read and write; `firstSegment` of them are done, and `done` bytes in all.
  std::vector<iovec> segments;
  size_t firstSegment = 0;
  uint64_t done = 0;
  // Bytes transferred, or a negative errno.
  int64_t result = 0;
  IoJob* next = nullptr;

  // Counts `bytes` more as transferred.
  void Advance(uint64_t bytes);
  bool Finished() const { return firstSegment == segments.size(); }
};

// Does the job, whatever time it takes, and sets `result`.
void PerformIo(IoJob& job);

// Does as much of a read as is possible without waiting, which is all of it when the data is in the page cache. True if
// the job is finished. Sets `supported` to false when the file system has no such thing.
bool TryReadNow(IoJob& job, bool& supported);

// Whether a write goes into the page cache by itself: whole pages, which need not be read before, and nothing to wait for but
// a cache that is full.
bool IsPlainWrite(const IoJob& job);

}  // namespace virtkit
