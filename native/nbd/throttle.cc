#include "nbd/throttle.h"

#include <algorithm>

#include "nbd/channel.h"

namespace flashlun::nbd {
namespace {

constexpr double kNsPerSecond = 1e9;
// Who is not the first in the queue is woken by the one before it. This bounds the wait for that,
// so that a lost wake-up would cost a second and not a hang.
constexpr int64_t kLookAgainNs = 1'000'000'000;

int64_t Now() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

template <typename Container>
void Erase(Container& from, Turnstile* turnstile) {
  from.erase(std::remove(from.begin(), from.end(), turnstile), from.end());
}

}  // namespace

void Bucket::Take(uint64_t units, uint64_t rate, int64_t burst_ns, int64_t now_ns) {
  if (rate == 0) return;
  const double cost_ns = static_cast<double>(units) / static_cast<double>(rate) * kNsPerSecond;
  paid_ns_ = std::max(paid_ns_, now_ns - burst_ns) + static_cast<int64_t>(cost_ns);
}

void Throttle::Set(const RateLimits& limits) {
  std::lock_guard<std::mutex> lock(mutex_);
  limits_ = limits;
  limited_.store(limits.any(), std::memory_order_relaxed);
  generation_++;
  requests_.Reset();
  bytes_.Reset();
  // Everybody asks again, under the new limits.
  for (Turnstile* turnstile : queue_) turnstile->channel_.Wake();
  for (Turnstile* turnstile : on_their_own_) turnstile->channel_.Wake();
}

ThrottleStats Throttle::Stats() const {
  return {delayed_requests_.load(std::memory_order_relaxed),
          delayed_ns_.load(std::memory_order_relaxed)};
}

int64_t Throttle::EnterLocked(Turnstile& turnstile, uint64_t bytes, int64_t now_ns) {
  if (turnstile.generation_ != generation_) {
    turnstile.generation_ = generation_;
    turnstile.requests_.Reset();
    turnstile.bytes_.Reset();
  }
  // Its own limit first: who waits for that must not hold up the queue.
  const int64_t own_wait =
      std::max(turnstile.requests_.Wait(now_ns), turnstile.bytes_.Wait(now_ns));
  if (own_wait > 0) {
    if (turnstile.place_ == Turnstile::Place::kQueue) LeaveLocked(turnstile);
    if (turnstile.place_ == Turnstile::Place::kNone) {
      on_their_own_.push_back(&turnstile);
      turnstile.place_ = Turnstile::Place::kOnItsOwn;
    }
    return own_wait;
  }
  if (turnstile.place_ == Turnstile::Place::kOnItsOwn) LeaveLocked(turnstile);
  if (turnstile.place_ == Turnstile::Place::kNone) {
    queue_.push_back(&turnstile);
    turnstile.place_ = Turnstile::Place::kQueue;
  }
  if (queue_.front() != &turnstile) return kLookAgainNs;
  const int64_t wait = std::max(requests_.Wait(now_ns), bytes_.Wait(now_ns));
  if (wait > 0) return wait;
  const int64_t burst_ns = limits_.burst.count();
  requests_.Take(1, limits_.iops, burst_ns, now_ns);
  bytes_.Take(bytes, limits_.bytes_per_second, burst_ns, now_ns);
  turnstile.requests_.Take(1, limits_.connection_iops, burst_ns, now_ns);
  turnstile.bytes_.Take(bytes, limits_.connection_bytes_per_second, burst_ns, now_ns);
  LeaveLocked(turnstile);
  return 0;
}

void Throttle::LeaveLocked(Turnstile& turnstile) {
  if (turnstile.place_ == Turnstile::Place::kOnItsOwn) Erase(on_their_own_, &turnstile);
  if (turnstile.place_ == Turnstile::Place::kQueue) {
    const bool was_first = queue_.front() == &turnstile;
    Erase(queue_, &turnstile);
    if (was_first && !queue_.empty()) queue_.front()->channel_.Wake();
  }
  turnstile.place_ = Turnstile::Place::kNone;
}

std::chrono::nanoseconds Turnstile::Enter(uint64_t bytes) {
  std::lock_guard<std::mutex> lock(throttle_->mutex_);
  return std::chrono::nanoseconds(throttle_->EnterLocked(*this, bytes, Now()));
}

void Turnstile::Leave() {
  std::lock_guard<std::mutex> lock(throttle_->mutex_);
  throttle_->LeaveLocked(*this);
}

void Turnstile::CountDelay(std::chrono::nanoseconds delay) {
  throttle_->delayed_requests_.fetch_add(1, std::memory_order_relaxed);
  throttle_->delayed_ns_.fetch_add(static_cast<uint64_t>(delay.count()), std::memory_order_relaxed);
}

std::shared_ptr<Throttle> Throttles::Of(uint16_t volume_id) {
  std::lock_guard<std::mutex> lock(mutex_);
  std::shared_ptr<Throttle>& throttle = throttles_[volume_id];
  if (!throttle) throttle = std::make_shared<Throttle>();
  return throttle;
}

std::map<uint16_t, ThrottleStats> Throttles::Stats() const {
  std::lock_guard<std::mutex> lock(mutex_);
  std::map<uint16_t, ThrottleStats> stats;
  for (const auto& [id, throttle] : throttles_) stats.emplace(id, throttle->Stats());
  return stats;
}

}  // namespace flashlun::nbd
