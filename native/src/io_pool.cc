#include "io_pool.h"

#include <pthread.h>
#include <signal.h>

#include <algorithm>
#include <cerrno>
#include <system_error>

namespace virtkit {
namespace {

// Signals are for the threads that expect them.
class SignalsBlocked {
 public:
  SignalsBlocked() {
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before_);
  }
  ~SignalsBlocked() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }

 private:
  sigset_t before_{};
};

}  // namespace

IoPool::IoPool(size_t maxThreads, void (*wake)(void*), void* context)
    : maxThreads_(maxThreads), wake_(wake), context_(context) {
  threads_.reserve(maxThreads);
}

int IoPool::Submit(IoJob* first, IoJob* last, size_t count) {
  std::unique_lock lock(mutex_);
  const size_t busy = pending_ + count;
  if (busy > idle_) {
    const int error = StartThreads(busy - idle_);
    if (error != 0) return error;
  }
  last->next = nullptr;
  (last_ != nullptr ? last_->next : first_) = first;
  last_ = last;
  pending_ += count;
  const size_t wake = std::min(count, idle_);
  lock.unlock();
  for (size_t i = 0; i < wake; i++) work_.notify_one();
  return 0;
}

// Called with the mutex held. New threads inherit the mask of this one.
int IoPool::StartThreads(size_t wanted) {
  if (threads_.size() == maxThreads_) return 0;
  SignalsBlocked blocked;
  try {
    for (; wanted > 0 && threads_.size() < maxThreads_; wanted--) {
      threads_.emplace_back([this] { Run(); });
      pthread_setname_np(threads_.back().native_handle(), "virtkit-io");
    }
  } catch (const std::system_error& error) {
    if (threads_.empty()) return error.code().value() != 0 ? error.code().value() : EAGAIN;
  }
  return 0;
}

void IoPool::Run() {
  std::unique_lock lock(mutex_);
  for (;;) {
    while (first_ == nullptr && !stop_) {
      idle_++;
      work_.wait(lock);
      idle_--;
    }
    if (stop_) return;
    IoJob* job = first_;
    first_ = job->next;
    if (first_ == nullptr) last_ = nullptr;
    pending_--;
    lock.unlock();

    PerformIo(*job);
    // Whoever finds the stack empty wakes; the others are collected by the same wake-up.
    if (PushDone(job)) wake_(context_);

    lock.lock();
  }
}

// True when there was none.
bool IoPool::PushDone(IoJob* job) {
  IoJob* head = done_.load(std::memory_order_relaxed);
  do {
    job->next = head;
  } while (!done_.compare_exchange_weak(head, job, std::memory_order_release, std::memory_order_relaxed));
  return head == nullptr;
}

void IoPool::DropCancelled() {
  std::lock_guard lock(mutex_);
  last_ = nullptr;
  for (IoJob** link = &first_; *link != nullptr;) {
    IoJob* job = *link;
    if (!job->Cancelled()) {
      last_ = job;
      link = &job->next;
      continue;
    }
    *link = job->next;
    pending_--;
    job->result = -ECANCELED;
    // Whoever called this looks at once: nobody needs to be woken.
    PushDone(job);
  }
}

IoJob* IoPool::TakeDone() {
  IoJob* newest = done_.exchange(nullptr, std::memory_order_acquire);
  IoJob* oldest = nullptr;
  while (newest != nullptr) {
    IoJob* next = newest->next;
    newest->next = oldest;
    oldest = newest;
    newest = next;
  }
  return oldest;
}

void IoPool::Stop() {
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
    first_ = last_ = nullptr;
    pending_ = 0;
  }
  work_.notify_all();
  for (std::thread& thread : threads_) thread.join();
  threads_.clear();
}

}  // namespace virtkit
