#include "io_ring.h"

#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstring>

namespace virtkit {
namespace {

// IOV_MAX of the kernel; more are passed on in several calls.
constexpr size_t kMaxSegments = 1024;
// Queued at once; more take another system call.
constexpr unsigned kMaxEntries = 256;
constexpr unsigned kFiles = 8;
// Bytes of a READ or WRITE: the kernel transfers no more at once (MAX_RW_COUNT).
constexpr size_t kMaxTransfer = 0x7fff'f000;

template <typename Value>
Value* At(void* base, size_t offset) {
  return reinterpret_cast<Value*>(static_cast<char*>(base) + offset);
}

unsigned Acquire(const unsigned* word) { return std::atomic_ref<const unsigned>(*word).load(std::memory_order_acquire); }
void Release(unsigned* word, unsigned value) { std::atomic_ref<unsigned>(*word).store(value, std::memory_order_release); }

unsigned PowerOfTwo(size_t least) {
  unsigned size = 1;
  while (size < least) size *= 2;
  return size;
}

int Setup(unsigned entries, unsigned completions, unsigned flags, io_uring_params& params) {
  params = {};
  params.flags = IORING_SETUP_CQSIZE | flags;
  params.cq_entries = completions;
  return static_cast<int>(syscall(__NR_io_uring_setup, entries, &params));
}

int AllocateMode(const IoJob& job) {
  const bool punch = job.op == IoOp::kDiscard || (job.flags & kIoFlagUnmap) != 0;
  return FALLOC_FL_KEEP_SIZE | (punch ? FALLOC_FL_PUNCH_HOLE : FALLOC_FL_ZERO_RANGE);
}

}  // namespace

int IoRing::Create(size_t depth, int eventFd, std::unique_ptr<IoRing>& ring) {
  const unsigned entries = PowerOfTwo(std::min<size_t>(depth, kMaxEntries));
  // Each request has one, and its cancellation.
  const unsigned completions = PowerOfTwo(2 * std::max<size_t>(entries, depth));
  io_uring_params params{};
  // Linux 6.1: completions are worked on when this thread asks, instead of interrupting it.
  constexpr unsigned kDeferred = IORING_SETUP_SUBMIT_ALL | IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN |
                                 IORING_SETUP_TASKRUN_FLAG;
  int fd = Setup(entries, completions, kDeferred, params);
  if (fd < 0 && errno == EINVAL) fd = Setup(entries, completions, 0, params);
  if (fd < 0) return errno;
  ring.reset(new IoRing(fd));
  ring->deferred_ = (params.flags & IORING_SETUP_DEFER_TASKRUN) != 0;
  int error = ring->Map(params);
  int event = eventFd;
  if (error == 0 && syscall(__NR_io_uring_register, fd, IORING_REGISTER_EVENTFD, &event, 1) != 0) error = errno;
  if (error != 0) {
    ring.reset();
    return error;
  }
  ring->SetSignals(false);
  return 0;
}

IoRing::~IoRing() {
  if (rings_ != nullptr) munmap(rings_, ringBytes_);
  if (sqes_ != nullptr) munmap(sqes_, sqeBytes_);
  close(fd_);
}

int IoRing::Map(const io_uring_params& params) {
  // All that is used here came before workers that are threads of this process.
  constexpr unsigned kNeeded = IORING_FEAT_SINGLE_MMAP | IORING_FEAT_NODROP | IORING_FEAT_NATIVE_WORKERS;
  if ((params.features & kNeeded) != kNeeded) return ENOSYS;
  ringBytes_ = std::max<size_t>(params.sq_off.array + params.sq_entries * sizeof(unsigned),
                                params.cq_off.cqes + params.cq_entries * sizeof(io_uring_cqe));
  sqeBytes_ = params.sq_entries * sizeof(io_uring_sqe);
  constexpr int kFlags = MAP_SHARED | MAP_POPULATE;
  void* rings = mmap(nullptr, ringBytes_, PROT_READ | PROT_WRITE, kFlags, fd_, IORING_OFF_SQ_RING);
  if (rings == MAP_FAILED) return errno;
  rings_ = rings;
  void* sqes = mmap(nullptr, sqeBytes_, PROT_READ | PROT_WRITE, kFlags, fd_, IORING_OFF_SQES);
  if (sqes == MAP_FAILED) return errno;
  sqes_ = static_cast<io_uring_sqe*>(sqes);
  madvise(rings_, ringBytes_, MADV_DONTFORK);
  madvise(sqes_, sqeBytes_, MADV_DONTFORK);

  entries_ = params.sq_entries;
  sqTail_ = At<unsigned>(rings_, params.sq_off.tail);
  sqFlags_ = At<unsigned>(rings_, params.sq_off.flags);
  sqMask_ = *At<unsigned>(rings_, params.sq_off.ring_mask);
  auto* array = At<unsigned>(rings_, params.sq_off.array);
  for (unsigned i = 0; i < params.sq_entries; i++) array[i] = i;
  cqHead_ = At<unsigned>(rings_, params.cq_off.head);
  cqTail_ = At<unsigned>(rings_, params.cq_off.tail);
  cqFlags_ = At<unsigned>(rings_, params.cq_off.flags);
  cqMask_ = *At<unsigned>(rings_, params.cq_off.ring_mask);
  cqes_ = At<io_uring_cqe>(rings_, params.cq_off.cqes);
  return 0;
}

int IoRing::RegisterFile(int fd) {
  if (files_.empty()) {
    std::array<int, kFiles> none{};
    none.fill(-1);
    if (syscall(__NR_io_uring_register, fd_, IORING_REGISTER_FILES, none.data(), kFiles) != 0) return errno;
  }
  if (files_.size() == kFiles) return ENOSPC;
  io_uring_files_update update{};
  update.offset = static_cast<unsigned>(files_.size());
  update.fds = reinterpret_cast<uint64_t>(&fd);
  if (syscall(__NR_io_uring_register, fd_, IORING_REGISTER_FILES_UPDATE, &update, 1) != 1) return errno;
  files_.push_back(fd);
  return 0;
}

void IoRing::UnregisterFiles() {
  if (files_.empty()) return;
  syscall(__NR_io_uring_register, fd_, IORING_UNREGISTER_FILES, nullptr, 0);
  files_.clear();
}

io_uring_sqe* IoRing::NextEntry() {
  io_uring_sqe* entry = &sqes_[queued_ & sqMask_];
  queued_++;
  memset(entry, 0, sizeof *entry);
  return entry;
}

void IoRing::Queue(IoJob* job, bool wait) {
  io_uring_sqe* entry = NextEntry();
  entry->user_data = reinterpret_cast<uint64_t>(job);
  entry->fd = job->fd;
  for (size_t i = 0; i < files_.size(); i++) {
    if (files_[i] != job->fd) continue;
    entry->fd = static_cast<int>(i);
    entry->flags |= IOSQE_FIXED_FILE;
    break;
  }
  if (wait) entry->flags |= IOSQE_ASYNC;
  switch (job->op) {
    case IoOp::kRead:
    case IoOp::kWrite: {
      const bool read = job->op == IoOp::kRead;
      const iovec* segments = job->segments.data() + job->firstSegment;
      const size_t count = std::min(job->segments.size() - job->firstSegment, kMaxSegments);
      entry->off = job->offset + job->done;
      if (count == 1) {
        entry->opcode = read ? IORING_OP_READ : IORING_OP_WRITE;
        entry->addr = reinterpret_cast<uint64_t>(segments->iov_base);
        entry->len = static_cast<unsigned>(std::min(segments->iov_len, kMaxTransfer));
      } else {
        entry->opcode = read ? IORING_OP_READV : IORING_OP_WRITEV;
        entry->addr = reinterpret_cast<uint64_t>(segments);
        entry->len = static_cast<unsigned>(count);
      }
      if (!read && (job->flags & kIoFlagSync) != 0) entry->rw_flags = RWF_DSYNC;
      break;
    }
    case IoOp::kDiscard:
    case IoOp::kWriteZeroes:
      if (job->done == 0) {
        entry->opcode = IORING_OP_FALLOCATE;
        entry->off = job->offset;
        entry->addr = job->length;
        entry->len = static_cast<unsigned>(AllocateMode(*job));
        break;
      }
      // What is left is to make it durable.
      [[fallthrough]];
    case IoOp::kFlush:
      entry->opcode = IORING_OP_FSYNC;
      entry->fsync_flags = IORING_FSYNC_DATASYNC;
      break;
  }
}

int IoRing::EnterKernel(unsigned submit, unsigned wait, unsigned flags) {
  long count;
  do {
    count = syscall(__NR_io_uring_enter, fd_, submit, wait, flags, nullptr, 0);
  } while (count < 0 && errno == EINTR);
  if (count < 0) return errno;
  submitted_ += static_cast<unsigned>(count);
  return 0;
}

int IoRing::Enter() {
  // Without the flag the kernel only submits where completions are deferred.
  const unsigned flags = deferred_ || Overflowed() ? IORING_ENTER_GETEVENTS : 0;
  Release(sqTail_, queued_);
  int error = 0;
  // An old kernel stops behind a request that cannot be right.
  do {
    const unsigned before = submitted_;
    error = EnterKernel(queued_ - submitted_, 0, flags);
    if (error == 0 && submitted_ == before) break;
  } while (error == 0 && queued_ != submitted_);
  return error;
}

bool IoRing::Take(IoJob*& job, int32_t& result) {
  for (;;) {
    // This side alone writes the head.
    const unsigned head = *cqHead_;
    if (head == Acquire(cqTail_)) return false;
    const io_uring_cqe& completion = cqes_[head & cqMask_];
    job = reinterpret_cast<IoJob*>(completion.user_data);
    result = completion.res;
    Release(cqHead_, head + 1);
    // Cancellations have none.
    if (job != nullptr) return true;
  }
}

bool IoRing::Overflowed() const { return (Acquire(sqFlags_) & IORING_SQ_CQ_OVERFLOW) != 0; }

bool IoRing::HasWork() const {
  return *cqHead_ != Acquire(cqTail_) || queued_ != submitted_ ||
         (Acquire(sqFlags_) & (IORING_SQ_TASKRUN | IORING_SQ_CQ_OVERFLOW)) != 0;
}

bool IoRing::NeedsEnter() const {
  return queued_ != submitted_ || (Acquire(sqFlags_) & (IORING_SQ_TASKRUN | IORING_SQ_CQ_OVERFLOW)) != 0;
}

void IoRing::SetSignals(bool on) {
  std::atomic_ref<unsigned>(*cqFlags_).store(on ? 0 : IORING_CQ_EVENTFD_DISABLED, std::memory_order_seq_cst);
}

void IoRing::Cancel(IoJob* job) {
  io_uring_sqe* entry = NextEntry();
  entry->opcode = IORING_OP_ASYNC_CANCEL;
  entry->addr = reinterpret_cast<uint64_t>(job);
}

void IoRing::CancelAll() {
  if (Room() == 0 && Enter() != 0) return;
  io_uring_sqe* entry = NextEntry();
  entry->opcode = IORING_OP_ASYNC_CANCEL;
  entry->cancel_flags = IORING_ASYNC_CANCEL_ANY | IORING_ASYNC_CANCEL_ALL;
  Enter();
}

void IoRing::Wait() {
  Release(sqTail_, queued_);
  EnterKernel(queued_ - submitted_, 1, IORING_ENTER_GETEVENTS);
}

bool AdvanceJob(IoJob& job, int32_t result) {
  // A worker of the kernel was interrupted, or the kernel cannot wait where it was asked to.
  if (result == -EINTR || result == -EAGAIN) return false;
  job.result = result;
  if (job.op == IoOp::kFlush || result < 0) return true;
  if (job.op == IoOp::kDiscard || job.op == IoOp::kWriteZeroes) {
    if (job.done != 0 || (job.flags & kIoFlagSync) == 0) return true;
    job.done = 1;
    return false;
  }
  job.Advance(static_cast<uint64_t>(result));
  job.result = static_cast<int64_t>(job.done);
  // Nothing more: the end of the file.
  return result == 0 || job.Finished();
}

}  // namespace virtkit
