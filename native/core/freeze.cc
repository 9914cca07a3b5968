#include "core/freeze.h"

#include <algorithm>
#include <string>

#include "core/limits.h"

namespace flashlun {
namespace {

using Clock = std::chrono::steady_clock;

uint64_t WritesOf(const VolumeState& volume) {
  uint64_t writes = 0;
  for (const IoCounters& copy : volume.counters) writes += copy.host_writes.load();
  return writes;
}

}  // namespace

Status Freezes::Freeze(std::span<const std::shared_ptr<VolumeState>> volumes,
                       std::chrono::milliseconds limit) {
  if (limit < kMinFreeze || limit > kMaxFreeze)
    return Status(Code::kInvalid, "a freeze lasts " + std::to_string(kMinFreeze.count()) + " to " +
                                      std::to_string(kMaxFreeze.count()) + " milliseconds");
  if (Status status = Close(volumes, limit); !status.ok()) return status;
  if (AwaitWrites(volumes)) return Status::Ok();
  std::vector<uint16_t> ids;
  for (const auto& volume : volumes) ids.push_back(volume->id);
  (void)Thaw(ids);
  return Status(Code::kTimeout,
                "writes in flight did not end within 2 s; nothing is frozen: try again");
}

Status Freezes::Close(std::span<const std::shared_ptr<VolumeState>> volumes,
                      std::chrono::milliseconds limit) {
  auto lock = monitor_.Acquire();
  if (stopping_) return Status(Code::kClosed, "the pool is closing");
  for (const auto& volume : volumes)
    if (frozen_.contains(volume.get()))
      return Status(Code::kBusy, "volume " + VolumeIdText(volume->id) +
                                     " is frozen already; nothing was changed: thaw it first");
  if (!timer_) timer_ = io_.Spawn("fl-freeze", [this] { TimerLoop(); });
  for (const auto& volume : volumes) {
    frozen_[volume.get()] = {volume, Clock::now() + limit, io_.UnixMs() + limit.count()};
    volume->frozen.store(true);
  }
  changed_.NotifyAll();
  return Status::Ok();
}

// False when a write that had begun does not end.
bool Freezes::AwaitWrites(std::span<const std::shared_ptr<VolumeState>> volumes) {
  const auto deadline = Clock::now() + kFreezeDrain;
  for (const auto& volume : volumes) {
    for (unsigned round = 0; WritesOf(*volume) != 0; ++round) {
      if (Clock::now() > deadline) return false;
      PollPause(round);
    }
  }
  return true;
}

std::vector<uint16_t> Freezes::Thaw(std::span<const uint16_t> ids) {
  std::vector<uint16_t> thawed;
  auto lock = monitor_.Acquire();
  for (auto it = frozen_.begin(); it != frozen_.end();) {
    if (std::find(ids.begin(), ids.end(), it->first->id) == ids.end()) {
      ++it;
      continue;
    }
    thawed.push_back(it->first->id);
    Open(it->second);
    it = frozen_.erase(it);
  }
  changed_.NotifyAll();
  return thawed;
}

// The monitor is held.
void Freezes::Open(Frozen& frozen) {
  frozen.volume->frozen.store(false);
  for (ThawWaiter* waiter : frozen.volume->thaw_waiters) waiter->Thawed();
  frozen.volume->thaw_waiters.clear();
}

void Freezes::Stop() {
  std::unique_ptr<Task> timer;
  {
    auto lock = monitor_.Acquire();
    stopping_ = true;
    for (auto& [volume, frozen] : frozen_) Open(frozen);
    frozen_.clear();
    timer = std::move(timer_);
    changed_.NotifyAll();
  }
  if (timer) timer->Join();
}

int64_t Freezes::ThawsAt(const VolumeState& volume) {
  if (!volume.frozen.load(std::memory_order_relaxed)) return 0;
  auto lock = monitor_.Acquire();
  const auto it = frozen_.find(&volume);
  return it == frozen_.end() ? 0 : it->second.ends_unix_ms;
}

uint64_t Freezes::expired() {
  auto lock = monitor_.Acquire();
  return expired_;
}

bool Freezes::Await(VolumeState& volume, ThawWaiter* waiter) {
  auto lock = monitor_.Acquire();
  if (!volume.frozen.load()) return false;
  volume.thaw_waiters.push_back(waiter);
  return true;
}

void Freezes::Forget(VolumeState& volume, ThawWaiter* waiter) {
  auto lock = monitor_.Acquire();
  std::erase(volume.thaw_waiters, waiter);
}

void Freezes::TimerLoop() {
  auto lock = monitor_.Acquire();
  while (!stopping_) {
    const auto now = Clock::now();
    auto next = now + kMaxFreeze;
    for (auto it = frozen_.begin(); it != frozen_.end();) {
      if (it->second.ends > now) {
        next = std::min(next, it->second.ends);
        ++it;
        continue;
      }
      ++expired_;
      Open(it->second);
      it = frozen_.erase(it);
    }
    // Rounded up: a wait that ends before the limit would only look again.
    changed_.WaitFor(lock, std::chrono::ceil<std::chrono::milliseconds>(next - now));
  }
}

}  // namespace flashlun
