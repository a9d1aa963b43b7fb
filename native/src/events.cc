// eventfds.

#include <fcntl.h>
#include <napi.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <array>
#include <cstdint>
#include <cstring>
#include <string>

#include "errors.h"
#include "fd_argument.h"
#include "modules.h"
#include "options.h"

namespace virtkit {
namespace {

class EventFd : public Napi::ObjectWrap<EventFd> {
 public:
  static void Init(Napi::Env env, Napi::Object exports) {
    exports.Set("EventFd", DefineClass(env, "EventFd",
                                       {
                                           InstanceAccessor<&EventFd::Fd>("fd"),
                                           InstanceMethod<&EventFd::Signal>("signal"),
                                           InstanceMethod<&EventFd::Clear>("clear"),
                                           InstanceMethod<&EventFd::Wait>("wait"),
                                           InstanceMethod<&EventFd::Close>("close"),
                                       }));
  }

  explicit EventFd(const Napi::CallbackInfo& info) : Napi::ObjectWrap<EventFd>(info) {
    if (info.Length() > 0 && !info[0].IsUndefined()) {
      TakeOver(info.Env(), FdArgument(info, 0));
      owned_ = info.Length() < 2 || !info[1].IsBoolean() || !info[1].As<Napi::Boolean>().Value();
      return;
    }
    fd_ = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (fd_ < 0) ThrowErrno(info.Env(), errno, "eventfd");
  }

  ~EventFd() override { CloseAll(); }

 private:
  // One that another process made. It must be an eventfd: a write to a pipe or a socket would do something else.
  void TakeOver(Napi::Env env, int fd) {
    std::array<char, 64> target{};
    const std::string link = "/proc/self/fd/" + std::to_string(fd);
    if (readlink(link.c_str(), target.data(), target.size() - 1) < 0) ThrowErrno(env, errno, "readlink", link);
    if (strcmp(target.data(), "anon_inode:[eventfd]") != 0) {
      ThrowErrno(env, EINVAL, "eventfd", "the descriptor is no eventfd but " + std::string(target.data()));
    }
    const int flags = fcntl(fd, F_GETFL);
    if (flags < 0) ThrowErrno(env, errno, "fcntl");
    // The flag belongs to all who share it, so it stays, and what might wait is asked for first.
    blocking_ = (flags & O_NONBLOCK) == 0;
    fd_ = fd;
  }

  bool MayWait(short events) const {
    if (!blocking_) return false;
    pollfd request{fd_, events, 0};
    return poll(&request, 1, 0) != 1 || (request.revents & events) == 0;
  }

  Napi::Value Fd(const Napi::CallbackInfo& info) { return Napi::Number::New(info.Env(), fd_); }

  Napi::Value Signal(const Napi::CallbackInfo& info) {
    const uint64_t one = 1;
    if (fd_ < 0 || MayWait(POLLOUT)) return info.Env().Undefined();
    // EAGAIN means that the counter is at its limit: it is signalled already.
    if (write(fd_, &one, sizeof one) < 0 && errno != EAGAIN) ThrowErrno(info.Env(), errno, "write");
    return info.Env().Undefined();
  }

  Napi::Value Clear(const Napi::CallbackInfo& info) {
    uint64_t count = 0;
    const bool was = fd_ >= 0 && !MayWait(POLLIN) && read(fd_, &count, sizeof count) == sizeof count;
    return Napi::Boolean::New(info.Env(), was);
  }

  // Edge-triggered, so that nothing need be read: one system call a wait, whatever the flags of the eventfd.
  Napi::Value Wait(const Napi::CallbackInfo& info) {
    Napi::Env env = info.Env();
    if (info.Length() < 1 || !info[0].IsNumber()) ThrowType(env, "EventFd.wait: milliseconds must be a number");
    const int milliseconds = info[0].As<Napi::Number>().Int32Value();
    if (fd_ < 0) return Napi::Boolean::New(env, false);
    if (epoll_ < 0) StartWaiting(env);
    epoll_event event{};
    const int count = epoll_wait(epoll_, &event, 1, milliseconds);
    if (count < 0 && errno != EINTR) ThrowErrno(env, errno, "epoll_wait");
    return Napi::Boolean::New(env, count == 1);
  }

  void StartWaiting(Napi::Env env) {
    epoll_ = epoll_create1(EPOLL_CLOEXEC);
    if (epoll_ < 0) ThrowErrno(env, errno, "epoll_create1");
    epoll_event event{};
    event.events = EPOLLIN | EPOLLET;
    if (epoll_ctl(epoll_, EPOLL_CTL_ADD, fd_, &event) == 0) return;
    const int error = errno;
    close(epoll_);
    epoll_ = -1;
    ThrowErrno(env, error, "epoll_ctl");
  }

  Napi::Value Close(const Napi::CallbackInfo& info) {
    CloseAll();
    return info.Env().Undefined();
  }

  void CloseAll() {
    if (epoll_ >= 0) close(epoll_);
    if (fd_ >= 0 && owned_) close(fd_);
    epoll_ = fd_ = -1;
  }

  int fd_ = -1;
  // It is closed with this object.
  bool owned_ = true;
  // Made by the first wait.
  int epoll_ = -1;
  bool blocking_ = false;
};

}  // namespace

void InitEvents(Napi::Env env, Napi::Object exports) { EventFd::Init(env, exports); }

}  // namespace virtkit
