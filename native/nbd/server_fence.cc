// Server: fencing off what clients that have gone left behind (fence.h). Runs on the thread of the
// new connection, before its first request; only older connections are fenced, so no two wait for
// each other.
#include <chrono>
#include <thread>
#include <utility>

#include "nbd/server.h"

namespace flashlun::nbd {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::chrono::milliseconds kLookAgain{5};
constexpr std::chrono::milliseconds kFenceAgain{100};

bool Busy(const ConnectionStats& stats) {
  return stats.serving.load() || stats.in_flight.load() != 0;
}

}  // namespace

struct Server::Older {
  uint64_t id;
  std::shared_ptr<Connection> connection;
  bool asked;  // whether it has to give a sign of life
};

// Those that are gone, and those that have to show that they are not.
std::vector<Server::Older> Server::LookForOlder(uint64_t id) {
  std::vector<Older> found;
  std::lock_guard<std::mutex> lock(mutex_);
  const Live& own = live_.at(id);
  for (const auto& [other, live] : live_) {
    if (other >= id) break;
    if (!live.connection || live.read_only || live.volume != own.volume) continue;
    const PeerLife life = live.connection->Look();
    if (life == PeerLife::kAlive) continue;
    const bool gone = life == PeerLife::kGone;
    const bool same = !own.address.empty() && live.address == own.address;
    const bool busy = Busy(*live.stats) || live.connection->HasUnread();
    if (gone || (same && busy)) found.push_back({other, live.connection, !gone});
  }
  return found;
}

void Server::FenceOlder(uint64_t id, const Connection& own) {
  std::vector<Older> older = LookForOlder(id);
  if (older.empty()) return;
  std::vector<uint64_t> fenced;
  std::vector<Older> silent;
  for (Older& each : older) {
    if (each.asked) {
      silent.push_back(std::move(each));
      continue;
    }
    each.connection->Fence();
    fenced.push_back(each.id);
  }
  AwaitSigns(&silent, own);
  for (const Older& each : silent) {
    each.connection->Fence();
    fenced.push_back(each.id);
  }
  AwaitEnded(fenced);
}

// Leaves in *silent those that gave no sign.
void Server::AwaitSigns(std::vector<Older>* silent, const Connection& own) {
  for (const Older& each : *silent) each.connection->Probe(true);
  std::vector<Older> dead;
  const Clock::time_point deadline = Clock::now() + kProbeLimit;
  while (!silent->empty() && !own.stopping()) {
    std::vector<Older> waiting;
    for (Older& each : *silent) {
      const PeerLife life = each.connection->Look();
      if (life == PeerLife::kAlive) {
        each.connection->Probe(false);
      } else {
        (life == PeerLife::kGone ? dead : waiting).push_back(std::move(each));
      }
    }
    *silent = std::move(waiting);
    if (Clock::now() > deadline) break;
    if (!silent->empty()) std::this_thread::sleep_for(kLookAgain);
  }
  for (Older& each : dead) silent->push_back(std::move(each));
}

void Server::AwaitEnded(const std::vector<uint64_t>& ids) {
  std::unique_lock<std::mutex> lock(mutex_);
  for (;;) {
    bool all = true;
    for (const uint64_t id : ids) {
      const auto found = live_.find(id);
      if (found == live_.end()) continue;
      all = false;
      // Again: parking that was called off may have made it a new Connection.
      if (found->second.connection) found->second.connection->Fence();
    }
    if (all) return;
    ended_.wait_for(lock, kFenceAgain);
  }
}

}  // namespace flashlun::nbd
