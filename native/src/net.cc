// TAP queues: opened or taken over, set up, read and written.

#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <napi.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <string>
#include <vector>

#include "errors.h"
#include "modules.h"
#include "net_frames.h"
#include "options.h"

extern "C" unsigned int if_nametoindex(const char* name);  // <net/if.h> and <linux/if.h> cannot be had together

namespace virtkit {
namespace {

constexpr uint32_t kMergeable = 1;
constexpr uint32_t kFull = 2;
constexpr uint32_t kClearFlags = 4;

// Closes what a constructor that fails has opened.
class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  ~Descriptor() {
    if (fd_ >= 0) close(fd_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int Get() const { return fd_; }
  void Reset() {
    if (fd_ >= 0) close(fd_);
    fd_ = -1;
  }

 private:
  int fd_;
};

bool PowerOfTwo(double number) {
  const auto integer = static_cast<uint32_t>(number);
  return (integer & (integer - 1)) == 0;
}

class Tap : public Napi::ObjectWrap<Tap> {
 public:
  static void Init(Napi::Env env, Napi::Object exports) {
    exports.Set("Tap", DefineClass(env, "Tap",
                                   {
                                       InstanceAccessor<&Tap::Fd>("fd"),
                                       InstanceMethod<&Tap::SetOffloads>("setOffloads"),
                                       InstanceMethod<&Tap::Attach>("attach"),
                                       InstanceMethod<&Tap::Mtu>("mtu"),
                                       InstanceMethod<&Tap::Read>("read"),
                                       InstanceMethod<&Tap::Drop>("drop"),
                                       InstanceMethod<&Tap::Write>("write"),
                                       InstanceMethod<&Tap::Close>("close"),
                                   }));
  }

  explicit Tap(const Napi::CallbackInfo& info) : Napi::ObjectWrap<Tap>(info), fd_(OpenDescriptor(info)) {
    Napi::Env env = info.Env();
    const Options options(info[0].As<Napi::Object>(), "Tap");
    SetUp(env, options);
    const double segments = options.Integer("segments", 1, 1 << 20);
    const double buffers = options.Integer("buffers", 1, 1 << 15);
    const double frames = options.Integer("frames", 1, 1 << 12);
    if (!PowerOfTwo(segments) || !PowerOfTwo(buffers)) ThrowRange(env, "Tap: segments and buffers must be powers of two");
    segments_ = static_cast<uint32_t>(segments);
    buffers_ = static_cast<uint32_t>(buffers);
    frames_ = static_cast<uint32_t>(frames);
    Napi::Object self = info.This().As<Napi::Object>();
    ring_.addresses = Array<double>(self, "receiveAddresses", segments_);
    ring_.lengths = Array<uint32_t>(self, "receiveLengths", segments_);
    ring_.segmentMask = segments_ - 1;
    ring_.counts = Array<uint32_t>(self, "receiveCounts", buffers_);
    ring_.bufferMask = buffers_ - 1;
    frameBuffers_ = Array<uint32_t>(self, "frameBuffers", frames_);
    frameBytes_ = Array<uint32_t>(self, "frameBytes", frames_);
    heads_ = Array<uint8_t>(self, "heads", frames_ * kHeadStride);
    headers_ = Array<uint8_t>(self, "headers", frames_ * kVnetHeader);
    counts_ = Array<uint32_t>(self, "counts", frames_);
    addresses_ = Array<double>(self, "addresses", segments_);
    lengths_ = Array<uint32_t>(self, "lengths", segments_);
    result_ = Array<int32_t>(self, "result", 3);
    Define(self, "name", Napi::String::New(env, name_));
    Define(self, "multiQueue", Napi::Boolean::New(env, multiQueue_));
    writeSegments_.resize(1024);
  }

 private:
  static void Define(Napi::Object self, const char* name, Napi::Value value) {
    self.DefineProperty(Napi::PropertyDescriptor::Value(name, value, napi_enumerable));
  }

