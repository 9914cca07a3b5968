// ChangedTracks: which tracks of a volume changed since the T0 of the relationship that records
// its changes (store.h, kRelRecord). One bit a track, in blocks of 2 GiB that exist once something
// in them has changed.
//
// Nothing is written for a bit: a volume that records takes the first write of an unchanged track
// to a fresh place (Map::Find says it is not exclusive), and the MAP record of that publication
// sets the bit, live and in replay alike. So the bits are exact after a kill and after a power
// loss, and a write in place needs no record.
//
// Thread safety: Has is lock-free from any thread; everything else needs the store's state lock.
// A block stays where it is until the volume ends.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "core/growing.h"
#include "core/limits.h"

namespace flashlun {

inline constexpr uint64_t kChangeBlockTracks = 32768;
inline constexpr size_t kChangeBlockWords = kChangeBlockTracks / 64;

class ChangedTracks {
 public:
  explicit ChangedTracks(uint64_t tracks) : blocks_(BlocksFor(tracks)) {}
  ~ChangedTracks() {
    for (auto& block : blocks_) delete block.load(std::memory_order_relaxed);
  }
  ChangedTracks(const ChangedTracks&) = delete;
  ChangedTracks& operator=(const ChangedTracks&) = delete;

  static size_t BlocksFor(uint64_t tracks) {
    return (tracks + kChangeBlockTracks - 1) / kChangeBlockTracks;
  }
  void GrowTo(uint64_t tracks) { blocks_.GrowTo(BlocksFor(tracks)); }
  size_t block_count() const { return blocks_.size(); }

  bool Has(uint64_t track) const {
    const Block* block = blocks_[track / kChangeBlockTracks].load(std::memory_order_acquire);
    if (block == nullptr) return false;
    const uint64_t bit = track % kChangeBlockTracks;
    return block->words[bit / 64].load(std::memory_order_acquire) >> (bit % 64) & 1;
  }

  void Set(uint64_t track) {
    Block& block = Make(track / kChangeBlockTracks);
    const uint64_t bit = track % kChangeBlockTracks;
    block.words[bit / 64].fetch_or(uint64_t{1} << (bit % 64));
    block.any = true;
  }

  void Clear() {
    for (auto& place : blocks_) {
      Block* block = place.load(std::memory_order_relaxed);
      if (block == nullptr || !block->any) continue;
      for (auto& word : block->words) word.store(0);
      block->any = false;
    }
  }

  // 64 bits from track `word` * 64 on of a block; 0 where nothing changed.
  uint64_t Word(size_t block_number, size_t word) const {
    const Block* block = Changed(block_number);
    return block == nullptr ? 0 : block->words[word].load(std::memory_order_relaxed);
  }
  bool AnyIn(size_t block_number) const { return Changed(block_number) != nullptr; }

  // One block's words, as they go to a checkpoint and come from it.
  std::vector<uint64_t> Words(size_t block_number) const {
    std::vector<uint64_t> words;
    for (size_t i = 0; i < kChangeBlockWords; ++i) words.push_back(Word(block_number, i));
    return words;
  }
  void Restore(size_t block_number, const std::vector<uint64_t>& words) {
    Block& block = Make(block_number);
    for (size_t i = 0; i < kChangeBlockWords; ++i) block.words[i].store(words[i]);
    block.any = true;
  }

 private:
  struct Block {
    std::array<std::atomic<uint64_t>, kChangeBlockWords> words{};
    bool any = false;
  };

  const Block* Changed(size_t number) const {
    if (number >= blocks_.size()) return nullptr;
    const Block* block = blocks_[number].load(std::memory_order_relaxed);
    return block != nullptr && block->any ? block : nullptr;
  }
  Block& Make(size_t number) {
    std::atomic<Block*>& place = blocks_[number];
    if (place.load(std::memory_order_relaxed) == nullptr)
      place.store(new Block, std::memory_order_release);
    return *place.load(std::memory_order_relaxed);
  }

  // 64 TiB are 2^15 blocks, within what Growing holds.
  Growing<std::atomic<Block*>> blocks_;
};

}  // namespace flashlun
