// Threads that do blocking I/O. Started when there is work, at most a given number, joined by `Stop`.
#pragma once

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

#include "io_ops.h"

namespace virtkit {

class IoPool {
 public:
  // `wake(context)` is called on a pool thread when the first job is done after `TakeDone` found none.
  IoPool(size_t maxThreads, void (*wake)(void*), void* context);
  ~IoPool() { Stop(); }
  IoPool(const IoPool&) = delete;
  IoPool& operator=(const IoPool&) = delete;

  // Takes over a list of `count` jobs linked by `next`, from `first` to `last`. Returns errno, 0 on success: it fails
  // only if there is not one thread and none can be made; the jobs are not taken then.
  int Submit(IoJob* first, IoJob* last, size_t count);

  // Gives up those that were cancelled and have not begun; `TakeDone` has them, with -ECANCELED.
  void DropCancelled();

  // All jobs done since the last call, in the order in which they were done, linked by `next`.
  IoJob* TakeDone();

  // Waits for jobs that have begun, forgets those that have not, joins the threads. Idempotent.
  void Stop();

 private:
  void Run();
  bool PushDone(IoJob* job);
  int StartThreads(size_t wanted);

  const size_t maxThreads_;
  void (*const wake_)(void*);
  void* const context_;

  std::mutex mutex_;
  std::condition_variable work_;
  // Guarded by mutex_.
  IoJob* first_ = nullptr;
  IoJob* last_ = nullptr;
  size_t pending_ = 0;
  size_t idle_ = 0;
  bool stop_ = false;

  std::vector<std::thread> threads_;
  // A stack: the newest first.
  std::atomic<IoJob*> done_{nullptr};
};

}  // namespace virtkit
