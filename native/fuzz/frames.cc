// FrameReader and WriteFrames over a pair of sockets: frames of any size, buffers of any shape. Whatever arrives is what was
// sent, and nothing beside the buffers is written.
#include "net_frames.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <iterator>
#include <memory>
#include <vector>

#include "input.h"

namespace {

using virtkit::kVnetHeader;

constexpr uint32_t kSegments = 64;
constexpr uint32_t kBuffers = 16;
// More than after which the reader expects the next to be like them.
constexpr uint32_t kFrames = 24;
constexpr int kRounds = 4;
constexpr uint32_t kLengths[] = {12, 1, 2, 11, 13, 26, 64, 1526, 2000, 4096, 65562, 66000};

uint8_t Pattern(size_t frame, size_t at) { return static_cast<uint8_t>(frame * 31 + at * 7 + (at >> 8) + 1); }

// Memory of its own for each segment, so that a byte beside it is noticed.
struct Memory {
  std::vector<std::unique_ptr<uint8_t[]>> pieces;

  double Add(uint32_t length) {
    pieces.push_back(std::make_unique<uint8_t[]>(length));
    return static_cast<double>(reinterpret_cast<uintptr_t>(pieces.back().get()));
  }
};

struct Sockets {
  int ends[2];

  Sockets() {
    MUST(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends) == 0);
    const int bytes = 1 << 22;
    setsockopt(ends[0], SOL_SOCKET, SO_SNDBUF, &bytes, sizeof bytes);
  }
  ~Sockets() {
    close(ends[0]);
    close(ends[1]);
  }
};

// The frame that starts at `segment`, as the driver would read it.
std::vector<uint8_t> Gathered(const double* addresses, const uint32_t* lengths, uint32_t segment, size_t bytes) {
  std::vector<uint8_t> frame;
  for (; frame.size() < bytes; segment++) {
    const uint32_t at = segment % kSegments;
    const auto* data = reinterpret_cast<const uint8_t*>(static_cast<uintptr_t>(addresses[at]));
    const size_t part = std::min<size_t>(lengths[at], bytes - frame.size());
    frame.insert(frame.end(), data, data + part);
  }
  return frame;
}

class Receive {
 public:
  explicit Receive(Input& input) : input_(input) {}

  void Run() {
    const uint32_t frames = 1 + input_.U8() % kFrames;
    for (uint32_t i = 0; i < frames; i++) Send();
    for (int round = 0; round < kRounds; round++) Read();
  }

 private:
  void Send() {
    std::vector<uint8_t> frame(input_.U8() < 0x40 ? input_.U8() : input_.U16());
    frame.resize(std::min(frame.size() + 1, virtkit::kFrameMost));
    for (size_t at = 0; at < frame.size(); at++) frame[at] = Pattern(sent_.size(), at);
    if (send(sockets_.ends[0], frame.data(), frame.size(), 0) < 0) return;
    sent_.push_back(std::move(frame));
  }

  void Read() {
    Memory memory;
    double addresses[kSegments] = {};
    uint32_t lengths[kSegments] = {};
    uint32_t counts[kBuffers] = {};
    virtkit::ReadRequest request;
    request.firstBuffer = input_.U32();
    request.firstSegment = input_.U32();
    const uint32_t wanted = input_.U8() % (kBuffers + 1);
    uint32_t used = 0;
    for (; request.buffers < wanted && used < kSegments; request.buffers++) {
      const uint32_t most = std::min(1 + input_.U8() % 8u, kSegments - used);
      counts[(request.firstBuffer + request.buffers) % kBuffers] = most;
      size_t room = 0;
      for (uint32_t i = 0; i < most; i++, used++) {
        const uint32_t at = (request.firstSegment + used) % kSegments;
        // The last one makes room for a header: what has none never gets here.
        const bool last = i + 1 == most;
        lengths[at] = kLengths[input_.U8() % std::size(kLengths)];
        if (last && room + lengths[at] < kVnetHeader) lengths[at] = kVnetHeader;
        room += lengths[at];
        addresses[at] = memory.Add(lengths[at]);
      }
    }
    const uint8_t flags = input_.U8();
    request.maxFrames = input_.U8() % (kFrames + 1);
    request.usual = kLengths[flags >> 4 & 7];
    request.mergeable = (flags & 1) != 0;
    request.full = (flags & 2) != 0;
    request.clearFlags = (flags & 4) != 0;
    if ((flags & 8) != 0) reader_.Drop();

    const virtkit::BufferRing ring = {addresses, lengths, kSegments - 1, counts, kBuffers - 1};
    uint32_t frameBuffers[kFrames] = {};
    uint32_t frameBytes[kFrames] = {};
    auto heads = std::make_unique<uint8_t[]>(virtkit::kHeadStride * kFrames);
    const auto result =
        reader_.Read(sockets_.ends[1], ring, request, frameBuffers, frameBytes, heads.get());
    MUST(result.frames <= request.maxFrames);
    uint32_t buffer = request.firstBuffer;
    uint32_t segment = request.firstSegment;
    for (uint32_t i = 0; i < result.frames; i++) {
      MUST(frameBuffers[i] >= 1 && frameBuffers[i] <= request.buffers - (buffer - request.firstBuffer));
      const auto got = Gathered(addresses, lengths, segment, frameBytes[i]);
      const size_t seen = std::min(got.size(), virtkit::kHeadBytes);
      MUST(memcmp(got.data(), heads.get() + virtkit::kHeadStride * i, seen) == 0);
      Check(got, frameBuffers[i], request.clearFlags);
      for (uint32_t k = 0; k < frameBuffers[i]; k++) segment += counts[buffer++ % kBuffers];
    }
  }

