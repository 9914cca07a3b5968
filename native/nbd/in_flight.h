// InFlight: the requests of one connection that wait for a flush or for the disk, in a table of
// fixed size.
//
// A Pending is taken by the connection's thread, completed by another one (the store's commit
// thread, a thread of the slow pool), and answered and released by the connection's thread again.
// Completion only links it into a list and wakes the connection, so the completing thread never
// meets the client's socket.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <thread>

#include "core/store.h"
#include "nbd/channel.h"
#include "nbd/limits.h"
#include "nbd/request.h"
#include "nbd/slow_pool.h"

namespace flashlun::nbd {

class InFlight;

// One request in flight: as a FlushWaiter it waits for a FLUSH or FUA, as a SlowJob it reads.
class Pending final : public FlushWaiter, public SlowJob {
 public:
  void Done(const Status& flushed) override;
  void Run(OpSlot& slot) override;

  Request request;
  Status status;  // of the completion

  // READ only: the piece [position, position + piece_bytes) of the request is read to buffer +
  // header_bytes.
  uint32_t position = 0;
  uint32_t piece_bytes = 0;
  uint32_t header_bytes = 0;
  std::unique_ptr<uint8_t[]> buffer;
  size_t buffer_bytes = 0;

 private:
  friend class InFlight;
  InFlight* table_ = nullptr;
  Pending* next_ = nullptr;  // of the free list, then of the completed list
};

class InFlight {
 public:
  InFlight(Channel& channel, Volume& volume);

  // Connection's thread.
  void BindToThisThread() { owner_ = std::this_thread::get_id(); }
  size_t count() const { return count_; }
  bool full() const { return free_ == nullptr; }
  // Precondition: !full().
  Pending* Take(const Request& request);
  // Whether a read buffer of this size fits the connection's budget now.
  bool MayBuffer(size_t bytes) const;
  // False when the system has no memory.
  bool AllocateBuffer(Pending* pending, size_t bytes);
  void Release(Pending* pending);
  bool has_completed() const { return has_completed_.load(std::memory_order_acquire); }
  // The oldest completed request, or nullptr. It stays counted until released.
  Pending* TakeCompleted();

 private:
  friend class Pending;
  // Any thread. The connection may end, and this object with it, as soon as the lock is free.
  void Complete(Pending* pending, const Status& status);

  Channel& channel_;
  Volume& volume_;
  std::thread::id owner_;

  // Of the connection's thread.
  std::array<Pending, kMaxInFlight> table_;
  Pending* free_ = nullptr;
  size_t count_ = 0;
  size_t buffered_bytes_ = 0;

  std::atomic<bool> has_completed_{false};  // whether head_ is set, readable without the lock
  // State below is protected by mutex_.
  std::mutex mutex_;
  Pending* head_ = nullptr;
  Pending* tail_ = nullptr;
};

}  // namespace flashlun::nbd
