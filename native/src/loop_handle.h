// A libuv handle on the event loop of the environment (of a worker, its own), with the JavaScript callback that it serves, if it is one.
//
// Life: Create, uv_*_init, Started; then Close, once, on the environment's thread. The memory is freed by libuv's close
// callback, so an owner that closes from within the callback is safe. When the environment ends first, the cleanup hook
// has the owner shut itself, which closes.
#pragma once

#include <napi.h>
#include <uv.h>

namespace virtkit {

// Calls `callback` from the event loop; its owner may be gone when that returns. What it throws is an uncaught exception,
// as with any other callback of the event loop. Node-API's plain calls because the C++ wrapper aborts when the environment
// is being terminated.
inline void CallFromLoop(napi_env env, const Napi::FunctionReference& callback, uint32_t argument) {
  napi_handle_scope scope = nullptr;
  if (napi_open_handle_scope(env, &scope) != napi_ok) return;
  napi_value global = nullptr;
  napi_value value = nullptr;
  napi_value result = nullptr;
  if (napi_get_global(env, &global) == napi_ok && napi_create_uint32(env, argument, &value) == napi_ok &&
      napi_make_callback(env, nullptr, global, callback.Value(), 1, &value, &result) != napi_ok) {
    napi_value error = nullptr;
    bool pending = false;
    if (napi_is_exception_pending(env, &pending) == napi_ok && pending &&
        napi_get_and_clear_last_exception(env, &error) == napi_ok) {
      napi_fatal_exception(env, error);
    }
  }
  napi_close_handle_scope(env, scope);
}

template <typename Handle>
class LoopHandle {
 public:
  static LoopHandle* Create(Napi::Env env, void* owner, Napi::Function callback) {
    return new LoopHandle(env, owner, callback);
  }

  // One whose owner does the calling.
  static LoopHandle* Create(Napi::Env env, void* owner) { return new LoopHandle(env, owner, Napi::Function()); }

  static LoopHandle* From(Handle* handle) { return static_cast<LoopHandle*>(handle->data); }

  // For a handle whose uv_*_init failed.
  void Abandon() { delete this; }

  // `shut` is called with the owner when the environment ends; it must call Close.
  void Started(void (*shut)(void* owner)) {
    shut_ = shut;
    napi_add_async_cleanup_hook(env_, &LoopHandle::OnEnvironmentEnd, this, &hook_);
  }

  void Close() {
    owner_ = nullptr;
    uv_close(reinterpret_cast<uv_handle_t*>(&handle_), [](uv_handle_t* handle) {
      auto* self = static_cast<LoopHandle*>(handle->data);
      if (self->hook_ != nullptr) napi_remove_async_cleanup_hook(self->hook_);
      delete self;
    });
  }

  uv_loop_t* Loop() const {
    uv_loop_t* loop = nullptr;
    napi_get_uv_event_loop(env_, &loop);
    return loop;
  }

  Handle* Raw() { return &handle_; }

  // Null once closed.
  void* Owner() const { return owner_; }

  void Call(uint32_t argument) { CallFromLoop(env_, callback_, argument); }

 private:
  LoopHandle(Napi::Env env, void* owner, Napi::Function callback)
      : env_(env), owner_(owner) {
    if (!callback.IsEmpty()) callback_ = Napi::Persistent(callback);
    handle_.data = this;
  }

  static void OnEnvironmentEnd(napi_async_cleanup_hook_handle, void* data) {
    auto* self = static_cast<LoopHandle*>(data);
    if (self->owner_ != nullptr) self->shut_(self->owner_);
  }

  Napi::Env env_;
  void* owner_;
  Napi::FunctionReference callback_;
  void (*shut_)(void*) = nullptr;
  napi_async_cleanup_hook_handle hook_ = nullptr;
  Handle handle_{};
};

}  // namespace virtkit
