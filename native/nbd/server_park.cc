// Server: parking all connections, and letting them go on, here or elsewhere (park.h).
#include <unistd.h>

#include <chrono>
#include <utility>

#include "nbd/server.h"

namespace flashlun::nbd {
namespace {

using Clock = std::chrono::steady_clock;

// How often a connection that has not parked yet is asked again (interrupt.h).
constexpr std::chrono::milliseconds kAskAgain{1};

Status StillBusy(size_t count) {
  return Status(Code::kTimeout, std::to_string(count) +
                                    " NBD connections have requests in flight that do not end; "
                                    "all of them go on: try again");
}

}  // namespace

// First those end that nobody can go on with: a client that does not take its last replies takes
// kStopGrace, and the others are served meanwhile.
Status Server::ParkAll(std::chrono::milliseconds limit) {
  std::unique_lock<std::mutex> lock(mutex_);
  if (parking_) return Status(Code::kBusy, "the connections are parked already");
  parking_ = true;
  bool (Server::*const steps[])() = {&Server::AllStopped, &Server::AllParked};
  for (const auto step : steps) {
    const Clock::time_point deadline = Clock::now() + limit;
    while (!(this->*step)()) {
      if (Clock::now() > deadline) {
        size_t busy = 0;
        for (const auto& [id, live] : live_) busy += live.connection ? 1 : 0;
        lock.unlock();
        UnparkAll();
        return StillBusy(busy);
      }
      ended_.wait_for(lock, kAskAgain);
    }
  }
  return Status::Ok();
}

// The mutex is held. Ends those that cannot be parked.
bool Server::AllStopped() {
  bool all = true;
  for (const auto& [id, live] : live_) {
    if (live.movable || !live.connection) continue;
    all = false;
    live.connection->Stop();
  }
  return all;
}

// The mutex is held. Asks those that are not.
bool Server::AllParked() {
  bool all = true;
  for (const auto& [id, live] : live_) {
    if (!live.connection) continue;
    all = false;
    live.connection->Park();
  }
  return all;
}

// False when parking was called off meanwhile.
bool Server::KeepParked(uint64_t id, Connection& connection) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (!parking_) return false;
  Live& live = live_.at(id);
  live.parked = std::make_unique<ConnectionOptions>(connection.TakeParked());
  live.connection.reset();
  ended_.notify_all();
  return true;
}

std::vector<ParkedInfo> Server::Parked() {
  std::lock_guard<std::mutex> lock(mutex_);
  std::vector<ParkedInfo> list;
  for (const auto& [id, live] : live_) {
    if (!live.parked) continue;
    const ConnectionOptions& parked = *live.parked;
    list.push_back({id, parked.fd, parked.leftover, parked.unsent, parked.drain_bytes});
  }
  return list;
}

void Server::UnparkAll() {
  std::vector<std::pair<uint64_t, ConnectionOptions>> parked;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    parking_ = false;
    for (auto& [id, live] : live_) {
      if (live.connection) live.connection->Unpark();
      if (live.parked) parked.emplace_back(id, std::move(*live.parked));
      live.parked.reset();
    }
  }
  for (auto& [id, options] : parked) Resume(id, std::move(options));
}

void Server::Resume(uint64_t id, ConnectionOptions options) {
  Status status(Code::kLimit, "no operation slot is left");
  {
    std::lock_guard<std::mutex> lock(mutex_);
    OpSlot* slot = store_.AcquireSlot();
    if (slot != nullptr) {
      status = Start(id, live_.at(id), std::move(options), slot);
    } else {
      ::close(options.fd);
    }
  }
  if (status.ok()) return;
  CloseReport report;
  report.reason = CloseReason::kIo;
  report.detail = status.message();
  End(id, report);
}

void Server::ForgetParked() {
  std::vector<std::pair<uint64_t, CloseReport>> gone;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    for (auto& [id, live] : live_) {
      if (!live.parked) continue;
      ::close(live.parked->fd);
      live.parked.reset();
      CloseReport report;
      report.reason = CloseReason::kParked;
      report.Count(*live.stats);
      gone.emplace_back(id, std::move(report));
    }
  }
  for (const auto& [id, report] : gone) End(id, report);
}

}  // namespace flashlun::nbd
