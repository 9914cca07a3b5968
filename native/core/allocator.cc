#include "core/allocator.h"

#include <algorithm>
#include <bit>

#include "core/check.h"
#include "core/entry.h"

namespace flashlun {

Allocator::Allocator(uint64_t capacity_tracks)
    : capacity_(capacity_tracks), chunks_((capacity_tracks + kChunkTracks - 1) / kChunkTracks) {
  FL_CHECK(capacity_tracks > 0 && capacity_tracks <= kMaxPoolTracks);
}

uint64_t Allocator::Allocate() {
  if (used_ == capacity_) return kNoTrack;
  const uint64_t chunk_count = chunks_.size();
  const uint64_t start = cursor_ / kChunkTracks;
  // Existing space first: the file grows only when everything below is used. One step more than the
  // chunks there are, because the search begins in the middle of the first.
  for (int growing = 0; growing < 2; ++growing) {
    for (uint64_t step = 0; step <= chunk_count; ++step) {
      const uint64_t index = (start + step) % chunk_count;
      Chunk* chunk = chunks_[index].load(std::memory_order_relaxed);
      if (chunk == nullptr && growing == 0) continue;
      const uint64_t first = step == 0 ? cursor_ % kChunkTracks : 0;
      const uint64_t track = AllocateIn(index, first);
      if (track == kNoTrack) continue;
      cursor_ = (track + 1) % capacity_;
      return track;
    }
  }
  return kNoTrack;
}

uint64_t Allocator::AllocateIn(uint64_t chunk_index, uint64_t first_bit) {
  Chunk& chunk = *EnsureChunk(chunk_index);
  const uint64_t first_track = chunk_index * kChunkTracks;
  const uint64_t bits = std::min(kChunkTracks, capacity_ - first_track);
  if (chunk.used == bits) return kNoTrack;
  for (uint64_t word = first_bit / 64; word * 64 < bits; ++word) {
    uint64_t open = ~chunk.used_bits[word];
    if (word == first_bit / 64) open &= ~uint64_t{0} << (first_bit % 64);
    if (open == 0) continue;
    const uint64_t bit = word * 64 + static_cast<uint64_t>(std::countr_zero(open));
    if (bit >= bits) return kNoTrack;
    SetUsed(chunk, bit);
    chunk.refs[bit].store(1, std::memory_order_release);
    return first_track + bit;
  }
  return kNoTrack;
}

Allocator::Chunk* Allocator::EnsureChunk(uint64_t index) {
  Chunk* chunk = chunks_[index].load(std::memory_order_relaxed);
  if (chunk != nullptr) return chunk;
  owned_.push_back(std::make_unique<Chunk>());
  chunks_[index].store(owned_.back().get(), std::memory_order_release);
  return owned_.back().get();
}

void Allocator::SetUsed(Chunk& chunk, uint64_t bit) {
  chunk.used_bits[bit / 64] |= uint64_t{1} << (bit % 64);
  ++chunk.used;
  ++used_;
}

void Allocator::Free(uint64_t track) {
  Chunk& chunk = *ChunkOf(track);
  const uint64_t bit = track % kChunkTracks;
  FL_CHECK(chunk.used_bits[bit / 64] >> (bit % 64) & 1);
  chunk.used_bits[bit / 64] &= ~(uint64_t{1} << (bit % 64));
  --chunk.used;
  --used_;
}

void Allocator::Ref(uint64_t track) {
  const uint16_t before = ChunkOf(track)->refs[track % kChunkTracks].fetch_add(1);
  FL_CHECK(before != 0 && before != UINT16_MAX);
}

bool Allocator::Release(uint64_t track) {
  const uint16_t before = ChunkOf(track)->refs[track % kChunkTracks].fetch_sub(1);
  FL_CHECK(before != 0);
  return before == 1;
}

bool Allocator::Unref(uint64_t track) {
  if (!Release(track)) return false;
  Free(track);
  return true;
}

void Allocator::FreeIfUnreferenced(uint64_t track) {
  const Chunk& chunk = *ChunkOf(track);
  const uint64_t bit = track % kChunkTracks;
  if (Count(track) == 0 && (chunk.used_bits[bit / 64] >> (bit % 64) & 1) != 0) Free(track);
}

bool Allocator::Restore(uint64_t track) {
  if (track >= capacity_) return false;
  Chunk& chunk = *EnsureChunk(track / kChunkTracks);
  const uint64_t bit = track % kChunkTracks;
  if (chunk.refs[bit].fetch_add(1) == 0) SetUsed(chunk, bit);
  return true;
}

}  // namespace flashlun
