// HeldRequests: the write-class requests of one connection that a freeze holds, in the order in
// which they came. They stay in the in-flight table, so that they count against its limit; their
// payloads have a budget of their own, so that reads go on.
//
// Thread safety: of the connection's thread, but for Thawed and what it sets.
#pragma once

#include <atomic>
#include <cstddef>
#include <deque>

#include "core/store.h"
#include "nbd/channel.h"
#include "nbd/in_flight.h"

namespace flashlun::nbd {

class HeldRequests final : public ThawWaiter {
 public:
  HeldRequests(Channel& channel, ConnectionStats& stats) : channel_(channel), stats_(stats) {}

  size_t count() const { return queue_.size(); }
  // Whether a payload of so many bytes fits the budgets now; one of any legal length fits when the
  // connection holds nothing.
  bool MayHold(size_t bytes) const;
  // Takes the request, whose payload, if any, is pending's buffer of held_bytes.
  void Push(Pending* pending);
  Pending* Front() const { return queue_.empty() ? nullptr : queue_.front(); }
  // Lets the first one go, before it is released.
  void Pop();

  // True: a thaw will be told. False: the volume is not frozen.
  bool Watch(Volume& volume);
  void Unwatch(Volume& volume);
  // A thaw was told since Watch; Watch again before the next.
  bool thawed() const { return state_.load(std::memory_order_acquire) == State::kThawed; }
  void Thawed() override;
  // What is held is looked at again soon, as after a thaw.
  void SetThawed() { state_.store(State::kThawed); }

  const std::deque<Pending*>& queue() const { return queue_; }

 private:
  enum class State : uint8_t { kIdle, kWatching, kThawed };

  Channel& channel_;
  ConnectionStats& stats_;
  std::deque<Pending*> queue_;
  size_t bytes_ = 0;
  std::atomic<State> state_{State::kIdle};
};

}  // namespace flashlun::nbd