  // Makes the array a property of `self`; it is kept alive by this object too.
  template <typename Element>
  Element* Array(Napi::Object self, const char* name, size_t length) {
    auto array = Napi::TypedArrayOf<Element>::New(self.Env(), length);
    Define(self, name, array);
    kept_.push_back(Napi::Persistent(static_cast<Napi::Object>(array)));
    return array.Data();
  }

  static int OpenDescriptor(const Napi::CallbackInfo& info) {
    Napi::Env env = info.Env();
    if (info.Length() < 1 || !info[0].IsObject()) ThrowType(env, "Tap needs an options object");
    const Options options(info[0].As<Napi::Object>(), "Tap");
    if (options.Has("fd")) {
      const int copy = fcntl(static_cast<int>(options.Integer("fd", 0, 0x7fffffff)), F_DUPFD_CLOEXEC, 3);
      if (copy < 0) ThrowErrno(env, errno, "fcntl");
      return copy;
    }
    const int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0) ThrowErrno(env, errno, "open", "/dev/net/tun");
    return fd;
  }

  // Attaches the descriptor to its interface, unless it is already, and asks for headers of virtio 1.x.
  void SetUp(Napi::Env env, const Options& options) {
    ifreq request{};
    const int fd = fd_.Get();
    if (options.Has("fd")) {
      if (ioctl(fd, TUNGETIFF, &request) != 0) ThrowErrno(env, errno, "TUNGETIFF");
      const int flags = fcntl(fd, F_GETFL);
      if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) != 0) ThrowErrno(env, errno, "fcntl");
    } else {
      const std::string name = options.Text("name");
      if (name.empty() || name.size() >= sizeof request.ifr_name) ThrowRange(env, "Tap: name must have 1 to 15 bytes");
      // The kernel makes an interface of a name that is none.
      if (!options.Boolean("create", false) && if_nametoindex(name.c_str()) == 0) {
        ThrowErrno(env, ENODEV, "if_nametoindex", name);
      }
      memcpy(request.ifr_name, name.c_str(), name.size());
      const bool many = options.Boolean("multiQueue", false);
      request.ifr_flags = static_cast<short>(IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | (many ? IFF_MULTI_QUEUE : 0));
      if (ioctl(fd, TUNSETIFF, &request) != 0) ThrowErrno(env, errno, "TUNSETIFF", name);
      if (ioctl(fd, TUNGETIFF, &request) != 0) ThrowErrno(env, errno, "TUNGETIFF", name);
    }
    const auto flags = static_cast<unsigned short>(request.ifr_flags);
    if ((flags & IFF_TAP) == 0 || (flags & IFF_VNET_HDR) == 0 || (flags & IFF_NO_PI) == 0) {
      ThrowErrno(env, EINVAL, "TUNGETIFF", "not a TAP with IFF_VNET_HDR and IFF_NO_PI");
    }
    int header = kVnetHeader;
    if (ioctl(fd, TUNSETVNETHDRSZ, &header) != 0) ThrowErrno(env, errno, "TUNSETVNETHDRSZ");
    name_ = std::string(request.ifr_name, strnlen(request.ifr_name, sizeof request.ifr_name));
    multiQueue_ = (flags & IFF_MULTI_QUEUE) != 0;
  }

  Napi::Value Fd(const Napi::CallbackInfo& info) { return Napi::Number::New(info.Env(), fd_.Get()); }

  static uint32_t Argument(const Napi::CallbackInfo& info, size_t index) {
    uint32_t value = 0;
    if (info.Length() <= index || napi_get_value_uint32(info.Env(), info[index], &value) != napi_ok) {
      ThrowType(info.Env(), "Tap: an argument must be a number");
    }
    return value;
  }

  // A small integer, which V8 does not allocate.
  static Napi::Value Integer(Napi::Env env, uint32_t value) {
    napi_value result = nullptr;
    if (napi_create_uint32(env, value, &result) != napi_ok) throw Napi::Error::New(env);
    return Napi::Value(env, result);
  }

