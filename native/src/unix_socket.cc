// Unix stream sockets that carry file descriptors (SCM_RIGHTS).
//
// Nothing here waits: every call says MSG_DONTWAIT, so that the flags of descriptors that others handed over stay as
// they are. A Poller says when to call.

#include <napi.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <string>

#include "errors.h"
#include "modules.h"

namespace virtkit {
namespace {

// Received with one call: more than any message of a known protocol carries.
constexpr size_t kMaxFds = 32;
// Sent with one call: what the kernel allows (SCM_MAX_FD).
constexpr size_t kMaxSentFds = 253;

int FdArgument(const Napi::CallbackInfo& info, size_t index) {
  if (info.Length() <= index || !info[index].IsNumber()) ThrowType(info.Env(), "a file descriptor must be a number");
  const double fd = info[index].As<Napi::Number>().DoubleValue();
  if (!(fd >= 0 && fd <= 0x7fffffff)) ThrowRange(info.Env(), "file descriptor out of range");
  return static_cast<int>(fd);
}

sockaddr_un Address(const Napi::CallbackInfo& info) {
  if (info.Length() < 1 || !info[0].IsString()) ThrowType(info.Env(), "the path of a socket must be a string");
  const std::string path = info[0].As<Napi::String>();
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  // An empty or NUL-led path is another name space.
  if (path.empty() || path[0] == '\0') ThrowRange(info.Env(), "the path of a socket is empty");
  if (path.size() >= sizeof address.sun_path) ThrowErrno(info.Env(), ENAMETOOLONG, "bind", path);
  memcpy(address.sun_path, path.c_str(), path.size());
  return address;
}

int NewSocket(Napi::Env env) {
  const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) ThrowErrno(env, errno, "socket");
  return fd;
}

class UnixListener : public Napi::ObjectWrap<UnixListener> {
 public:
  static void Init(Napi::Env env, Napi::Object exports) {
    exports.Set("UnixListener", DefineClass(env, "UnixListener",
                                            {
                                                InstanceAccessor<&UnixListener::Fd>("fd"),
                                                InstanceMethod<&UnixListener::Accept>("accept"),
                                                InstanceMethod<&UnixListener::Close>("close"),
                                            }));
  }

  explicit UnixListener(const Napi::CallbackInfo& info) : Napi::ObjectWrap<UnixListener>(info) {
    Napi::Env env = info.Env();
    const sockaddr_un address = Address(info);
    fd_ = NewSocket(env);
    const char* failed = nullptr;
    if (bind(fd_, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
      failed = "bind";
    } else if (listen(fd_, 8) != 0) {
      failed = "listen";
    }
    if (failed == nullptr) return;
    const int error = errno;
    close(fd_);
    fd_ = -1;
    ThrowErrno(env, error, failed, address.sun_path);
  }

  ~UnixListener() override {
    if (fd_ >= 0) close(fd_);
  }

 private:
  Napi::Value Fd(const Napi::CallbackInfo& info) { return Napi::Number::New(info.Env(), fd_); }

  Napi::Value Accept(const Napi::CallbackInfo& info) {
    Napi::Env env = info.Env();
    const int fd = fd_ < 0 ? -1 : accept4(fd_, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
    // The caller went away while it waited, or there is none.
    if (fd < 0 && fd_ >= 0 && errno != EAGAIN && errno != ECONNABORTED && errno != EINTR) ThrowErrno(env, errno, "accept4");
    return Napi::Number::New(env, fd);
  }

  Napi::Value Close(const Napi::CallbackInfo& info) {
    if (fd_ >= 0) close(fd_);
    fd_ = -1;
    return info.Env().Undefined();
  }

  int fd_ = -1;
};

class UnixSocket : public Napi::ObjectWrap<UnixSocket> {
 public:
  static void Init(Napi::Env env, Napi::Object exports) {
    exports.Set("UnixSocket", DefineClass(env, "UnixSocket",
                                          {
                                              InstanceAccessor<&UnixSocket::Fd>("fd"),
                                              InstanceAccessor<&UnixSocket::FdCount>("fdCount"),
                                              InstanceAccessor<&UnixSocket::Truncated>("truncated"),
                                              InstanceMethod<&UnixSocket::Receive>("receive"),
                                              InstanceMethod<&UnixSocket::Send>("send"),
                                              InstanceMethod<&UnixSocket::Close>("close"),
                                          }));
  }

  explicit UnixSocket(const Napi::CallbackInfo& info) : Napi::ObjectWrap<UnixSocket>(info) {
    Napi::Env env = info.Env();
    const int fd = FdArgument(info, 0);
    int domain = 0;
    int type = 0;
    socklen_t length = sizeof domain;
    if (getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &length) != 0) ThrowErrno(env, errno, "getsockopt");
    length = sizeof type;
    if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &length) != 0) ThrowErrno(env, errno, "getsockopt");
    if (domain != AF_UNIX || type != SOCK_STREAM) ThrowErrno(env, EPROTOTYPE, "getsockopt", "no Unix stream socket");
    auto fds = Napi::Int32Array::New(env, kMaxFds);
    fds_ = fds.Data();
    kept_ = Napi::Persistent(static_cast<Napi::Object>(fds));
    info.This().As<Napi::Object>().DefineProperty(Napi::PropertyDescriptor::Value("fds", fds, napi_enumerable));
    fd_ = fd;
  }

