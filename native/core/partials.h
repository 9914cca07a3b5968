// PartialTable: the second word of partial entries. A leaf stays 8 bytes an entry (one atomic load
// reads a full track); an entry that needs masks and a base points to an immutable record here.
//
// Thread safety: all methods, from any thread. Get is lock-free, for an index obtained from a live
// entry inside an epoch: a record is freed only after a grace period (epoch.h), so Get never sees
// it change. The free list has a lock of its own, the innermost of all, so that a leaf can be
// copied without the store's state lock.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <vector>

#include "core/check.h"
#include "core/entry.h"
#include "core/sync.h"

namespace flashlun {

class PartialTable {
 public:
  // calloc, not a vector: the pages of the pointer array that are never used cost nothing.
  PartialTable()
      : chunks_(static_cast<std::atomic<Chunk*>*>(std::calloc(kMaxChunks, sizeof(Chunk*)))) {
    FL_CHECK(chunks_ != nullptr);
  }
  ~PartialTable() {
    for (uint64_t chunk = 0; chunk * kChunkRecords < next_; ++chunk) delete chunks_[chunk].load();
    std::free(chunks_);
  }
  PartialTable(const PartialTable&) = delete;
  PartialTable& operator=(const PartialTable&) = delete;

  uint32_t Add(const Entry& entry) {
    uint32_t index;
    {
      auto lock = monitor_.Acquire();
      index = Take();
    }
    Record& record = At(index);
    record.own_and_mask = entry.own | (uint64_t{entry.mask} << 48);
    record.base_and_zmask = entry.base | (uint64_t{entry.zmask} << 48);
    return index;
  }

  void Free(uint32_t index) {
    auto lock = monitor_.Acquire();
    free_.push_back(index);
  }

  Entry Get(uint32_t index) const {
    const Record& record = At(index);
    Entry entry;
    entry.own = record.own_and_mask & kNoTrack;
    entry.mask = static_cast<uint16_t>(record.own_and_mask >> 48);
    entry.base = record.base_and_zmask & kNoTrack;
    entry.zmask = static_cast<uint16_t>(record.base_and_zmask >> 48);
    return entry;
  }

 private:
  struct Record {
    uint64_t own_and_mask;
    uint64_t base_and_zmask;
  };
  static constexpr uint32_t kChunkShift = 12;
  static constexpr uint32_t kChunkRecords = 1u << kChunkShift;
  // Every record that a 32-bit index can name: leaf copies have records of their own, so there can
  // be more of them than partial tracks.
  static constexpr uint32_t kMaxChunks = 1u << 20;
  using Chunk = std::array<Record, kChunkRecords>;

  Record& At(uint32_t index) const {
    return (*chunks_[index >> kChunkShift].load(
        std::memory_order_acquire))[index & (kChunkRecords - 1)];
  }

  uint32_t Take() {
    if (!free_.empty()) {
      const uint32_t index = free_.back();
      free_.pop_back();
      return index;
    }
    if (next_ % kChunkRecords == 0) {
      FL_CHECK(next_ / kChunkRecords < kMaxChunks);
      chunks_[next_ / kChunkRecords].store(new Chunk, std::memory_order_release);
    }
    return static_cast<uint32_t>(next_++);
  }

  std::atomic<Chunk*>* const chunks_;
  Monitor monitor_;    // of the two below
  uint64_t next_ = 0;  // records below were handed out at some time
  std::vector<uint32_t> free_;
};

}  // namespace flashlun
