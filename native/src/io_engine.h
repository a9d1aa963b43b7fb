// Carries block requests out: by an io_uring, or by threads where there is none. Knows nothing of JavaScript. All of it is
// called on the thread that made it.
#pragma once

#include <cstddef>
#include <memory>
#include <optional>

#include "io_ops.h"
#include "io_pool.h"
#include "io_ring.h"

namespace virtkit {

class IoEngine {
 public:
  // At most `threads` of its own; those of the kernel's ring are the kernel's affair.
  explicit IoEngine(size_t threads) : threads_(threads) {}
  ~IoEngine();
  IoEngine(const IoEngine&) = delete;
  IoEngine& operator=(const IoEngine&) = delete;

  // Before all else. Returns the errno of what failed, and which system call that was: there is no engine then.
  int Open();
  // Takes a ring, for at most `depth` requests in flight. Returns errno; without one there are threads.
  int OpenRing(size_t depth);

  // Readable when something may be done and `Listen` was the last word.
  int EventFd() const { return eventFd_; }
  // Makes it unreadable again.
  void ClearEvent();

  // See IoRing. Nothing without a ring.
  int RegisterFile(int fd) { return ring_ ? ring_->RegisterFile(fd) : 0; }
  void UnregisterFiles() {
    if (ring_) ring_->UnregisterFiles();
  }

  // Takes over a list of `count` requests linked by `next`.
  void Submit(IoJob* first, IoJob* last, size_t count);
  // Has what can still be given up of these, some of what was submitted, completed soon, with -ECANCELED. What has begun may
  // complete as ever, done as a whole or in part.
  void Cancel(IoJob* const* jobs, size_t count);
  // What is done since the last call, linked by `next`. No system call when there is nothing.
  IoJob* TakeDone();

  // Completions of the ring no more signal the eventfd.
  void Quiet() {
    if (ring_) ring_->SetSignals(false);
  }
  // They do; true when some came before.
  bool Listen();
  // Makes the eventfd readable.
  void Wake();

  // Gives up what has not begun, waits for what has, and forgets all of it. Idempotent.
  void Stop();

 private:
  void SubmitToRing(IoJob* first);
  void QueueInRing(IoJob* job, bool wait);
  void SubmitToPool(IoJob* first, IoJob* last, size_t count);
  void TakeFromRing();
  void CompletedInRing(IoJob* job, int32_t result);
  void Finish(IoJob* job);

  const size_t threads_;
  int eventFd_ = -1;
  std::unique_ptr<IoRing> ring_;
  // Requests that the ring has.
  size_t inRing_ = 0;
  IoJob* done_ = nullptr;
  IoJob** lastDone_ = &done_;
  std::optional<IoPool> pool_;
};

}  // namespace virtkit
