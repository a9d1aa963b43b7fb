// What a block request does, as blocking system calls. Called on the threads of the pool; knows nothing of JavaScript.
#pragma once

#include <sys/uio.h>

#include <atomic>
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
  // Submitted, and not handed back yet. Of the thread that submits.
  bool inFlight = false;

  // Nobody wants the result any more: what has not been done of it need not be. By the thread that submits, for whichever does it.
  void Cancel() { std::atomic_ref<bool>(cancelled_).store(true, std::memory_order_relaxed); }
  bool Cancelled() const { return std::atomic_ref<const bool>(cancelled_).load(std::memory_order_relaxed); }
  // Nothing has been done of it.
  void Begin() {
    firstSegment = 0;
    done = 0;
    cancelled_ = false;
  }

  // Counts `bytes` more as transferred.
  void Advance(uint64_t bytes);
  bool Finished() const { return firstSegment == segments.size(); }

 private:
  bool cancelled_ = false;
};

// Does the job, whatever time it takes, and sets `result`: -ECANCELED when it was cancelled before it was done.
void PerformIo(IoJob& job);

// Does as much of a read as is possible without waiting, which is all of it when the data is in the page cache. True if
// the job is finished. Sets `supported` to false when the file system has no such thing.
bool TryReadNow(IoJob& job, bool& supported);

// Whether a write goes into the page cache by itself: whole pages, which need not be read before, and nothing to wait for but
// a cache that is full.
bool IsPlainWrite(const IoJob& job);

}  // namespace virtkit
