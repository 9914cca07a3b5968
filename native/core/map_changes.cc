// Incremental resync and reverse: sharing only what changed (changes.h).
#include <bit>

#include "core/check.h"
#include "core/map.h"
#include "core/mutation.h"

namespace flashlun {
namespace {

constexpr size_t kLeafWords = kLeafTracks / 64;
static_assert(kChangeBlockWords % kLeafWords == 0);

}  // namespace

void Map::CountMissing(const Entry& next, const Entry& old) {
  Entry missing = next;
  const auto had = [&old](uint64_t track) { return track == old.own || track == old.base; };
  if (had(missing.own)) missing.own = kNoTrack;
  if (had(missing.base)) missing.base = kNoTrack;
  if (replaying_) return;
  if (missing.own != kNoTrack) allocator_.Ref(missing.own);
  if (missing.base != kNoTrack && !Mutated(Mutation::kBaseNotCounted)) allocator_.Ref(missing.base);
}

void Map::ShareTrack(VolumeState& source, VolumeState& target, uint64_t track, uint64_t lsn) {
  Entry next = FindEntry(source, track);
  Entry old = FindEntry(target, track);
  next.inherited = old.inherited = false;
  if (next == old && (!next.mapped() || Inherited(target, track))) return;
  CountMissing(next, old);
  next.inherited = next.mapped();
  SetEntry(target, track, next, lsn);
}

// Tracks of both sides' bits, in order. A block that neither has costs nothing, and a leaf of which
// every track has changed one pointer, so the time is that of the changes here and there: about a
// microsecond a track.
void Map::ShareChanged(VolumeState& source, VolumeState& target, uint64_t lsn) {
  FL_CHECK(target.tracks >= source.tracks && &source != &target && target.target_of != 0 &&
           target.inherit_limit_tracks == source.tracks);
  const uint64_t limit = source.tracks;
  for (size_t block = 0; block < ChangedTracks::BlocksFor(limit); ++block) {
    if (!source.changed.AnyIn(block) && !target.changed.AnyIn(block)) continue;
    const auto changed = [&](size_t word) {
      const uint64_t bits = source.changed.Word(block, word);
      return Mutated(Mutation::kTargetChangeIgnored) ? bits
                                                     : bits | target.changed.Word(block, word);
    };
    for (size_t word = 0; word < kChangeBlockWords; ++word) {
      uint64_t bits = changed(word);
      const uint64_t first = block * kChangeBlockTracks + word * 64;
      if (word % kLeafWords == 0 && first + kLeafTracks <= limit && bits == ~uint64_t{0}) {
        size_t full = 1;
        while (full < kLeafWords && changed(word + full) == ~uint64_t{0}) ++full;
        if (full == kLeafWords) {
          ShareLeaf(source, target, first, lsn);
          word += kLeafWords - 1;
          continue;
        }
      }
      for (; bits != 0; bits &= bits - 1) {
        const uint64_t track = first + static_cast<uint64_t>(std::countr_zero(bits));
        if (track < limit) ShareTrack(source, target, track, lsn);
      }
    }
  }
  target.copied_tracks = 0;
}

void Map::Restore(const VolumeState& image, VolumeState& target, uint64_t lsn) {
  FL_CHECK(image.tracks == target.tracks && &image != &target);
  for (uint64_t first = 0; first < target.tracks; first += kLeafTracks) {
    const IndexNode* from = image.root[first / kIndexTracks].load(std::memory_order_relaxed);
    const IndexNode* to = target.root[first / kIndexTracks].load(std::memory_order_relaxed);
    if (from == to) {
      first += kIndexTracks - kLeafTracks;
      continue;
    }
    const auto leaf = [first](const IndexNode* index) -> const Leaf* {
      return index == nullptr ? nullptr
                              : index->leaves[first / kLeafTracks % kIndexLeaves].load(
                                    std::memory_order_relaxed);
    };
    if (leaf(from) != leaf(to)) RestoreLeafOf(leaf(from), target, first, lsn);
  }
}

void Map::RestoreLeafOf(const Leaf* image, VolumeState& target, uint64_t first_track,
                        uint64_t lsn) {
  for (uint32_t slot = 0; slot < kLeafTracks; ++slot) {
    const uint64_t track = first_track + slot;
    Entry next = image == nullptr ? Entry{} : image->Get(slot);
    Entry old = FindEntry(target, track);
    next.inherited = old.inherited = false;
    if (next == old) continue;
    CountMissing(next, old);
    SetEntry(target, track, next, lsn);
    target.changed.Set(track);
  }
}

bool Map::InheritedFrom(const VolumeState& volume, uint64_t track) const {
  for (; track < volume.tracks; track = (track / kLeafTracks + 1) * kLeafTracks) {
    const IndexNode* index = volume.root[track / kIndexTracks].load(std::memory_order_acquire);
    const Leaf* leaf =
        index == nullptr
            ? nullptr
            : index->leaves[track / kLeafTracks % kIndexLeaves].load(std::memory_order_acquire);
    if (leaf == nullptr) continue;
    if (volume.LeafInherited(track / kLeafTracks)) return true;
    for (uint64_t slot = track % kLeafTracks; leaf->inherited() != 0 && slot < kLeafTracks; ++slot)
      if (Leaf::RawInherited(leaf->raw(static_cast<uint32_t>(slot)))) return true;
  }
  return false;
}

}  // namespace flashlun
