// When writes may be done on a thread that has other things to do: while they do not in fact wait.
#pragma once

#include <sys/resource.h>

#include <algorithm>
#include <chrono>

namespace virtkit {

// What a pause goes by: the time, and what happened to this thread.
struct ThisThread {
  using Clock = std::chrono::steady_clock;
  static Clock::time_point Now() { return Clock::now(); }
  // Times that it gave the processor up by itself. A system call.
  static long Waits() {
    rusage usage{};
    getrusage(RUSAGE_THREAD, &usage);
    return usage.ru_nvcsw;
  }
};

// `Thread` is another only in tests.
template <typename Thread>
class BasicWritePause {
 public:
  bool Allows() const { return Thread::Now() >= until_; }

  // Around some writes. After some that waited for long there are none for a time, which doubles while that goes on.
  void Begin() {
    began_ = Thread::Now();
    watched_ = began_ < watchUntil_;
    if (watched_) waits_ = Thread::Waits();
  }
  void End() {
    const auto now = Thread::Now();
    if (now - began_ < kSlow) return;
    // Time alone does not tell: another thread may have had the processor. So the next ones are watched closely.
    watchUntil_ = now + kWatched;
    if (!watched_ || Thread::Waits() == waits_) return;
    const bool again = pause_ != Duration::zero() && now - until_ < kForgiven;
    pause_ = again ? std::min<Duration>(2 * pause_, kLongest) : kFirst;
    until_ = now + pause_;
    // So are those that come next: one that waits is enough.
    watchUntil_ = until_ + kWatched;
  }

 private:
  using Clock = typename Thread::Clock;
  using Duration = typename Clock::duration;
  // Some thousand pages are copied in less.
  static constexpr Duration kSlow = std::chrono::milliseconds(5);
  static constexpr Duration kWatched = std::chrono::seconds(1);
  static constexpr Duration kFirst = std::chrono::seconds(1);
  static constexpr Duration kLongest = std::chrono::seconds(64);
  static constexpr Duration kForgiven = std::chrono::seconds(10);

  typename Clock::time_point began_{};
  bool watched_ = false;
  long waits_ = 0;
  typename Clock::time_point watchUntil_{};
  typename Clock::time_point until_{};
  Duration pause_{};
};

using WritePause = BasicWritePause<ThisThread>;

}  // namespace virtkit
