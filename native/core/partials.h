// PartialTable: the second word of partial entries. A leaf stays 8 bytes an entry (one atomic load
// reads a full track); an entry that needs masks and a base points to an immutable record here.
//
// Thread safety: Get is lock-free for any index obtained from a live entry inside an epoch; Add and
// Free need the store's state lock. A record is freed only after a grace period (epoch.h), so Get
// never sees it change.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "core/check.h"
#include "core/entry.h"

namespace flashlun {

class PartialTable {
 public:
  PartialTable() : chunks_(kMaxChunks) {}
  ~PartialTable() {
    for (auto& chunk : chunks_) delete chunk.load();
  }
  PartialTable(const PartialTable&) = delete;
  PartialTable& operator=(const PartialTable&) = delete;

  uint32_t Add(const Entry& entry) {
    const uint32_t index = Take();
    Record& record = At(index);
    record.own_and_mask = entry.own | (uint64_t{entry.mask} << 48);
    record.base_and_zmask = entry.base | (uint64_t{entry.zmask} << 48);
    return index;
  }

  void Free(uint32_t index) { free_.push_back(index); }

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
  // 2^26 partial tracks: 4 TiB of tracks that are all partial, 1 GiB of records.
  static constexpr uint32_t kMaxChunks = 1u << 14;
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
    return next_++;
  }

  std::vector<std::atomic<Chunk*>> chunks_;
  uint32_t next_ = 0;  // records below were handed out at some time
  std::vector<uint32_t> free_;
};

}  // namespace flashlun
