// An io_uring for block requests: queued without a system call, carried out by one for a batch. Knows nothing of
// JavaScript. All of it is called on the thread that made it.
#pragma once

#include <linux/io_uring.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "io_ops.h"

namespace virtkit {

class IoRing {
 public:
  // Makes one for at most `depth` requests in flight that signals `eventFd`. Returns errno, 0 on success: also ENOSYS when
  // the kernel has one that is too old (before 5.12).
  static int Create(size_t depth, int eventFd, std::unique_ptr<IoRing>& ring);
  ~IoRing();
  IoRing(const IoRing&) = delete;
  IoRing& operator=(const IoRing&) = delete;

  // The next requests on that descriptor find the file without the process's table, until `UnregisterFiles`. Returns errno.
  int RegisterFile(int fd);
  void UnregisterFiles();

  // Requests that can be queued before the next `Enter`.
  size_t Room() const { return entries_ - (queued_ - submitted_); }

  // Queues what is left to do of a request; there is room. `wait`: not on this thread, even if it could be done at once.
  void Queue(IoJob* job, bool wait);

  // Submits what was queued and has the kernel finish what it can. Returns errno; some may be left in the queue then.
  int Enter();

  // Takes one completion: the request and the kernel's result of it; false when there is none.
  bool Take(IoJob*& job, int32_t& result);

  // Whether `Take` or `Enter` would find something, and whether `Enter` would. No system calls.
  bool HasWork() const;
  bool NeedsEnter() const;

  // While off, completions do not signal the eventfd. Afterwards `HasWork` tells what was missed.
  void SetSignals(bool on);

  // Asks the kernel to give up a request, or all of them, as far as they can be; they complete all the same. For one, there is
  // room, and it goes with the next `Enter`.
  void Cancel(IoJob* job);
  void CancelAll();

  // Submits what was queued, and waits for a completion.
  void Wait();

 private:
  explicit IoRing(int fd) : fd_(fd) {}
  int Map(const io_uring_params& params);
  io_uring_sqe* NextEntry();
  bool Overflowed() const;
  int EnterKernel(unsigned submit, unsigned wait, unsigned flags);

  const int fd_;
  void* rings_ = nullptr;
  size_t ringBytes_ = 0;
  io_uring_sqe* sqes_ = nullptr;
  size_t sqeBytes_ = 0;

  // Of the submission queue.
  unsigned entries_ = 0;
  unsigned* sqTail_ = nullptr;
  unsigned* sqFlags_ = nullptr;
  unsigned sqMask_ = 0;
  unsigned queued_ = 0;
  unsigned submitted_ = 0;

  // Of the completion queue.
  unsigned* cqHead_ = nullptr;
  unsigned* cqTail_ = nullptr;
  unsigned* cqFlags_ = nullptr;
  unsigned cqMask_ = 0;
  io_uring_cqe* cqes_ = nullptr;
  // Completions are only written within `Enter`.
  bool deferred_ = false;

  // Descriptors in the kernel's table, by their index there.
  std::vector<int> files_;
};

// Takes the result of a system call in: true when the request is finished, with its result; false when the rest must be
// queued.
bool AdvanceJob(IoJob& job, int32_t result);

}  // namespace virtkit