  // The next one of those that were sent, but for the fields that the device fills in. Others may have been dropped.
  void Check(const std::vector<uint8_t>& got, uint32_t buffers, bool cleared) {
    MUST(got.size() >= kVnetHeader);
    MUST((got[10] | got[11] << 8) == static_cast<int>(buffers));
    for (; next_ < sent_.size(); next_++) {
      auto expected = sent_[next_];
      if (expected.size() < kVnetHeader) continue;
      expected[10] = got[10];
      expected[11] = got[11];
      if (cleared) expected[0] = 0;
      if (expected != got) continue;
      next_++;
      return;
    }
    MUST(!"a frame that was not sent");
  }

  Input& input_;
  Sockets sockets_;
  virtkit::FrameReader reader_;
  std::vector<std::vector<uint8_t>> sent_;
  size_t next_ = 0;
};

void Transmit(Input& input) {
  Sockets sockets;
  Memory memory;
  const uint32_t frames = input.U8() % (kFrames + 1);
  std::vector<uint8_t> headers(kVnetHeader * frames);
  std::vector<uint32_t> counts(frames);
  std::vector<double> addresses;
  std::vector<uint32_t> lengths;
  std::vector<std::vector<uint8_t>> expected;
  for (uint32_t i = 0; i < frames; i++) {
    std::vector<uint8_t> frame(kVnetHeader);
    for (auto& byte : frame) byte = input.U8();
    memcpy(&headers[kVnetHeader * i], frame.data(), kVnetHeader);
    // More than a system call takes at once, now and then.
    const uint8_t many = input.U8();
    counts[i] = many > 250 ? 1000 + many : many % 8;
    for (uint32_t k = 0; k < counts[i]; k++) {
      const uint32_t length = counts[i] > 8 ? 1 + k % 3 : kLengths[input.U8() % 10];
      addresses.push_back(memory.Add(length));
      lengths.push_back(length);
      for (uint32_t at = 0; at < length; at++) {
        memory.pieces.back()[at] = Pattern(i + k, at);
        frame.push_back(Pattern(i + k, at));
      }
    }
    expected.push_back(std::move(frame));
  }
  std::vector<iovec> segments(1024);
  int error = 0;
  const uint32_t failed = virtkit::WriteFrames(sockets.ends[0], frames, headers.data(), counts.data(), addresses.data(),
                                               lengths.data(), segments, error);
  MUST((failed == 0) == (error == 0));
  uint32_t arrived = 0;
  std::vector<uint8_t> got(1 << 17);
  for (;;) {
    const ssize_t bytes = recv(sockets.ends[1], got.data(), got.size(), 0);
    if (bytes <= 0) break;
    // Frames that the socket had no room for are left out.
    while (arrived < frames && (expected[arrived].size() != static_cast<size_t>(bytes) ||
                                memcmp(expected[arrived].data(), got.data(), static_cast<size_t>(bytes)) != 0)) {
      arrived++;
      MUST(failed > 0);
    }
    MUST(arrived < frames);
    arrived++;
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  Input input(data, size);
  if (input.U8() % 4 == 0) {
    Transmit(input);
  } else {
    Receive(input).Run();
  }
  return 0;
}
