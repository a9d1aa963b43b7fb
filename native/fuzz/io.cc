// PerformIo and TryReadNow on a file in memory, beside a model of it.
#include "io_ops.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <vector>

#include "input.h"

namespace {

using virtkit::IoJob;
using virtkit::IoOp;

constexpr size_t kFile = 16384;
constexpr int kJobs = 8;

class File {
 public:
  File() : fd(memfd_create("fuzz", MFD_CLOEXEC)), model(kFile) { MUST(fd >= 0 && ftruncate(fd, kFile) == 0); }
  ~File() { close(fd); }

  const int fd;
  std::vector<uint8_t> model;

  void Check() {
    std::vector<uint8_t> bytes(model.size() + 1);
    MUST(pread(fd, bytes.data(), bytes.size(), 0) == static_cast<ssize_t>(model.size()));
    bytes.pop_back();
    MUST(bytes == model);
  }
};

void Run(Input& input, File& file) {
  IoJob job;
  job.op = static_cast<IoOp>(input.U8() % (virtkit::kIoOpLast + 1));
  job.flags = input.U8() & (virtkit::kIoFlagSync | virtkit::kIoFlagUnmap);
  job.fd = file.fd;
  job.offset = input.U16() % (kFile + 1024);
  const bool moves = job.op == IoOp::kRead || job.op == IoOp::kWrite;
  if (!moves) {
    // The device sees to that.
    job.offset = std::min<uint64_t>(job.offset, kFile - 1);
    job.length = 1 + input.U16() % (kFile - job.offset);
  }
  const uint8_t shape = input.U8();
  // More than a system call takes at once, now and then.
  const size_t count = !moves ? 0 : shape > 240 ? 1000 + shape : shape % 8;
  std::vector<std::unique_ptr<uint8_t[]>> pieces;
  std::vector<size_t> lengths;
  size_t total = 0;
  for (size_t i = 0; i < count; i++) {
    const size_t length = count > 8 ? 1 + i % 3 : 1 + input.U16() % 3000;
    pieces.push_back(std::make_unique<uint8_t[]>(length));
    lengths.push_back(length);
    memset(pieces.back().get(), shape + static_cast<int>(i), length);
    job.segments.push_back({pieces.back().get(), length});
    total += length;
  }
  bool supported = true;
  const bool now = job.op == IoOp::kRead && (shape & 1) != 0 && virtkit::TryReadNow(job, supported);
  if (!now) virtkit::PerformIo(job);

  auto& model = file.model;
  if (job.op == IoOp::kRead) {
    const size_t there = job.offset >= model.size() ? 0 : std::min(total, model.size() - job.offset);
    MUST(job.result == static_cast<int64_t>(there));
    size_t at = job.offset;
    size_t left = there;
    for (size_t i = 0; i < count && left > 0; i++) {
      const size_t part = std::min(left, lengths[i]);
      MUST(memcmp(pieces[i].get(), &model[at], part) == 0);
      at += part;
      left -= part;
    }
  } else if (job.op == IoOp::kWrite) {
    MUST(job.result == static_cast<int64_t>(total));
    if (total > 0) model.resize(std::max(model.size(), job.offset + total));
    size_t at = job.offset;
    for (size_t i = 0; i < count; i++) {
      memcpy(&model[at], pieces[i].get(), lengths[i]);
      at += lengths[i];
    }
  } else {
    MUST(job.result == 0);
    if (job.op != IoOp::kFlush) std::fill_n(model.begin() + static_cast<ptrdiff_t>(job.offset), job.length, 0);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  Input input(data, size);
  File file;
  for (int jobs = 0; jobs < kJobs && input.Left() > 0; jobs++) Run(input, file);
  file.Check();
  return 0;
}
