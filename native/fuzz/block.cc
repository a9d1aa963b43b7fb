// FillJob: entries of the submission arrays of any contents. A job that is accepted has the segments that the entry names.
#include "block_jobs.h"

#include <cmath>
#include <cstring>
#include <vector>

#include "input.h"

namespace {

constexpr size_t kDepth = 4;

double Number(Input& input) {
  const uint8_t how = input.U8();
  if (how < 0x60) return how;
  if (how < 0xc0) return static_cast<double>(input.U32());
  // Any double: fractions, infinities and NaN too.
  const uint64_t bits = input.U64();
  double value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  Input input(data, size);
  const size_t total = 1 + input.U8() % 8;
  std::vector<uint8_t> ops(kDepth), flags(kDepth);
  std::vector<int32_t> fds(kDepth);
  std::vector<double> offsets(kDepth), lengths(kDepth), addresses(total);
  std::vector<uint32_t> tags(kDepth), firsts(kDepth), counts(kDepth), bytes(total);
  for (size_t i = 0; i < total; i++) {
    addresses[i] = input.U32();
    bytes[i] = input.U8() % 4;
  }
  for (size_t i = 0; i < kDepth; i++) {
    ops[i] = input.U8() % 8;
    flags[i] = input.U8();
    offsets[i] = Number(input);
    lengths[i] = Number(input);
    tags[i] = input.U32();
    firsts[i] = (input.U8() & 1) != 0 ? input.U32() : input.U8() % 10;
    counts[i] = (input.U8() & 1) != 0 ? input.U32() : input.U8() % 10;
  }
  const virtkit::JobArrays arrays = {ops.data(),    flags.data(),  fds.data(),       offsets.data(), lengths.data(), tags.data(),
                                     firsts.data(), counts.data(), addresses.data(), bytes.data(),   total};
  virtkit::IoJob job;
  for (size_t i = 0; i < kDepth; i++) {
    if (virtkit::FillJob(arrays, i, job) != nullptr) continue;
    MUST(uint64_t{firsts[i]} + counts[i] <= total && ops[i] <= virtkit::kIoOpLast);
    MUST(offsets[i] >= 0 && job.offset == static_cast<uint64_t>(offsets[i]) && job.offset < uint64_t{1} << 53);
    MUST(lengths[i] >= 0 && job.length == static_cast<uint64_t>(lengths[i]) && job.length < uint64_t{1} << 53);
    size_t next = 0;
    for (size_t k = firsts[i]; k < firsts[i] + counts[i]; k++) {
      if (bytes[k] == 0) continue;
      MUST(next < job.segments.size());
      const iovec& segment = job.segments[next++];
      MUST(segment.iov_len == bytes[k]);
      MUST(reinterpret_cast<uintptr_t>(segment.iov_base) == static_cast<uintptr_t>(addresses[k]));
    }
    MUST(next == job.segments.size() && job.firstSegment == 0 && job.done == 0);
  }
  return 0;
}
