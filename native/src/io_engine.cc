#include "io_engine.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>

namespace virtkit {
namespace {

// Bytes that one batch may copy to and from the page cache on the submitting thread, some 50 us. The kernel's workers have
// what is beyond.
constexpr uint64_t kInlineBytes = 512 * 1024;

void SignalEvent(int fd) {
  const uint64_t one = 1;
  // Fails only when the counter is at its limit: it is signalled already.
  [[maybe_unused]] const ssize_t count = write(fd, &one, sizeof one);
}

bool IsRange(const IoJob& job) { return job.op == IoOp::kDiscard || job.op == IoOp::kWriteZeroes; }

// Answers of a file system or device that cannot do it as asked; the threads know other ways.
bool NeedsOtherWay(const IoJob& job, int32_t result) {
  return IsRange(job) && job.done == 0 && (result == -EOPNOTSUPP || result == -ENOSYS || result == -ENODEV || result == -EINVAL);
}

}  // namespace

IoEngine::~IoEngine() {
  Stop();
  if (eventFd_ >= 0) close(eventFd_);
}

int IoEngine::Open() {
  eventFd_ = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
  if (eventFd_ < 0) return errno;
  // The pool is stopped before the eventfd is closed.
  pool_.emplace(threads_, [](void* self) { static_cast<IoEngine*>(self)->Wake(); }, this);
  return 0;
}

int IoEngine::OpenRing(size_t depth) { return IoRing::Create(depth, eventFd_, ring_); }

void IoEngine::Wake() { SignalEvent(eventFd_); }

void IoEngine::ClearEvent() {
  uint64_t count = 0;
  [[maybe_unused]] const ssize_t bytes = read(eventFd_, &count, sizeof count);
}

void IoEngine::Finish(IoJob* job) {
  job->next = nullptr;
  *lastDone_ = job;
  lastDone_ = &job->next;
}

void IoEngine::Submit(IoJob* first, IoJob* last, size_t count) {
  last->next = nullptr;
  if (ring_) {
    SubmitToRing(first);
  } else {
    SubmitToPool(first, last, count);
  }
}

void IoEngine::SubmitToRing(IoJob* first) {
  uint64_t bytes = 0;
  for (IoJob* job = first; job != nullptr;) {
    IoJob* next = job->next;
    if (job->op <= IoOp::kWrite && job->Finished()) {
      job->result = 0;
      Finish(job);
    } else {
      uint64_t length = 0;
      for (const iovec& segment : job->segments) length += segment.iov_len;
      const bool tooMuch = length > kInlineBytes - bytes && (job->flags & kIoFlagWaits) == 0;
      if ((job->flags & kIoFlagWaits) == 0 && !tooMuch) bytes += length;
      QueueInRing(job, tooMuch);
    }
    job = next;
  }
  TakeFromRing();
}

// What the ring has no room for, the kernel being out of memory, the threads do.
void IoEngine::QueueInRing(IoJob* job, bool wait) {
  if (ring_->Room() == 0) ring_->Enter();
  if (ring_->Room() == 0) {
    SubmitToPool(job, job, 1);
    return;
  }
  ring_->Queue(job, wait);
  inRing_++;
}

void IoEngine::SubmitToPool(IoJob* first, IoJob* last, size_t count) {
  const int error = pool_->Submit(first, last, count);
  if (error == 0) return;
  // Without any thread the requests fail at once instead.
  last->next = nullptr;
  for (IoJob* job = first; job != nullptr;) {
    IoJob* next = job->next;
    job->result = -error;
    Finish(job);
    job = next;
  }
}

void IoEngine::Cancel(IoJob* const* jobs, size_t count) {
  for (size_t i = 0; i < count; i++) jobs[i]->Cancel();
  pool_->DropCancelled();
  if (!ring_ || inRing_ == 0) return;
  for (size_t i = 0; i < count; i++) {
    if (ring_->Room() == 0) ring_->Enter();
    // The kernel is out of memory; the rest is waited for.
    if (ring_->Room() == 0) break;
    // One that the threads have, or that is done, is not found.
    ring_->Cancel(jobs[i]);
  }
  TakeFromRing();
}

void IoEngine::TakeFromRing() {
  // Completions may queue what is left of their requests.
  do {
    if (ring_->NeedsEnter() && ring_->Enter() != 0) Wake();
    IoJob* job = nullptr;
    int32_t result = 0;
    bool any = false;
    while (ring_->Take(job, result)) {
      any = true;
      CompletedInRing(job, result);
    }
    if (!any) return;
  } while (ring_->NeedsEnter());
}

void IoEngine::CompletedInRing(IoJob* job, int32_t result) {
  inRing_--;
  const bool otherWay = NeedsOtherWay(*job, result);
  if (!otherWay && AdvanceJob(*job, result)) {
    Finish(job);
  } else if (job->Cancelled()) {
    job->result = -ECANCELED;
    Finish(job);
  } else if (otherWay) {
    SubmitToPool(job, job, 1);
  } else {
    QueueInRing(job, result == -EAGAIN);
  }
}

IoJob* IoEngine::TakeDone() {
  if (!pool_) return nullptr;
  if (ring_ && inRing_ > 0) TakeFromRing();
  for (IoJob* job = pool_->TakeDone(); job != nullptr;) {
    IoJob* next = job->next;
    Finish(job);
    job = next;
  }
  IoJob* first = done_;
  done_ = nullptr;
  lastDone_ = &done_;
  return first;
}

bool IoEngine::Listen() {
  if (!ring_) return false;
  ring_->SetSignals(true);
  return ring_->HasWork();
}

void IoEngine::Stop() {
  if (!pool_) return;
  pool_->Stop();
  if (ring_ && inRing_ > 0) {
    // The kernel writes to memory that may go when this returns.
    ring_->CancelAll();
    while (inRing_ > 0) {
      IoJob* job = nullptr;
      int32_t result = 0;
      ring_->Wait();
      while (ring_->Take(job, result)) inRing_--;
    }
  }
  // Closing a ring lets go of its files only some time later.
  UnregisterFiles();
  ring_.reset();
  pool_.reset();
}

}  // namespace virtkit
