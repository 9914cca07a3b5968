// ByteBudget: memory that all connections of a server share for payloads larger than what each of
// them has for itself (kOwnBufferedBytes).
//
// Nobody waits for it: a connection that gets nothing goes on in pieces, with memory of its own, so
// nothing can deadlock. A client that does not read what lies in it loses it when it is short
// (Connection::ShedMemory).
//
// Thread safety: any thread.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

namespace flashlun::nbd {

class ByteBudget {
 public:
  explicit ByteBudget(size_t most) : most_(most) {}

  bool TryTake(size_t bytes) {
    size_t used = used_.load(std::memory_order_relaxed);
    do {
      const size_t most = most_.load(std::memory_order_relaxed);
      if (bytes > most || used > most - bytes) {
        refused_.fetch_add(1, std::memory_order_relaxed);
        return false;
      }
    } while (!used_.compare_exchange_weak(used, used + bytes, std::memory_order_relaxed));
    return true;
  }
  void Give(size_t bytes) { used_.fetch_sub(bytes, std::memory_order_relaxed); }

  // What is taken already stays taken.
  void SetMost(size_t most) { most_.store(most, std::memory_order_relaxed); }
  size_t most() const { return most_.load(std::memory_order_relaxed); }
  size_t used() const { return used_.load(std::memory_order_relaxed); }
  // How often nothing was had.
  uint64_t refused() const { return refused_.load(std::memory_order_relaxed); }

 private:
  std::atomic<size_t> most_;
  std::atomic<size_t> used_{0};
  std::atomic<uint64_t> refused_{0};
};

}  // namespace flashlun::nbd
