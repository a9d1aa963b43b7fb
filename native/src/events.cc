// eventfds, and the descriptor that waits for many of them on the environment's own event loop.

#include <fcntl.h>
#include <napi.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>
#include <uv.h>

#include <array>
#include <cstdint>
#include <cstring>
#include <string>

#include "errors.h"
#include "loop_handle.h"
#include "modules.h"
#include "options.h"

namespace virtkit {
namespace {

int FdArgument(const Napi::CallbackInfo& info, size_t index) {
  if (info.Length() <= index || !info[index].IsNumber()) ThrowType(info.Env(), "a file descriptor must be a number");
  const double fd = info[index].As<Napi::Number>().DoubleValue();
  if (!(fd >= 0 && fd <= 0x7fffffff)) ThrowRange(info.Env(), "file descriptor out of range");
  return static_cast<int>(fd);
}

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

// An epoll descriptor, itself watched by the event loop. Its members are edge-triggered, so nothing need be read from
// them: no system call per event, and descriptors that were handed over in blocking mode stay untouched.
class Poller : public Napi::ObjectWrap<Poller> {
 public:
  static void Init(Napi::Env env, Napi::Object exports) {
    exports.Set("Poller", DefineClass(env, "Poller",
                                      {
                                          InstanceMethod<&Poller::Add>("add"),
                                          InstanceMethod<&Poller::Remove>("remove"),
                                          InstanceMethod<&Poller::Pause>("pause"),
                                          InstanceMethod<&Poller::Resume>("resume"),
                                          InstanceMethod<&Poller::Poll>("poll"),
                                          InstanceMethod<&Poller::RefLoop>("ref"),
                                          InstanceMethod<&Poller::UnrefLoop>("unref"),
                                          InstanceMethod<&Poller::Close>("close"),
                                      }));
  }

  explicit Poller(const Napi::CallbackInfo& info) : Napi::ObjectWrap<Poller>(info) {
    Napi::Env env = info.Env();
    if (info.Length() < 1 || !info[0].IsFunction()) ThrowType(env, "Poller needs a callback");
    epoll_ = epoll_create1(EPOLL_CLOEXEC);
    if (epoll_ < 0) ThrowErrno(env, errno, "epoll_create1");
    tokens_ = Napi::Persistent(Napi::Uint32Array::New(env, kBatch));
    tokenData_ = tokens_.Value().Data();
    info.This().As<Napi::Object>().DefineProperty(
        Napi::PropertyDescriptor::Value("tokens", tokens_.Value(), napi_enumerable));

    loop_ = LoopHandle<uv_poll_t>::Create(env, this, info[0].As<Napi::Function>());
    const int error = uv_poll_init(loop_->Loop(), loop_->Raw(), epoll_);
    if (error != 0) {
      loop_->Abandon();
      loop_ = nullptr;
      close(epoll_);
      ThrowErrno(env, -error, "uv_poll_init");
    }
    // Like any open handle it lives until it is closed, whoever still refers to it.
    Ref();
    loop_->Started([](void* owner) { static_cast<Poller*>(owner)->Shut(); });
    uv_poll_start(loop_->Raw(), UV_READABLE, [](uv_poll_t* handle, int, int) {
      auto* loop = LoopHandle<uv_poll_t>::From(handle);
      auto* self = static_cast<Poller*>(loop->Owner());
      if (self == nullptr) return;
      const int count = self->Collect();
      if (count > 0) loop->Call(count);
    });
  }

  ~Poller() override { Shut(); }

 private:
  static constexpr int kBatch = 64;

  // Puts the tokens of what became ready since the last time into `tokens`.
  int Collect() {
    const int count = epoll_wait(epoll_, events_.data(), kBatch, 0);
    for (int i = 0; i < count; i++) tokenData_[i] = events_[static_cast<size_t>(i)].data.u32;
    return count < 0 ? 0 : count;
  }

  void Shut() {
    if (loop_ == nullptr) return;
    loop_->Close();
    loop_ = nullptr;
    close(epoll_);
    epoll_ = -1;
    Unref();
  }

  void CheckOpen(Napi::Env env) const {
    if (epoll_ < 0) throw Napi::Error::New(env, "Poller is closed");
  }

  Napi::Value Control(const Napi::CallbackInfo& info, int operation, uint32_t events) {
    CheckOpen(info.Env());
    const int fd = FdArgument(info, 0);
    epoll_event event{};
    event.events = events | EPOLLET;
    if (info.Length() < 2 || !info[1].IsNumber()) ThrowType(info.Env(), "Poller: token must be a number");
    event.data.u32 = info[1].As<Napi::Number>().Uint32Value();
    if (epoll_ctl(epoll_, operation, fd, &event) != 0) ThrowErrno(info.Env(), errno, "epoll_ctl");
    return info.Env().Undefined();
  }

  Napi::Value Add(const Napi::CallbackInfo& info) { return Control(info, EPOLL_CTL_ADD, EPOLLIN); }

  // The kernel always reports errors and hang-ups.
  Napi::Value Pause(const Napi::CallbackInfo& info) { return Control(info, EPOLL_CTL_MOD, 0); }

  Napi::Value Resume(const Napi::CallbackInfo& info) { return Control(info, EPOLL_CTL_MOD, EPOLLIN); }

  Napi::Value Remove(const Napi::CallbackInfo& info) {
    const int fd = FdArgument(info, 0);
    if (epoll_ < 0) return info.Env().Undefined();
    if (epoll_ctl(epoll_, EPOLL_CTL_DEL, fd, nullptr) != 0 && errno != ENOENT && errno != EBADF) {
      ThrowErrno(info.Env(), errno, "epoll_ctl");
    }
    return info.Env().Undefined();
  }

  Napi::Value Poll(const Napi::CallbackInfo& info) {
    return Napi::Number::New(info.Env(), epoll_ < 0 ? 0 : Collect());
  }

  Napi::Value RefLoop(const Napi::CallbackInfo& info) {
    if (loop_ != nullptr) uv_ref(reinterpret_cast<uv_handle_t*>(loop_->Raw()));
    return info.Env().Undefined();
  }

  Napi::Value UnrefLoop(const Napi::CallbackInfo& info) {
    if (loop_ != nullptr) uv_unref(reinterpret_cast<uv_handle_t*>(loop_->Raw()));
    return info.Env().Undefined();
  }

  Napi::Value Close(const Napi::CallbackInfo& info) {
    Shut();
    return info.Env().Undefined();
  }

  int epoll_ = -1;
  LoopHandle<uv_poll_t>* loop_ = nullptr;
  Napi::Reference<Napi::Uint32Array> tokens_;
  uint32_t* tokenData_ = nullptr;
  std::array<epoll_event, kBatch> events_{};
};

}  // namespace

void InitEvents(Napi::Env env, Napi::Object exports) {
  EventFd::Init(env, exports);
  Poller::Init(env, exports);
}

}  // namespace virtkit