  ~UnixSocket() override {
    if (fd_ >= 0) close(fd_);
  }

 private:
  struct Range {
    uint8_t* data;
    size_t length;
  };

  // (bytes, offset, length)
  static Range RangeArgument(const Napi::CallbackInfo& info) {
    Napi::Env env = info.Env();
    if (info.Length() < 3 || !info[0].IsTypedArray() || !info[1].IsNumber() || !info[2].IsNumber()) {
      ThrowType(env, "UnixSocket: (bytes, offset, length) expected");
    }
    auto bytes = info[0].As<Napi::TypedArray>();
    if (bytes.TypedArrayType() != napi_uint8_array) ThrowType(env, "UnixSocket: the bytes must be a Uint8Array");
    const double offset = info[1].As<Napi::Number>().DoubleValue();
    const double length = info[2].As<Napi::Number>().DoubleValue();
    const auto size = static_cast<double>(bytes.ByteLength());
    // Written so that NaN fails.
    if (!(offset >= 0 && length >= 1 && offset + length <= size)) ThrowRange(env, "UnixSocket: range out of bounds");
    return {bytes.As<Napi::Uint8Array>().Data() + static_cast<size_t>(offset), static_cast<size_t>(length)};
  }

  void CheckOpen(Napi::Env env) const {
    if (fd_ < 0) ThrowErrno(env, EBADF, "UnixSocket", "it is closed");
  }

  Napi::Value Fd(const Napi::CallbackInfo& info) { return Napi::Number::New(info.Env(), fd_); }
  Napi::Value FdCount(const Napi::CallbackInfo& info) { return Napi::Number::New(info.Env(), fdCount_); }
  Napi::Value Truncated(const Napi::CallbackInfo& info) { return Napi::Boolean::New(info.Env(), truncated_); }

  Napi::Value Receive(const Napi::CallbackInfo& info) {
    Napi::Env env = info.Env();
    const Range range = RangeArgument(info);
    CheckOpen(env);
    alignas(cmsghdr) std::array<char, CMSG_SPACE(kMaxFds * sizeof(int))> control{};
    iovec segment{range.data, range.length};
    msghdr message{};
    message.msg_iov = &segment;
    message.msg_iovlen = 1;
    message.msg_control = control.data();
    message.msg_controllen = control.size();
    fdCount_ = 0;
    truncated_ = false;
    ssize_t count = 0;
    do {
      count = recvmsg(fd_, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    } while (count < 0 && errno == EINTR);
    if (count < 0) {
      if (errno == EAGAIN) return Napi::Number::New(env, -1);
      ThrowErrno(env, errno, "recvmsg");
    }
    // Those that found no room were closed by the kernel.
    truncated_ = (message.msg_flags & MSG_CTRUNC) != 0;
    TakeFds(message);
    return Napi::Number::New(env, static_cast<double>(count));
  }

  void TakeFds(msghdr& message) {
    for (cmsghdr* header = CMSG_FIRSTHDR(&message); header != nullptr; header = CMSG_NXTHDR(&message, header)) {
      if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) continue;
      const size_t count = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
      for (size_t i = 0; i < count; i++) {
        int fd = -1;
        memcpy(&fd, CMSG_DATA(header) + i * sizeof fd, sizeof fd);
        if (fdCount_ < kMaxFds) {
          fds_[fdCount_++] = fd;
        } else {
          close(fd);
          truncated_ = true;
        }
      }
    }
  }