  Napi::Value SetOffloads(const Napi::CallbackInfo& info) {
    const unsigned long offloads = Argument(info, 0);
    if (ioctl(fd_.Get(), TUNSETOFFLOAD, offloads) == 0) return Napi::Boolean::New(info.Env(), true);
    if (errno != EINVAL) ThrowErrno(info.Env(), errno, "TUNSETOFFLOAD", name_);
    return Napi::Boolean::New(info.Env(), false);
  }

  Napi::Value Attach(const Napi::CallbackInfo& info) {
    ifreq request{};
    const bool on = info.Length() > 0 && info[0].ToBoolean();
    request.ifr_flags = static_cast<short>(on ? IFF_ATTACH_QUEUE : IFF_DETACH_QUEUE);
    // EINVAL: it is so already.
    if (ioctl(fd_.Get(), TUNSETQUEUE, &request) != 0 && errno != EINVAL) {
      ThrowErrno(info.Env(), errno, "TUNSETQUEUE", name_);
    }
    return info.Env().Undefined();
  }

  Napi::Value Mtu(const Napi::CallbackInfo& info) {
    ifreq request{};
    memcpy(request.ifr_name, name_.c_str(), name_.size());
    const Descriptor socket(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    if (socket.Get() < 0 || ioctl(socket.Get(), SIOCGIFMTU, &request) != 0) return Napi::Number::New(info.Env(), 0);
    return Napi::Number::New(info.Env(), request.ifr_mtu);
  }

  // read(firstBuffer, firstSegment, buffers, maxFrames, usual, flags)
  Napi::Value Read(const Napi::CallbackInfo& info) {
    ReadRequest request;
    request.firstBuffer = Argument(info, 0);
    request.firstSegment = Argument(info, 1);
    request.buffers = Argument(info, 2);
    request.maxFrames = Argument(info, 3);
    request.usual = Argument(info, 4);
    const uint32_t flags = Argument(info, 5);
    request.mergeable = (flags & kMergeable) != 0;
    request.full = (flags & kFull) != 0;
    request.clearFlags = (flags & kClearFlags) != 0;
    if (request.buffers > buffers_ || request.maxFrames > frames_) ThrowRange(info.Env(), "Tap.read: out of range");
    const ReadResult result = reader_.Read(fd_.Get(), ring_, request, frameBuffers_, frameBytes_, heads_);
    result_[0] = result.status;
    result_[1] = static_cast<int32_t>(result.needed);
    result_[2] = static_cast<int32_t>(result.tooLong);
    return Integer(info.Env(), result.frames);
  }

  Napi::Value Drop(const Napi::CallbackInfo& info) {
    reader_.Drop();
    return info.Env().Undefined();
  }

  Napi::Value Write(const Napi::CallbackInfo& info) {
    const uint32_t frames = Argument(info, 0);
    uint64_t total = 0;
    for (uint32_t i = 0; i < frames && i < frames_; i++) total += counts_[i];
    if (frames > frames_ || total > segments_) ThrowRange(info.Env(), "Tap.write: out of range");
    int error = 0;
    const uint32_t failed =
        WriteFrames(fd_.Get(), frames, headers_, counts_, addresses_, lengths_, writeSegments_, error);
    result_[0] = error;
    return Integer(info.Env(), failed);
  }

  Napi::Value Close(const Napi::CallbackInfo& info) {
    fd_.Reset();
    return info.Env().Undefined();
  }

  Descriptor fd_;
  std::string name_;
  bool multiQueue_ = false;
  uint32_t segments_ = 0;
  uint32_t buffers_ = 0;
  uint32_t frames_ = 0;
  BufferRing ring_;
  uint32_t* frameBuffers_ = nullptr;
  uint32_t* frameBytes_ = nullptr;
  uint8_t* heads_ = nullptr;
  uint8_t* headers_ = nullptr;
  uint32_t* counts_ = nullptr;
  double* addresses_ = nullptr;
  uint32_t* lengths_ = nullptr;
  int32_t* result_ = nullptr;
  FrameReader reader_;
  std::vector<iovec> writeSegments_;
  std::vector<Napi::ObjectReference> kept_;
};

}  // namespace

void InitNet(Napi::Env env, Napi::Object exports) { Tap::Init(env, exports); }

}  // namespace virtkit
