// Allocator: which physical tracks are free, and how many leaf entries and bases refer to each of
// the others.
//
// Both are derived: at open they are rebuilt by walking the leaves, never read from disk
// (track-store.md 0, point 4).
//
//   FREE -> Allocate -> RESERVED (count 1, no entry yet) -> published in an entry (the same count)
//   -> Unref to 0 -> FREE
//
// Thread safety: Count, Ref and Release from any thread; everything else needs the store's state
// lock.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "core/limits.h"

namespace flashlun {

class Allocator {
 public:
  explicit Allocator(uint64_t capacity_tracks);

  // A track with count 1, or kNoTrack when none is free. Next-fit: a sequential writer gets
  // consecutive tracks.
  uint64_t Allocate();
  // One reference more; the caller knows of another that stays meanwhile.
  void Ref(uint64_t track);
  // True when that was the last reference; the track is then free.
  bool Unref(uint64_t track);
  // The two halves of Unref. Between them the track is neither referenced nor handed out.
  bool Release(uint64_t track);
  void Free(uint64_t track);
  // Only for the early-exclusive mutation.
  void FreeIfUnreferenced(uint64_t track);

  uint16_t Count(uint64_t track) const {
    return ChunkOf(track)->refs[track % kChunkTracks].load(std::memory_order_acquire);
  }
  uint64_t used() const { return used_; }
  uint64_t capacity() const { return capacity_; }

  // Recovery: makes a track referenced that the map says is in use. False when it is out of range.
  bool Restore(uint64_t track);

 private:
  // 16,384 tracks: the pool grows by 1 GiB steps.
  static constexpr uint64_t kChunkTracks = 16384;
  struct Chunk {
    std::atomic<uint16_t> refs[kChunkTracks]{};
    uint64_t used_bits[kChunkTracks / 64]{};
    uint32_t used = 0;
  };

  Chunk* ChunkOf(uint64_t track) const {
    return chunks_[track / kChunkTracks].load(std::memory_order_acquire);
  }
  Chunk* EnsureChunk(uint64_t index);
  uint64_t AllocateIn(uint64_t chunk_index, uint64_t first_bit);
  void SetUsed(Chunk& chunk, uint64_t bit);

  const uint64_t capacity_;
  uint64_t used_ = 0;
  uint64_t cursor_ = 0;  // where the next search begins
  std::vector<std::atomic<Chunk*>> chunks_;
  std::vector<std::unique_ptr<Chunk>> owned_;
};

}  // namespace flashlun