  // send(bytes, offset, length, fds?)
  Napi::Value Send(const Napi::CallbackInfo& info) {
    Napi::Env env = info.Env();
    const Range range = RangeArgument(info);
    std::array<int, kMaxSentFds> fds{};
    const size_t fdCount = FdList(info, fds);
    CheckOpen(env);
    alignas(cmsghdr) std::array<char, CMSG_SPACE(kMaxSentFds * sizeof(int))> control{};
    iovec segment{range.data, range.length};
    msghdr message{};
    message.msg_iov = &segment;
    message.msg_iovlen = 1;
    if (fdCount > 0) {
      message.msg_control = control.data();
      message.msg_controllen = CMSG_SPACE(fdCount * sizeof(int));
      cmsghdr* header = CMSG_FIRSTHDR(&message);
      header->cmsg_level = SOL_SOCKET;
      header->cmsg_type = SCM_RIGHTS;
      header->cmsg_len = CMSG_LEN(fdCount * sizeof(int));
      memcpy(CMSG_DATA(header), fds.data(), fdCount * sizeof(int));
    }
    ssize_t count = 0;
    do {
      count = sendmsg(fd_, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
    } while (count < 0 && errno == EINTR);
    if (count < 0) {
      if (errno == EAGAIN) return Napi::Number::New(env, -1);
      ThrowErrno(env, errno, "sendmsg");
    }
    return Napi::Number::New(env, static_cast<double>(count));
  }

  static size_t FdList(const Napi::CallbackInfo& info, std::array<int, kMaxSentFds>& fds) {
    if (info.Length() < 4 || info[3].IsUndefined()) return 0;
    if (!info[3].IsArray()) ThrowType(info.Env(), "UnixSocket.send: fds must be an array");
    auto list = info[3].As<Napi::Array>();
    if (list.Length() > kMaxSentFds) ThrowRange(info.Env(), "UnixSocket.send: too many descriptors");
    for (uint32_t i = 0; i < list.Length(); i++) {
      Napi::Value value = list[i];
      if (!value.IsNumber()) ThrowType(info.Env(), "UnixSocket.send: a descriptor must be a number");
      fds[i] = value.As<Napi::Number>().Int32Value();
    }
    return list.Length();
  }

  Napi::Value Close(const Napi::CallbackInfo& info) {
    if (fd_ >= 0) close(fd_);
    fd_ = -1;
    return info.Env().Undefined();
  }

  int fd_ = -1;
  int32_t* fds_ = nullptr;
  uint32_t fdCount_ = 0;
  bool truncated_ = false;
  Napi::ObjectReference kept_;
};

Napi::Value UnixConnect(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  const sockaddr_un address = Address(info);
  const int fd = NewSocket(env);
  // Over a Unix socket it is done at once or refused; EAGAIN means that the listener's queue is full.
  if (connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    const int error = errno;
    close(fd);
    ThrowErrno(env, error, "connect", address.sun_path);
  }
  return Napi::Number::New(env, fd);
}

Napi::Value UnixPair(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  std::array<int, 2> fds{};
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds.data()) != 0) {
    ThrowErrno(env, errno, "socketpair");
  }
  Napi::Array pair = Napi::Array::New(env, 2);
  pair.Set(0U, Napi::Number::New(env, fds[0]));
  pair.Set(1U, Napi::Number::New(env, fds[1]));
  return pair;
}

}  // namespace

void InitUnix(Napi::Env env, Napi::Object exports) {
  UnixListener::Init(env, exports);
  UnixSocket::Init(env, exports);
  exports.Set("unixConnect", Napi::Function::New<UnixConnect>(env, "unixConnect"));
  exports.Set("unixPair", Napi::Function::New<UnixPair>(env, "unixPair"));
}

}  // namespace virtkit
