// Throttle: how much the hosts of one volume may do in a second, all of them together and each
// connection. Requests are delayed, never refused.
//
// A bucket is one number: the time at which everything taken so far is paid for at the rate (GCRA,
// the generic cell rate algorithm of ATM). A request may begin once that time has come, whatever
// its size, and moves it on by what it costs; time that was not used counts for at most the burst.
// So a request larger than the burst passes too, and those behind it wait until it is paid for.
//
// Fairness: connections wait in one queue, first come first served, one request each. Nothing is
// taken by a request that only waits, so a client that dies in the queue owes nothing. Only the
// head of the queue sleeps until its time; it wakes its successor. A connection leaves the queue
// before it does anything that may block.
//
// Thread safety: limited() and Set and Stats from any thread; a Turnstile belongs to its
// connection's thread.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

namespace flashlun::nbd {

class Channel;

// 0: no limit.
struct RateLimits {
  uint64_t iops = 0;
  uint64_t bytes_per_second = 0;
  // Of each connection by itself.
  uint64_t connection_iops = 0;
  uint64_t connection_bytes_per_second = 0;
  // Unused time that counts.
  std::chrono::nanoseconds burst{std::chrono::seconds(1)};

  bool any() const {
    return (iops | bytes_per_second | connection_iops | connection_bytes_per_second) != 0;
  }
};

struct ThrottleStats {
  uint64_t delayed_requests = 0;
  uint64_t delayed_ns = 0;  // sum over connections
};

// See the top of this file. Times are nanoseconds of the steady clock.
class Bucket {
 public:
  // How long until a request may begin; 0: now.
  int64_t Wait(int64_t now_ns) const { return paid_ns_ > now_ns ? paid_ns_ - now_ns : 0; }
  // rate 0: costs nothing.
  void Take(uint64_t units, uint64_t rate, int64_t burst_ns, int64_t now_ns);
  void Reset() { paid_ns_ = 0; }

 private:
  int64_t paid_ns_ = 0;
};

class Turnstile;

class Throttle {
 public:
  // The one look of the hot path.
  bool limited() const { return limited_.load(std::memory_order_relaxed); }
  // Holds for requests that wait already, too. What was taken before is forgiven.
  void Set(const RateLimits& limits);
  ThrottleStats Stats() const;

 private:
  friend class Turnstile;
  int64_t EnterLocked(Turnstile& turnstile, uint64_t bytes, int64_t now_ns);
  void LeaveLocked(Turnstile& turnstile);

  std::atomic<bool> limited_{false};
  std::atomic<uint64_t> delayed_requests_{0};
  std::atomic<uint64_t> delayed_ns_{0};

  // State below is protected by mutex_.
  std::mutex mutex_;
  RateLimits limits_;
  uint64_t generation_ = 0;  // of limits_
  Bucket requests_;
  Bucket bytes_;
  std::deque<Turnstile*> queue_;          // at most one of each connection
  std::vector<Turnstile*> on_their_own_;  // wait for their connection's own limit, not in queue_
};

// One connection before its volume's throttle.
class Turnstile {
 public:
  Turnstile(std::shared_ptr<Throttle> throttle, Channel& channel)
      : throttle_(std::move(throttle)), channel_(channel) {}
  ~Turnstile() { Leave(); }
  Turnstile(const Turnstile&) = delete;
  Turnstile& operator=(const Turnstile&) = delete;

  bool limited() const { return throttle_->limited(); }
  // 0: a request of so many payload bytes may begin, and has been taken. Else how long to wait
  // before asking again, or until Channel::Wake; meanwhile the place in the queue is kept.
  std::chrono::nanoseconds Enter(uint64_t bytes);
  // Gives up the place in the queue.
  void Leave();
  // A request has waited for so long.
  void CountDelay(std::chrono::nanoseconds delay);

 private:
  friend class Throttle;
  enum class Place : uint8_t { kNone, kQueue, kOnItsOwn };

  const std::shared_ptr<Throttle> throttle_;
  Channel& channel_;

  // Protected by the throttle's mutex.
  Place place_ = Place::kNone;
  uint64_t generation_ = 0;  // of the limits that the buckets were filled under
  Bucket requests_;
  Bucket bytes_;
};

// The throttles of a server's volumes; made when first asked for, and never taken away, so that all
// connections of a volume have the same one.
class Throttles {
 public:
  std::shared_ptr<Throttle> Of(uint16_t volume_id);
  // Of volumes that were ever asked for.
  std::map<uint16_t, ThrottleStats> Stats() const;

 private:
  mutable std::mutex mutex_;
  std::map<uint16_t, std::shared_ptr<Throttle>> throttles_;  // protected by mutex_
};

}  // namespace flashlun::nbd
