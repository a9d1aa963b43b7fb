// The epoll descriptor that all pollers of an environment share, itself watched by the environment's event loop. Its members
// are edge-triggered, so nothing need be read from them: no system call per event, and descriptors that were handed over in
// blocking mode stay untouched.
#pragma once

#include <napi.h>
#include <sys/epoll.h>
#include <uv.h>

#include <array>
#include <cstdint>
#include <vector>

#include "loop_handle.h"

namespace virtkit {

// Whose descriptors the hub watches.
class PollClient {
 public:
  // One of its descriptors, that with this token, is ready. Nothing is called for it yet.
  virtual void Note(uint32_t token) = 0;
  // All that are ready were noted. It may leave, and be freed, meanwhile.
  virtual void Report() = 0;
  // The environment ends; the hub has forgotten it.
  virtual void Ended() = 0;

 protected:
  ~PollClient() = default;
};

class PollHub {
 public:
  explicit PollHub(Napi::Env env) : env_(env) {}
  PollHub(const PollHub&) = delete;
  PollHub& operator=(const PollHub&) = delete;

  // Throws with errno when it cannot be watched. A client that enters keeps the process alive until it says otherwise.
  void Enter(PollClient* client);
  // Takes its descriptors with it.
  void Leave(PollClient* client);
  // Of a client that entered: whether it keeps the process alive.
  void KeepAlive(PollClient* client, bool alive);

  // Each returns 0 or an errno.
  int Add(PollClient* client, int fd, uint32_t token);
  int Change(PollClient* client, int fd, uint32_t token, uint32_t events);
  int Remove(PollClient* client, int fd);

 private:
  struct Client {
    PollClient* client;
    bool alive;
  };
  struct Member {
    PollClient* client = nullptr;
    uint32_t token = 0;
  };

  static constexpr int kBatch = 64;

  void Open();
  void Close();
  void End();
  void Turn();
  void Hand(int count);
  int Control(int operation, int fd, uint32_t events);
  void UpdateKeepAlive();
  PollClient* OwnerOf(int fd) const;

  Napi::Env env_;
  int epoll_ = -1;
  LoopHandle<uv_poll_t>* loop_ = nullptr;
  std::vector<Client> clients_;
  // By descriptor.
  std::vector<Member> members_;
  std::array<epoll_event, kBatch> events_{};
  // Those of this batch, null once they have left.
  std::array<PollClient*, kBatch> ready_{};
  int readyCount_ = 0;
};

}  // namespace virtkit
