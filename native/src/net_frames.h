// Moving frames between a TAP queue and memory. Knows nothing of JavaScript.
#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <vector>

namespace virtkit {

// struct virtio_net_hdr_mrg_rxbuf, of virtio 1.x: TUNSETVNETHDRSZ.
constexpr size_t kVnetHeader = 12;
// Header, Ethernet header, VLAN tag, and an IP packet of 65535 bytes.
constexpr size_t kFrameMost = kVnetHeader + 18 + 65535;
// What the caller gets to see of each received frame; the stride of `heads`.
constexpr size_t kHeadBytes = 30;
constexpr size_t kHeadStride = 32;

// Receive buffers, as a ring of segments and a ring of buffers; both sizes are powers of two.
struct BufferRing {
  const double* addresses = nullptr;
  const uint32_t* lengths = nullptr;
  uint32_t segmentMask = 0;
  // Segments of each buffer.
  const uint32_t* counts = nullptr;
  uint32_t bufferMask = 0;
};

struct ReadRequest {
  // Where the free buffers start, and how many there are.
  uint32_t firstBuffer = 0;
  uint32_t firstSegment = 0;
  uint32_t buffers = 0;
  uint32_t maxFrames = 0;
  // Bytes that most frames do not exceed: more goes through a copy.
  uint32_t usual = 0;
  bool mergeable = false;
  // Buffers that a frame does not fit into are all that there will be.
  bool full = false;
  // The header must say nothing about checksums.
  bool clearFlags = false;
};

struct ReadResult {
  uint32_t frames = 0;
  // 0: there may be more; EAGAIN: there are none; ENOBUFS: `needed` bytes of buffers are needed; or what failed.
  int status = 0;
  uint32_t needed = 0;
  // Frames that fit no buffer.
  uint32_t tooLong = 0;
};

class FrameReader {
 public:
  FrameReader();

  // Reads frames into the buffers. Of each, `frameBuffers` and `frameBytes` say how many buffers it takes and how many
  // bytes there are, header included; `heads` holds its first bytes.
  ReadResult Read(int fd, const BufferRing& ring, const ReadRequest& request, uint32_t* frameBuffers,
                  uint32_t* frameBytes, uint8_t* heads);

  // Forgets the frame that waits for more buffers.
  void Drop() { waiting_ = 0; }

 private:
  size_t Gather(const BufferRing& ring, const ReadRequest& at);
  void Learn(size_t bytes);
  bool Place(const BufferRing& ring, const ReadRequest& at, size_t bytes, size_t placed, uint32_t& used);
  static void Copy(const BufferRing& ring, uint32_t segment, size_t offset, uint8_t* bytes, size_t length, bool out);

  std::vector<iovec> segments_;
  size_t segmentCount_ = 0;
  // A frame that is larger than the buffers that it was read into ends up here, at its offset in the frame.
  std::vector<uint8_t> overflow_;
  // Bytes of the frame in `overflow_` that waits for more buffers; 0: none.
  size_t waiting_ = 0;
  // Bytes that the next frame is thought not to exceed: the largest of the last full window, and of the present one.
  size_t expected_ = kFrameMost;
  size_t largest_ = 0;
  uint32_t seen_ = 0;
};

// Writes `frames` frames: frame n is its header and the next counts[n] segments. Returns how many failed; `error` is the
// errno of the last of them.
uint32_t WriteFrames(int fd, uint32_t frames, const uint8_t* headers, const uint32_t* counts, const double* addresses,
                     const uint32_t* lengths, std::vector<iovec>& segments, int& error);

}  // namespace virtkit
