// Descriptors watched from the event loop, for JavaScript.

#include <napi.h>
#include <sys/epoll.h>

#include <array>
#include <cerrno>
#include <cstdint>
#include <memory>

#include "errors.h"
#include "fd_argument.h"
#include "modules.h"
#include "poll_hub.h"

namespace virtkit {
namespace {

// The hub of an environment; its pollers may be collected after that has ended.
using HubPointer = std::shared_ptr<PollHub>;

class Poller : public Napi::ObjectWrap<Poller>, private PollClient {
 public:
  static void Init(Napi::Env env, Napi::Object exports) {
    env.SetInstanceData(new HubPointer(std::make_shared<PollHub>(env)));
    exports.Set("Poller", DefineClass(env, "Poller",
                                      {
                                          InstanceMethod<&Poller::Add>("add"),
                                          InstanceMethod<&Poller::Remove>("remove"),
                                          InstanceMethod<&Poller::Pause>("pause"),
                                          InstanceMethod<&Poller::Resume>("resume"),
                                          InstanceMethod<&Poller::RefLoop>("ref"),
                                          InstanceMethod<&Poller::UnrefLoop>("unref"),
                                          InstanceMethod<&Poller::Close>("close"),
                                      }));
  }

  explicit Poller(const Napi::CallbackInfo& info) : Napi::ObjectWrap<Poller>(info) {
    Napi::Env env = info.Env();
    if (info.Length() < 1 || !info[0].IsFunction()) ThrowType(env, "Poller needs a callback");
    callback_ = Napi::Persistent(info[0].As<Napi::Function>());
    tokens_ = Napi::Persistent(Napi::Uint32Array::New(env, kTokens));
    tokenData_ = tokens_.Value().Data();
    info.This().As<Napi::Object>().DefineProperty(
        Napi::PropertyDescriptor::Value("tokens", tokens_.Value(), napi_enumerable));
    hub_ = *env.GetInstanceData<HubPointer>();
    hub_->Enter(this);
    open_ = true;
    // Like any open handle it lives until it is closed, whoever still refers to it.
    Ref();
  }

  ~Poller() override { Shut(); }

 private:
  // As many as the hub reports at once.
  static constexpr uint32_t kTokens = 64;

  void Note(uint32_t token) override { tokenData_[noted_++] = token; }

  void Report() override {
    const uint32_t count = noted_;
    noted_ = 0;
    CallFromLoop(Env(), callback_, count);
  }

  void Ended() override {
    open_ = false;
    // It refers to whoever made it, and they to this object: nobody would ever be collected.
    callback_.Reset();
    Unref();
  }

  void Shut() {
    if (!open_) return;
    hub_->Leave(this);
    Ended();
  }

  void Check(Napi::Env env, int error) {
    if (error != 0) ThrowErrno(env, error, "epoll_ctl");
  }

  uint32_t TokenArgument(const Napi::CallbackInfo& info) const {
    if (!open_) throw Napi::Error::New(info.Env(), "Poller is closed");
    if (info.Length() < 2 || !info[1].IsNumber()) ThrowType(info.Env(), "Poller: token must be a number");
    return info[1].As<Napi::Number>().Uint32Value();
  }

  Napi::Value Add(const Napi::CallbackInfo& info) {
    const uint32_t token = TokenArgument(info);
    Check(info.Env(), hub_->Add(this, FdArgument(info, 0), token));
    return info.Env().Undefined();
  }

  // The kernel always reports errors and hang-ups.
  Napi::Value Pause(const Napi::CallbackInfo& info) { return Change(info, 0); }

  Napi::Value Resume(const Napi::CallbackInfo& info) { return Change(info, EPOLLIN); }

  Napi::Value Change(const Napi::CallbackInfo& info, uint32_t events) {
    const uint32_t token = TokenArgument(info);
    Check(info.Env(), hub_->Change(this, FdArgument(info, 0), token, events));
    return info.Env().Undefined();
  }

  Napi::Value Remove(const Napi::CallbackInfo& info) {
    const int fd = FdArgument(info, 0);
    if (!open_) return info.Env().Undefined();
    const int error = hub_->Remove(this, fd);
    if (error != 0 && error != ENOENT && error != EBADF) ThrowErrno(info.Env(), error, "epoll_ctl");
    return info.Env().Undefined();
  }

  Napi::Value RefLoop(const Napi::CallbackInfo& info) {
    hub_->KeepAlive(this, true);
    return info.Env().Undefined();
  }

  Napi::Value UnrefLoop(const Napi::CallbackInfo& info) {
    hub_->KeepAlive(this, false);
    return info.Env().Undefined();
  }

  Napi::Value Close(const Napi::CallbackInfo& info) {
    Shut();
    return info.Env().Undefined();
  }

  HubPointer hub_;
  bool open_ = false;
  Napi::FunctionReference callback_;
  Napi::Reference<Napi::Uint32Array> tokens_;
  uint32_t* tokenData_ = nullptr;
  uint32_t noted_ = 0;
};

}  // namespace

void InitPoller(Napi::Env env, Napi::Object exports) { Poller::Init(env, exports); }

}  // namespace virtkit
