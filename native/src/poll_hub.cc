#include "poll_hub.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "errors.h"

namespace virtkit {
namespace {

// Looks at the descriptors between two turns of the event loop, which cost many times as much. Others have to get their turn.
constexpr int kRounds = 16;

}  // namespace

void PollHub::Enter(PollClient* client) {
  if (clients_.empty()) Open();
  clients_.push_back({client, true});
  UpdateKeepAlive();
}

void PollHub::Leave(PollClient* client) {
  for (size_t fd = 0; fd < members_.size(); fd++) {
    if (members_[fd].client == client) Remove(client, static_cast<int>(fd));
  }
  std::replace(ready_.begin(), ready_.begin() + readyCount_, client, static_cast<PollClient*>(nullptr));
  clients_.erase(std::remove_if(clients_.begin(), clients_.end(), [&](const Client& one) { return one.client == client; }),
                 clients_.end());
  if (clients_.empty()) {
    Close();
  } else {
    UpdateKeepAlive();
  }
}

void PollHub::KeepAlive(PollClient* client, bool alive) {
  for (Client& one : clients_) {
    if (one.client == client) one.alive = alive;
  }
  UpdateKeepAlive();
}

void PollHub::UpdateKeepAlive() {
  if (loop_ == nullptr) return;
  auto* handle = reinterpret_cast<uv_handle_t*>(loop_->Raw());
  const bool alive = std::any_of(clients_.begin(), clients_.end(), [](const Client& one) { return one.alive; });
  if (alive) {
    uv_ref(handle);
  } else {
    uv_unref(handle);
  }
}

void PollHub::Open() {
  epoll_ = epoll_create1(EPOLL_CLOEXEC);
  if (epoll_ < 0) ThrowErrno(env_, errno, "epoll_create1");
  loop_ = LoopHandle<uv_poll_t>::Create(env_, this);
  const int error = uv_poll_init(loop_->Loop(), loop_->Raw(), epoll_);
  if (error != 0) {
    loop_->Abandon();
    loop_ = nullptr;
    close(epoll_);
    epoll_ = -1;
    ThrowErrno(env_, -error, "uv_poll_init");
  }
  loop_->Started([](void* owner) { static_cast<PollHub*>(owner)->End(); });
  uv_poll_start(loop_->Raw(), UV_READABLE, [](uv_poll_t* handle, int, int) {
    auto* self = static_cast<PollHub*>(LoopHandle<uv_poll_t>::From(handle)->Owner());
    if (self != nullptr) self->Turn();
  });
}

void PollHub::Close() {
  loop_->Close();
  loop_ = nullptr;
  close(epoll_);
  epoll_ = -1;
  members_.clear();
}

void PollHub::End() {
  std::vector<Client> clients;
  clients.swap(clients_);
  readyCount_ = 0;
  Close();
  for (const Client& one : clients) one.client->Ended();
}

void PollHub::Turn() {
  for (int round = 0; round < kRounds && epoll_ >= 0; round++) {
    const int count = epoll_wait(epoll_, events_.data(), kBatch, 0);
    if (count <= 0) return;
    Hand(count);
  }
}

void PollHub::Hand(int count) {
  readyCount_ = 0;
  for (int i = 0; i < count; i++) {
    const Member& member = members_[static_cast<size_t>(events_[static_cast<size_t>(i)].data.fd)];
    if (member.client == nullptr) continue;
    const auto end = ready_.begin() + readyCount_;
    if (std::find(ready_.begin(), end, member.client) == end) ready_[static_cast<size_t>(readyCount_++)] = member.client;
    member.client->Note(member.token);
  }
  for (int i = 0; i < readyCount_; i++) {
    PollClient* client = ready_[static_cast<size_t>(i)];
    if (client != nullptr) client->Report();
  }
  readyCount_ = 0;
}

PollClient* PollHub::OwnerOf(int fd) const {
  return static_cast<size_t>(fd) < members_.size() ? members_[static_cast<size_t>(fd)].client : nullptr;
}

int PollHub::Control(int operation, int fd, uint32_t events) {
  epoll_event event{};
  event.events = events | EPOLLET;
  event.data.fd = fd;
  return epoll_ctl(epoll_, operation, fd, &event) == 0 ? 0 : errno;
}

int PollHub::Add(PollClient* client, int fd, uint32_t token) {
  const int error = Control(EPOLL_CTL_ADD, fd, EPOLLIN);
  if (error != 0) return error;
  // Whoever had that number before closed it, and the kernel forgot it.
  if (static_cast<size_t>(fd) >= members_.size()) members_.resize(static_cast<size_t>(fd) + 1);
  members_[static_cast<size_t>(fd)] = {client, token};
  return 0;
}

int PollHub::Change(PollClient* client, int fd, uint32_t token, uint32_t events) {
  PollClient* owner = OwnerOf(fd);
  if (owner != nullptr && owner != client) return ENOENT;
  const int error = Control(EPOLL_CTL_MOD, fd, events);
  if (error == 0 && owner == client) members_[static_cast<size_t>(fd)].token = token;
  return error;
}

int PollHub::Remove(PollClient* client, int fd) {
  if (OwnerOf(fd) != client) return ENOENT;
  members_[static_cast<size_t>(fd)] = {};
  return Control(EPOLL_CTL_DEL, fd, 0);
}

}  // namespace virtkit
