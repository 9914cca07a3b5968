#include "nbd/server.h"

#include <pthread.h>
#include <unistd.h>

#include <algorithm>
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
  OpSlot* slot = nullptr;
  Status status;
  if (parking_) {
    status = Status(Code::kBusy, "the connections are being handed to another server");
  } else if (live_.contains(options.id)) {
    status = Status(Code::kExists, "the connection's id is in use");
  } else if (live_.size() >= kMaxConnections || (slot = store_.AcquireSlot()) == nullptr) {
    status = TooMany();
  }
  if (!status.ok()) {
    ::close(fd);
    return status;
  }
  const uint64_t id = options.id != 0 ? options.id : next_id_;
  next_id_ = std::max(next_id_, id) + 1;
  Live& live = live_[id];
  live.on_closed = std::move(on_closed);
  live.stats = options.stats;
  live.volume = options.volume.id();
  live.read_only = options.read_only;
  live.movable = options.movable && options.secure == nullptr;
  live.address = PeerAddress(fd);
  status = Start(id, live, std::move(options), slot);
  if (!status.ok()) {
    live_.erase(id);
    return status;
  }
  return id;
}

// The mutex is held. On failure the descriptor is closed and the slot given back.
Status Server::Start(uint64_t id, Live& live, ConnectionOptions options, OpSlot* slot) {
  try {
    options.id = id;
    live.connection = std::make_shared<Connection>(store_, *slot, shares_, std::move(options));
    // Detached: nobody is there to join a connection that ends by itself. StopAll waits on live_
    // instead.
    std::thread([this, id, connection = live.connection, slot] {
      RunConnection(id, connection, slot);
    }).detach();
  } catch (const std::exception& error) {
    live.connection.reset();  // it has closed its descriptor
    store_.ReleaseSlot(slot);
    return Status(Code::kLimit, std::string("cannot start an NBD connection: ") + error.what());
  }
  return Status::Ok();
}

void Server::RunConnection(uint64_t id, const std::shared_ptr<Connection>& connection,
                           OpSlot* slot) {
  pthread_setname_np(pthread_self(), ("nbd-" + std::to_string(id)).substr(0, 15).c_str());
  if (!connection->resumed() && !connection->read_only()) FenceOlder(id, *connection);
  const CloseReport report = connection->Run();
  store_.ReleaseSlot(slot);
  if (report.reason == CloseReason::kParked) {
    if (KeepParked(id, *connection)) return;
    return Resume(id, connection->TakeParked());
  }
  End(id, report);
}

// The server may be gone as soon as the lock is free, so nothing follows it.
void Server::End(uint64_t id, const CloseReport& report) {
  OnClosed on_closed;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    on_closed = live_.at(id).on_closed;
  }
  on_closed(id, report);
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
    connection = found->second.connection;
  }
  if (connection) connection->Stop();
}

void Server::StopAll() {
  UnparkAll();  // what is parked ends as everything else
  std::unique_lock<std::mutex> lock(mutex_);
  for (const auto& [id, live] : live_)
    if (live.connection) live.connection->Stop();
  ended_.wait(lock, [this] { return live_.empty(); });
}

std::vector<ConnectionInfo> Server::List() {
  std::lock_guard<std::mutex> lock(mutex_);
  std::vector<ConnectionInfo> list;
  list.reserve(live_.size());
  for (const auto& [id, live] : live_) {
    ConnectionInfo info;
    info.id = id;
    for (size_t kind = 0; kind < kKinds; ++kind)
      info.requests[kind] = live.stats->requests[kind].load(std::memory_order_relaxed);
    info.errors = live.stats->errors.load(std::memory_order_relaxed);
    info.bytes_in = live.stats->bytes_in.load(std::memory_order_relaxed);
    info.bytes_out = live.stats->bytes_out.load(std::memory_order_relaxed);
    info.in_flight = live.stats->in_flight.load(std::memory_order_relaxed);
    info.held = live.stats->held.load(std::memory_order_relaxed);
    list.push_back(info);
  }
  return list;
}

}  // namespace flashlun::nbd
