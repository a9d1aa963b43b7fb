// When writes may be done on a thread that has other things to do: while they do not in fact wait.
#pragma once

#include <sys/resource.h>

#include <algorithm>
#include <chrono>

namespace virtkit {

class WritePause {
 public:
  bool Allows() const { return Clock::now() >= until_; }

  // Around some writes. After some that waited for long there are none for a time, which doubles while that goes on.
  void Begin() {
    began_ = Clock::now();
    watched_ = began_ < watchUntil_;
    if (watched_) waits_ = Waits();
  }
  void End() {
    const auto now = Clock::now();
    if (now - began_ < kSlow) return;
    // Time alone does not tell: another thread may have had the processor. So the next ones are watched closely.
    watchUntil_ = now + kWatched;
    if (!watched_ || Waits() == waits_) return;
    const bool again = pause_ != Clock::duration::zero() && now - until_ < kForgiven;
    pause_ = again ? std::min<Clock::duration>(2 * pause_, kLongest) : kFirst;
    until_ = now + pause_;
  }

 private:
  using Clock = std::chrono::steady_clock;
  // Some thousand pages are copied in less.
  static constexpr Clock::duration kSlow = std::chrono::milliseconds(5);
  static constexpr Clock::duration kWatched = std::chrono::seconds(1);
  static constexpr Clock::duration kFirst = std::chrono::seconds(1);
  static constexpr Clock::duration kLongest = std::chrono::seconds(64);
  static constexpr Clock::duration kForgiven = std::chrono::seconds(10);

  // Times that this thread gave the processor up by itself.
  static long Waits() {
    rusage usage{};
    getrusage(RUSAGE_THREAD, &usage);
    return usage.ru_nvcsw;
  }

  Clock::time_point began_{};
  bool watched_ = false;
  long waits_ = 0;
  Clock::time_point watchUntil_{};
  Clock::time_point until_{};
  Clock::duration pause_{};
};

}  // namespace virtkit
