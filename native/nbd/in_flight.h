// InFlight: the requests of one connection that wait for a flush or for the disk, in a table of
// fixed size.
//
// A Pending is taken by the connection's thread, completed by another one (the store's commit
// thread, a thread of its I/O queue), and answered and released by the connection's thread again.
// Completion only links it into a list and wakes the connection, so the completing thread never
// meets the client's socket.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <new>
#include <thread>

#include "core/io.h"
#include "core/store.h"
#include "nbd/budget.h"
#include "nbd/channel.h"
#include "nbd/limits.h"
#include "nbd/request.h"
#include "nbd/stats.h"

namespace flashlun::nbd {

class InFlight;

// One request in flight: it waits for its read or its write, then, if FUA, for a flush; or only for
// a flush.
class Pending final : public FlushWaiter {
 public:
  void Done(const Status& status_of_step) override;

  Request request;
  Status status;  // of the completion

  // READ only: the piece [position, position + piece_bytes) of the request is read to data().
  uint32_t position = 0;
  uint32_t piece_bytes = 0;
  // The payload, in memory that suits direct I/O. The bytes before it are room for a reply's
  // header, so that both leave in one send.
  uint8_t* data() { return buffer.get() + kDirectAlign; }
  struct FreeAligned {
    void operator()(uint8_t* memory) const {
      ::operator delete[](memory, std::align_val_t{kDirectAlign});
    }
  };
  std::unique_ptr<uint8_t[], FreeAligned> buffer;
  size_t buffer_bytes = 0;
  bool buffer_is_shared = false;  // from the server's budget
  size_t held_bytes = 0;          // of a buffer outside the connection's budget (hold.h)
  bool flushing = false;          // the write has ended well; this is its FUA
  // A WRITE under way asynchronously: its end is told to the volume.
  Volume* writing = nullptr;
  const OpSlot* slot = nullptr;

 private:
  friend class InFlight;
  InFlight* table_ = nullptr;
  Pending* next_ = nullptr;  // of the free list, then of the completed list
};

class InFlight {
 public:
  InFlight(Channel& channel, ByteBudget& shared, ConnectionStats& stats);

  // Connection's thread.
  void BindToThisThread() { owner_ = std::this_thread::get_id(); }
  size_t count() const { return count_; }
  bool full() const { return free_ == nullptr; }
  // Precondition: !full().
  Pending* Take(const Request& request);
  // Whether a buffer of this size fits the connection's budget now.
  bool MayBuffer(size_t bytes) const;
  // False: neither the connection's own quota nor what all share has room now, or the system has
  // no memory.
  bool AllocateBuffer(Pending* pending, size_t bytes);
  void FreeBuffer(Pending* pending);  // ahead of its Release
  // Whether more than half of what all connections share is in use.
  bool memory_is_short() const { return shared_.used() > shared_.most() / 2; }
  // Takes the shared memory of requests that have completed and wait to be answered: what was read
  // is to be read again.
  void ShedCompleted();
  // A buffer outside of both, for a request that is held (hold.h has a budget of its own). False:
  // the system has no memory.
  bool AllocateHeld(Pending* pending, size_t bytes);
  // Takes a buffer out of both.
  void MakeHeld(Pending* pending);
  void Release(Pending* pending);
  bool has_completed() const { return has_completed_.load(std::memory_order_acquire); }
  size_t buffered_bytes() const { return buffered_bytes_; }
  // The oldest completed request, or nullptr. It stays counted until released.
  Pending* TakeCompleted();

 private:
  friend class Pending;
  bool NewBuffer(Pending* pending, size_t bytes);
  size_t LeaveBudgets(Pending* pending);
  // Any thread. The connection may end, and this object with it, as soon as the lock is free.
  void Complete(Pending* pending, const Status& status);

  Channel& channel_;
  ByteBudget& shared_;
  ConnectionStats& stats_;
  std::thread::id owner_;

  // Of the connection's thread.
  std::array<Pending, kMaxInFlight> table_;
  Pending* free_ = nullptr;
  size_t count_ = 0;
  size_t buffered_bytes_ = 0;
  size_t own_bytes_ = 0;  // of those: not from shared_

  std::atomic<bool> has_completed_{false};  // whether head_ is set, readable without the lock
  // State below is protected by mutex_.
  std::mutex mutex_;
  Pending* head_ = nullptr;
  Pending* tail_ = nullptr;
};

}  // namespace flashlun::nbd
