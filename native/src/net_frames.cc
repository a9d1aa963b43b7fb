#include <climits>
#include <cerrno>
#include <cstring>

#include "net_frames.h"

namespace virtkit {
namespace {

constexpr size_t kMaxSegments = IOV_MAX;
// Bytes after which the caller gets the frames: the guest works on them while more are read.
constexpr size_t kBatchBytes = 16 * 1024;
// Frames after which the largest of them is what the next are expected to be.
constexpr uint32_t kWindow = 16;
// Offsets in the header.
constexpr size_t kFlags = 0;
constexpr size_t kNumBuffers = 10;

uint8_t* Pointer(double address) { return reinterpret_cast<uint8_t*>(static_cast<uintptr_t>(address)); }

ssize_t Retry(ssize_t (*call)(int, const iovec*, int), int fd, const iovec* segments, size_t count) {
  ssize_t result = 0;
  do {
    result = call(fd, segments, static_cast<int>(count));
  } while (result < 0 && errno == EINTR);
  return result;
}

uint32_t BufferBytes(const BufferRing& ring, uint32_t buffer, uint32_t& segment) {
  uint32_t bytes = 0;
  for (uint32_t i = ring.counts[buffer & ring.bufferMask]; i > 0; i--) bytes += ring.lengths[segment++ & ring.segmentMask];
  return bytes;
}

}  // namespace

FrameReader::FrameReader() : segments_(kMaxSegments), overflow_(2 * kFrameMost) {}

ReadResult FrameReader::Read(int fd, const BufferRing& ring, const ReadRequest& request, uint32_t* frameBuffers,
                             uint32_t* frameBytes, uint8_t* heads) {
  ReadResult result;
  ReadRequest at = request;
  size_t total = 0;
  for (uint32_t attempt = 0; attempt < request.maxFrames && total < kBatchBytes; attempt++) {
    if (at.buffers == 0) {
      result.status = ENOBUFS;
      result.needed = 1;
      return result;
    }
    size_t bytes = waiting_;
    size_t placed = 0;
    if (bytes == 0) {
      const size_t gathered = Gather(ring, at);
      const ssize_t got = Retry(readv, fd, segments_.data(), segmentCount_);
      if (got < 0) {
        result.status = errno;
        return result;
      }
      bytes = static_cast<size_t>(got);
      Learn(bytes);
      if (bytes < kVnetHeader) continue;
      placed = bytes < gathered ? bytes : gathered;
    }
    uint32_t used = 0;
    if (!Place(ring, at, bytes, placed, used)) {
      waiting_ = 0;
      if (!at.mergeable || at.full) {
        result.tooLong++;
        continue;
      }
      // What was read into buffers joins the rest, and all of it waits.
      Copy(ring, at.firstSegment, 0, overflow_.data(), placed, true);
      waiting_ = bytes;
      result.status = ENOBUFS;
      result.needed = static_cast<uint32_t>(bytes);
      return result;
    }
    waiting_ = 0;
    uint8_t count[2] = {static_cast<uint8_t>(used), static_cast<uint8_t>(used >> 8)};
    Copy(ring, at.firstSegment, kNumBuffers, count, sizeof count, false);
    uint8_t none = 0;
    if (at.clearFlags) Copy(ring, at.firstSegment, kFlags, &none, sizeof none, false);
    const size_t seen = bytes < kHeadBytes ? bytes : kHeadBytes;
    Copy(ring, at.firstSegment, 0, heads + kHeadStride * result.frames, seen, true);
    frameBuffers[result.frames] = used;
    frameBytes[result.frames] = static_cast<uint32_t>(bytes);
    result.frames++;
    total += bytes;
    at.full = false;
    at.buffers -= used;
    for (; used > 0; used--) at.firstSegment += ring.counts[at.firstBuffer++ & ring.bufferMask];
  }
  return result;
}

// A system call checks every segment that it is given: those for the largest frame there can be cost more than a small
// one itself.
void FrameReader::Learn(size_t bytes) {
  if (bytes > largest_) largest_ = bytes;
  if (bytes > expected_) expected_ = bytes;
  if (++seen_ < kWindow) return;
  expected_ = largest_;
  largest_ = 0;
  seen_ = 0;
}

// Lists the segments that a frame is to be read into, the overflow behind them; returns the bytes before it.
size_t FrameReader::Gather(const BufferRing& ring, const ReadRequest& at) {
  const size_t enough = expected_ < at.usual ? expected_ : at.usual;
  size_t gathered = 0;
  uint32_t segment = at.firstSegment;
  segmentCount_ = 0;
  for (uint32_t i = 0; i < at.buffers; i++) {
    const uint32_t count = ring.counts[(at.firstBuffer + i) & ring.bufferMask];
    for (uint32_t k = 0; k < count && segmentCount_ < kMaxSegments - 1 && gathered < kFrameMost; k++, segment++) {
      const uint32_t length = ring.lengths[segment & ring.segmentMask];
      segments_[segmentCount_++] = {Pointer(ring.addresses[segment & ring.segmentMask]), length};
      gathered += length;
    }
    if (!at.mergeable || gathered >= enough || segmentCount_ == kMaxSegments - 1) break;
  }
  const size_t offset = gathered < kFrameMost ? gathered : kFrameMost;
  segments_[segmentCount_++] = {overflow_.data() + offset, kFrameMost};
  return gathered;
}

// Counts the buffers that `bytes` take, and copies what is not in them, from `placed` on, there. False if they do not fit.
bool FrameReader::Place(const BufferRing& ring, const ReadRequest& at, size_t bytes, size_t placed, uint32_t& used) {
  size_t room = 0;
  uint32_t segment = at.firstSegment;
  const uint32_t most = at.mergeable ? at.buffers : 1;
  for (used = 0; used < most && room < bytes; used++) room += BufferBytes(ring, at.firstBuffer + used, segment);
  if (room < bytes) return false;
  Copy(ring, at.firstSegment, placed, overflow_.data() + placed, bytes - placed, false);
  return true;
}

// Copies `length` bytes, `offset` bytes after the start of `segment`, out of the buffers or into them. They are there.
void FrameReader::Copy(const BufferRing& ring, uint32_t segment, size_t offset, uint8_t* bytes, size_t length, bool out) {
  for (size_t done = 0; done < length; segment++) {
    const size_t size = ring.lengths[segment & ring.segmentMask];
    if (offset >= size) {
      offset -= size;
      continue;
    }
    const size_t part = size - offset < length - done ? size - offset : length - done;
    uint8_t* memory = Pointer(ring.addresses[segment & ring.segmentMask]) + offset;
    if (out) {
      memcpy(bytes + done, memory, part);
    } else {
      memcpy(memory, bytes + done, part);
    }
    done += part;
    offset = 0;
  }
}

uint32_t WriteFrames(int fd, uint32_t frames, const uint8_t* headers, const uint32_t* counts, const double* addresses,
                     const uint32_t* lengths, std::vector<iovec>& segments, int& error) {
  std::vector<uint8_t> joined;
  uint32_t failed = 0;
  size_t next = 0;
  for (uint32_t frame = 0; frame < frames; frame++) {
    size_t count = 0;
    segments[count++] = {const_cast<uint8_t*>(headers + kVnetHeader * frame), kVnetHeader};
    const size_t end = next + counts[frame];
    while (next < end && count < kMaxSegments - 1) {
      segments[count++] = {Pointer(addresses[next]), lengths[next]};
      next++;
    }
    if (next < end) {
      // More than a system call takes: the rest goes as one.
      joined.clear();
      for (; next < end; next++) {
        const uint8_t* bytes = Pointer(addresses[next]);
        joined.insert(joined.end(), bytes, bytes + lengths[next]);
      }
      segments[count++] = {joined.data(), joined.size()};
    }
    if (Retry(writev, fd, segments.data(), count) < 0) {
      failed++;
      error = errno;
    }
  }
  return failed;
}

}  // namespace virtkit
