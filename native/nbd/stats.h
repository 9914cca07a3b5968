// ConnectionStats: what one connection has done. It outlives the Connection object, and goes from
// one process to the next (park.h).
//
// Thread safety: one writer each, any reader; the values of one moment need not fit together.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>

namespace flashlun::nbd {

// Kinds of requests that are counted, in the order of ConnectionStats::requests.
enum class Kind : uint8_t { kRead, kWrite, kFlush, kTrim, kWriteZeroes, kOther };
inline constexpr size_t kKinds = 6;

using Counter = std::atomic<uint64_t>;

// Without a locked instruction: only one thread adds.
inline void Add(Counter& counter, uint64_t count) {
  counter.store(counter.load(std::memory_order_relaxed) + count, std::memory_order_relaxed);
}

struct ConnectionStats {
  std::array<Counter, kKinds> requests{};
  Counter errors{0};  // replies with an error
  Counter bytes_in{0};
  Counter bytes_out{0};
  Counter in_flight{0};              // requests that wait for the disk, a flush or a thaw
  Counter held{0};                   // of those: for a thaw
  std::atomic<bool> serving{false};  // a request is being executed, or its payload received

  uint64_t all_requests() const {
    uint64_t sum = 0;
    for (const Counter& counter : requests) sum += counter.load(std::memory_order_relaxed);
    return sum;
  }
};

}  // namespace flashlun::nbd
