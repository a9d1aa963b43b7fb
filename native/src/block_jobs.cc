#include "block_jobs.h"

namespace virtkit {
namespace {

constexpr double kMaxSafe = 9007199254740991.0;

// Written so that NaN fails.
bool IsSize(double number) { return number >= 0 && number <= kMaxSafe; }

}  // namespace

const char* FillJob(const JobArrays& arrays, size_t index, IoJob& job) {
  const size_t first = arrays.firstSegments[index];
  const size_t count = arrays.segmentCounts[index];
  const double offset = arrays.offsets[index];
  const double length = arrays.lengths[index];
  if (arrays.ops[index] > kIoOpLast) return "unknown operation";
  if (first > arrays.segments || count > arrays.segments - first) return "segments out of range";
  if (!IsSize(offset) || !IsSize(length)) return "offset or length out of range";
  job.op = static_cast<IoOp>(arrays.ops[index]);
  job.flags = arrays.flags[index];
  job.fd = arrays.fds[index];
  job.offset = static_cast<uint64_t>(offset);
  job.length = static_cast<uint64_t>(length);
  job.tag = arrays.tags[index];
  job.Begin();
  job.segments.clear();
  for (size_t i = first; i < first + count; i++) {
    if (arrays.segmentLengths[i] == 0) continue;
    auto* address = reinterpret_cast<void*>(static_cast<uintptr_t>(arrays.segmentAddresses[i]));
    job.segments.push_back({address, arrays.segmentLengths[i]});
  }
  return nullptr;
}

}  // namespace virtkit
