#include "nbd/server.h"

#include <pthread.h>
#include <unistd.h>

#include <exception>
#include <thread>
#include <utility>

#include "nbd/limits.h"

namespace flashlun::nbd {
namespace {

Status TooMany() {
  return Status(Code::kLimit, "no room for another NBD connection (limit " +
                                  std::to_string(kMaxConnections) + "): disconnect a client");
}

}  // namespace

Server::Server(Store& store) : store_(store) {}

Server::~Server() { StopAll(); }

Result<uint64_t> Server::Serve(ConnectionOptions options, OnClosed on_closed) {
  const int fd = options.fd;
  std::unique_lock<std::mutex> lock(mutex_);
  OpSlot* slot = live_.size() < kMaxConnections ? store_.AcquireSlot() : nullptr;
  if (slot == nullptr) {
    ::close(fd);
    return TooMany();
  }
  const uint64_t id = next_id_++;
  try {
    Live live;
    live.connection = std::make_shared<Connection>(store_, *slot, shares_, std::move(options));
    live.slot = slot;
    live.on_closed = std::move(on_closed);
    live_.emplace(id, live.connection);
    // Detached: nobody is there to join a connection that ends by itself. StopAll waits on live_
    // instead.
    std::thread([this, id, live = std::move(live)] { RunConnection(id, live); }).detach();
  } catch (const std::exception& error) {
    live_.erase(id);  // the connection has closed its descriptor
    store_.ReleaseSlot(slot);
    return Status(Code::kLimit, std::string("cannot start an NBD connection: ") + error.what());
  }
  return id;
}

void Server::RunConnection(uint64_t id, const Live& live) {
  pthread_setname_np(pthread_self(), ("nbd-" + std::to_string(id)).substr(0, 15).c_str());
  const CloseReport report = live.connection->Run();
  store_.ReleaseSlot(live.slot);
  live.on_closed(id, report);
  Forget(id);
}

// The server may be gone as soon as the lock is free, so nothing follows it.
void Server::Forget(uint64_t id) {
  std::lock_guard<std::mutex> lock(mutex_);
  live_.erase(id);
  ended_.notify_all();
}

void Server::Stop(uint64_t id) {
  std::shared_ptr<Connection> connection;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    const auto found = live_.find(id);
    if (found == live_.end()) return;
    connection = found->second;
  }
  connection->Stop();
}

void Server::StopAll() {
  std::unique_lock<std::mutex> lock(mutex_);
  for (const auto& [id, connection] : live_) connection->Stop();
  ended_.wait(lock, [this] { return live_.empty(); });
}

}  // namespace flashlun::nbd
