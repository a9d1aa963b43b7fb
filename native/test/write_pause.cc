// Reads what writes do, a line each, and says when they are allowed again: for write-pause.test.ts, which compiles it.
//
//   sleep MS          nothing is written meanwhile
//   write MS WAITS    a write that takes so long, and during which the thread gave its processor up so many times
//
// Answers each line with whether writes are allowed, and how often the kernel was asked for the thread's waits so far.
#include "../src/write_pause.h"

#include <chrono>
#include <iostream>
#include <string>

namespace {

struct ToldThread {
  using Clock = std::chrono::steady_clock;
  static Clock::time_point Now() { return now; }
  static long Waits() {
    asked++;
    return waits;
  }
  static inline Clock::time_point now{std::chrono::hours(1)};
  static inline long waits = 7;
  static inline int asked = 0;
};

}  // namespace

int main() {
  virtkit::BasicWritePause<ToldThread> pause;
  std::string what;
  long milliseconds = 0;
  while (std::cin >> what >> milliseconds) {
    const bool write = what == "write";
    long waits = 0;
    if (write) std::cin >> waits;
    if (write) pause.Begin();
    ToldThread::now += std::chrono::milliseconds(milliseconds);
    ToldThread::waits += waits;
    if (write) pause.End();
    std::cout << (pause.Allows() ? "yes " : "no ") << ToldThread::asked << "\n";
  }
}
