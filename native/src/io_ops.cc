#include "io_ops.h"

#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>

namespace virtkit {
namespace {

// IOV_MAX of the kernel; more are passed on in several calls.
constexpr size_t kMaxSegments = 1024;
constexpr size_t kZeroChunk = 64 * 1024;

bool IsBlockDevice(int fd) {
  struct stat info {};
  return fstat(fd, &info) == 0 && S_ISBLK(info.st_mode);
}

ssize_t Transfer(IoJob& job, int flags) {
  const iovec* segments = job.segments.data() + job.firstSegment;
  const int count = static_cast<int>(std::min(job.segments.size() - job.firstSegment, kMaxSegments));
  const auto offset = static_cast<off_t>(job.offset + job.done);
  return job.op == IoOp::kRead ? preadv2(job.fd, segments, count, offset, flags)
                               : pwritev2(job.fd, segments, count, offset, flags);
}

// Continues short transfers until all is done, the file ends or an error comes.
int64_t ReadOrWrite(IoJob& job) {
  const int flags = job.op == IoOp::kWrite && (job.flags & kIoFlagSync) != 0 ? RWF_DSYNC : 0;
  while (!job.Finished()) {
    if (job.Cancelled()) return -ECANCELED;
    const ssize_t count = Transfer(job, flags);
    if (count > 0) {
      job.Advance(static_cast<uint64_t>(count));
    } else if (count == 0) {
      break;
    } else if (errno != EINTR) {
      return -errno;
    }
  }
  return static_cast<int64_t>(job.done);
}

int Allocate(const IoJob& job, int mode) {
  int result;
  do {
    result = fallocate(job.fd, mode | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(job.offset),
                       static_cast<off_t>(job.length));
  } while (result != 0 && errno == EINTR);
  return result == 0 ? 0 : -errno;
}

bool Unsupported(int64_t result) { return result == -EOPNOTSUPP || result == -ENOSYS || result == -ENOTTY; }

int64_t Discard(const IoJob& job) {
  if (IsBlockDevice(job.fd)) {
    uint64_t range[2] = {job.offset, job.length};
    return ioctl(job.fd, BLKDISCARD, range) == 0 ? 0 : -errno;
  }
  return Allocate(job, FALLOC_FL_PUNCH_HOLE);
}

int64_t WriteZeroBuffers(const IoJob& job) {
  static const std::array<char, kZeroChunk> zeros{};
  for (uint64_t done = 0; done < job.length;) {
    if (job.Cancelled()) return -ECANCELED;
    const size_t chunk = static_cast<size_t>(std::min<uint64_t>(job.length - done, zeros.size()));
    const ssize_t count = pwrite(job.fd, zeros.data(), chunk, static_cast<off_t>(job.offset + done));
    if (count < 0 && errno != EINTR) return -errno;
    if (count == 0) return -EIO;
    if (count > 0) done += static_cast<uint64_t>(count);
  }
  return 0;
}

int64_t WriteZeroes(const IoJob& job) {
  int64_t result = -EOPNOTSUPP;
  if (IsBlockDevice(job.fd)) {
    uint64_t range[2] = {job.offset, job.length};
    result = ioctl(job.fd, BLKZEROOUT, range) == 0 ? 0 : -errno;
  } else {
    if ((job.flags & kIoFlagUnmap) != 0) result = Allocate(job, FALLOC_FL_PUNCH_HOLE);
    if (Unsupported(result)) result = Allocate(job, FALLOC_FL_ZERO_RANGE);
  }
  return Unsupported(result) ? WriteZeroBuffers(job) : result;
}

int64_t Flush(int fd) {
  int result;
  do {
    result = fdatasync(fd);
  } while (result != 0 && errno == EINTR);
  return result == 0 ? 0 : -errno;
}

int64_t Execute(IoJob& job) {
  if (job.Cancelled()) return -ECANCELED;
  switch (job.op) {
    case IoOp::kRead:
    case IoOp::kWrite:
      return ReadOrWrite(job);
    case IoOp::kFlush:
      return Flush(job.fd);
    case IoOp::kDiscard:
      return Discard(job);
    case IoOp::kWriteZeroes:
      return WriteZeroes(job);
  }
  return -EINVAL;
}

}  // namespace

void IoJob::Advance(uint64_t bytes) {
  done += bytes;
  while (bytes > 0) {
    iovec& segment = segments[firstSegment];
    if (bytes < segment.iov_len) {
      segment.iov_base = static_cast<char*>(segment.iov_base) + bytes;
      segment.iov_len -= bytes;
      return;
    }
    bytes -= segment.iov_len;
    firstSegment++;
  }
}

void PerformIo(IoJob& job) {
  job.result = Execute(job);
  const bool changes = job.op == IoOp::kDiscard || job.op == IoOp::kWriteZeroes;
  if (changes && job.result == 0 && (job.flags & kIoFlagSync) != 0) job.result = Flush(job.fd);
}

bool IsPlainWrite(const IoJob& job) {
  constexpr uint64_t kPage = 4096;
  if (job.op != IoOp::kWrite || (job.flags & (kIoFlagSync | kIoFlagWaits)) != 0 || job.offset % kPage != 0) return false;
  uint64_t bytes = 0;
  for (const iovec& segment : job.segments) bytes += segment.iov_len;
  return bytes % kPage == 0;
}

bool TryReadNow(IoJob& job, bool& supported) {
  while (!job.Finished()) {
    const ssize_t count = Transfer(job, RWF_NOWAIT);
    if (count <= 0) {
      if (count < 0 && errno == EOPNOTSUPP) supported = false;
      // Also the end of the file and errors: the thread that goes on finds out by itself.
      return false;
    }
    job.Advance(static_cast<uint64_t>(count));
  }
  job.result = static_cast<int64_t>(job.done);
  return true;
}

}  // namespace virtkit
