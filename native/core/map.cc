#include "core/map.h"

#include <algorithm>
#include <bit>
#include <unordered_set>

#include "core/check.h"
#include "core/mutation.h"

namespace flashlun {
namespace {

Drop MakeDrop(Drop::Kind kind, uint64_t lsn) {
  Drop drop;
  drop.kind = kind;
  drop.lsn = lsn;
  drop.track = 0;
  return drop;
}

Drop TrackDrop(uint64_t track, uint64_t lsn) {
  Drop drop = MakeDrop(Drop::Kind::kTrack, lsn);
  drop.track = track;
  return drop;
}

Drop PartialDrop(uint64_t raw, uint64_t lsn) {
  Drop drop = MakeDrop(Drop::Kind::kPartial, lsn);
  drop.partial = static_cast<uint32_t>(raw);
  return drop;
}

Drop LeafDrop(Leaf* leaf, uint64_t lsn) {
  Drop drop = MakeDrop(Drop::Kind::kLeaf, lsn);
  drop.leaf = leaf;
  return drop;
}

Drop IndexDrop(IndexNode* index, uint64_t lsn) {
  Drop drop = MakeDrop(Drop::Kind::kIndex, lsn);
  drop.index = index;
  return drop;
}

void Add(std::atomic<uint32_t>& counter, int delta) {
  counter.store(
      static_cast<uint32_t>(static_cast<int64_t>(counter.load(std::memory_order_relaxed)) + delta),
      std::memory_order_relaxed);
}

}  // namespace

VolumeState::VolumeState(uint16_t volume_id, uint64_t size)
    : id(volume_id),
      size_bytes(size),
      tracks((size + kTrackBytes - 1) / kTrackBytes),
      root(IndexNodesFor(size)),
      inherited_leaf_bits((root.size() * kIndexLeaves + 63) / 64) {}

uint64_t Map::Encode(const Entry& entry) {
  if (!entry.mapped()) return 0;
  const uint64_t flag = entry.inherited ? kInheritedBit : 0;
  if (entry.full()) return kMappedBit | flag | entry.own;
  return kMappedBit | kPartialBit | flag | partials_.Add(entry);
}

Entry Map::Decode(uint64_t raw) const {
  if (raw == 0) return Entry{};
  Entry entry =
      raw & kPartialBit ? partials_.Get(static_cast<uint32_t>(raw)) : Entry::Full(raw & kNoTrack);
  entry.inherited = (raw & kInheritedBit) != 0;
  return entry;
}

Entry Map::FindEntry(const VolumeState& volume, uint64_t track) const {
  const IndexNode* index = volume.root[track / kIndexTracks].load(std::memory_order_acquire);
  if (index == nullptr) return Entry{};
  const Leaf* leaf =
      index->leaves[track / kLeafTracks % kIndexLeaves].load(std::memory_order_acquire);
  if (leaf == nullptr) return Entry{};
  return Decode(leaf->entries[track % kLeafTracks].load(std::memory_order_acquire));
}

Map::Found Map::Find(const VolumeState& volume, uint64_t track) const {
  Found found;
  const IndexNode* index = volume.root[track / kIndexTracks].load(std::memory_order_acquire);
  if (index == nullptr) return found;
  const Leaf* leaf =
      index->leaves[track / kLeafTracks % kIndexLeaves].load(std::memory_order_acquire);
  if (leaf == nullptr) return found;
  found.entry = Decode(leaf->entries[track % kLeafTracks].load(std::memory_order_acquire));
  // An owner more between these loads is an establish, which waits for us before its target is
  // readable; an owner less needs a grace period, which waits for us too. So the three need not be
  // read at one instant.
  found.exclusive = found.entry.mapped() && index->owners.load(std::memory_order_acquire) == 1 &&
                    leaf->owners.load(std::memory_order_acquire) == 1 &&
                    allocator_.Count(found.entry.own) == 1;
  return found;
}

IndexNode* Map::IndexForEdit(VolumeState& volume, uint64_t index_slot, uint64_t lsn) {
  std::atomic<IndexNode*>& place = volume.root[index_slot];
  IndexNode* index = place.load(std::memory_order_relaxed);
  if (index != nullptr && index->owners.load(std::memory_order_relaxed) == 1) return index;
  auto* own = new IndexNode;
  if (index != nullptr) {
    for (uint32_t i = 0; i < kIndexLeaves; ++i) {
      Leaf* leaf = index->leaves[i].load(std::memory_order_relaxed);
      if (leaf != nullptr) leaf->owners.fetch_add(1);
      own->leaves[i].store(leaf, std::memory_order_relaxed);
    }
  }
  place.store(own, std::memory_order_release);
  if (index != nullptr) Emit(IndexDrop(index, lsn));
  return own;
}

Leaf* Map::LeafForEdit(VolumeState& volume, uint64_t track, uint64_t lsn) {
  IndexNode* index = IndexForEdit(volume, track / kIndexTracks, lsn);
  std::atomic<Leaf*>& place = index->leaves[track / kLeafTracks % kIndexLeaves];
  Leaf* leaf = place.load(std::memory_order_relaxed);
  const uint64_t leaf_slot = track / kLeafTracks;
  if (leaf == nullptr) {
    leaf = new Leaf;
    place.store(leaf, std::memory_order_release);
    volume.ClearLeafInherited(leaf_slot);
    return leaf;
  }
  if (leaf->owners.load(std::memory_order_relaxed) != 1) {
    Leaf* own = CopyLeaf(*leaf);
    MarkInherited(volume, leaf_slot, own);
    place.store(own, std::memory_order_release);
    Emit(LeafDrop(leaf, lsn));
    return own;
  }
  WillChange(leaf);
  MarkInherited(volume, leaf_slot, leaf);
  return leaf;
}

// A slot that is inherited as a whole is about to be edited: from here on the entries carry the
// flag.
void Map::MarkInherited(VolumeState& volume, uint64_t leaf_slot, Leaf* leaf) {
  if (!volume.LeafInherited(leaf_slot)) return;
  volume.ClearLeafInherited(leaf_slot);
  for (auto& entry : leaf->entries) {
    const uint64_t raw = entry.load(std::memory_order_relaxed);
    if (raw != 0) entry.store(raw | kInheritedBit, std::memory_order_release);
  }
  leaf->inherited.store(leaf->mapped.load(std::memory_order_relaxed), std::memory_order_relaxed);
}

Leaf* Map::CopyLeaf(const Leaf& leaf) {
  auto* copy = new Leaf;
  for (uint32_t i = 0; i < kLeafTracks; ++i) {
    const uint64_t raw = leaf.entries[i].load(std::memory_order_relaxed);
    AppendCopy(copy, i, raw, RawInherited(raw));
  }
  return copy;
}

// Every leaf owns its partial records, so that an entry's end is that of its record.
void Map::AppendCopy(Leaf* to, uint32_t slot, uint64_t raw, bool inherited) {
  if (raw == 0) return;
  Entry entry = Decode(raw);
  entry.inherited = inherited;
  RefEntry(entry);
  to->entries[slot].store(Encode(entry), std::memory_order_relaxed);
  Add(to->mapped, 1);
  if (inherited) Add(to->inherited, 1);
}

void Map::RefEntry(const Entry& entry) {
  if (replaying_) return;
  allocator_.Ref(entry.own);
  if (entry.base != kNoTrack && !Mutated(Mutation::kBaseNotCounted)) allocator_.Ref(entry.base);
}

void Map::SetEntry(VolumeState& volume, uint64_t track, const Entry& next, uint64_t lsn) {
  FL_CHECK(next == Normalized(next) && (next.base == kNoTrack || next.base != next.own));
  Leaf* leaf = LeafForEdit(volume, track, lsn);
  std::atomic<uint64_t>& place = leaf->entries[track % kLeafTracks];
  const uint64_t old_raw = place.load(std::memory_order_relaxed);
  const Entry old = Decode(old_raw);
  place.store(Encode(next), std::memory_order_release);

  const int mapped_delta = int{next.mapped()} - int{old.mapped()};
  Add(leaf->mapped, mapped_delta);
  volume.mapped_tracks += static_cast<uint64_t>(int64_t{mapped_delta});
  FL_CHECK(!next.inherited || old.inherited);
  if (old.inherited && !next.inherited) {
    Add(leaf->inherited, -1);
    if (volume.target_of != 0 && track < volume.inherit_limit_tracks) --volume.inherited_tracks;
  }

  const bool base_counts = !Mutated(Mutation::kBaseNotCounted);
  for (const uint64_t gone : {old.own, base_counts ? old.base : kNoTrack}) {
    if (gone == kNoTrack || gone == next.own || (base_counts && gone == next.base)) continue;
    Emit(TrackDrop(gone, lsn));
  }
  if (old_raw & kPartialBit) Emit(PartialDrop(old_raw, lsn));
}

void Map::Emit(Drop drop) {
  if (replaying_ || Mutated(Mutation::kEarlyReuse) || Mutated(Mutation::kEarlyExclusive)) {
    std::vector<Drop> work{drop};
    while (!work.empty()) {
      const Drop one = work.back();
      work.pop_back();
      Apply(one, &work);
    }
    return;
  }
  drops_.push_back(drop);
}

void Map::Apply(const Drop& drop, std::vector<Drop>* more) {
  switch (drop.kind) {
    case Drop::Kind::kTrack:
      if (replaying_) return;
      if (Mutated(Mutation::kEarlyExclusive)) {
        allocator_.UnrefKeepingReserved(drop.track);
        Drop later = drop;
        later.kind = Drop::Kind::kFreeTrack;
        drops_.push_back(later);
        return;
      }
      allocator_.Unref(drop.track);
      return;
    case Drop::Kind::kFreeTrack:
      allocator_.FreeIfUnreferenced(drop.track);
      return;
    case Drop::Kind::kPartial:
      partials_.Free(drop.partial);
      return;
    case Drop::Kind::kLeaf:
      ApplyLeaf(drop, more);
      return;
    case Drop::Kind::kIndex:
      if (drop.index->owners.fetch_sub(1) != 1) return;
      for (auto& place : drop.index->leaves)
        if (Leaf* leaf = place.load(std::memory_order_relaxed))
          more->push_back(LeafDrop(leaf, drop.lsn));
      delete drop.index;
      return;
  }
}

void Map::ApplyLeaf(const Drop& drop, std::vector<Drop>* more) {
  Leaf* leaf = drop.leaf;
  if (leaf->owners.fetch_sub(1) != 1) return;
  WillChange(leaf);
  for (auto& place : leaf->entries) {
    const uint64_t raw = place.load(std::memory_order_relaxed);
    if (raw == 0) continue;
    const Entry entry = Decode(raw);
    Apply(TrackDrop(entry.own, drop.lsn), more);
    if (entry.base != kNoTrack && !Mutated(Mutation::kBaseNotCounted))
      Apply(TrackDrop(entry.base, drop.lsn), more);
    if (raw & kPartialBit) partials_.Free(static_cast<uint32_t>(raw));
  }
  delete leaf;
}

void Map::Share(VolumeState& source, VolumeState& target, uint64_t lsn) {
  FL_CHECK(target.tracks >= source.tracks && &source != &target);
  for (uint64_t i = 0; i < target.root.size(); ++i) {
    const uint64_t first = i * kIndexTracks;
    if (first >= source.tracks) break;
    IndexNode* old = target.root[i].load(std::memory_order_relaxed);
    IndexNode* next;
    if (first + kIndexTracks <= source.tracks || source.tracks == target.tracks) {
      next = source.root[i].load(std::memory_order_relaxed);
      if (next != nullptr) next->owners.fetch_add(1);
      target.SetIndexInherited(i);
    } else {
      next = MergeBoundary(source, target, i);
    }
    target.root[i].store(next, std::memory_order_release);
    if (old != nullptr) Emit(IndexDrop(old, lsn));
  }
  target.inherit_limit_tracks = source.tracks;
  target.inherited_tracks = source.mapped_tracks;
  target.copied_tracks = 0;
  if (source.tracks == target.tracks)
    target.mapped_tracks = source.mapped_tracks;
  else
    RecountMapped(target);
}

// The index node in which a smaller source ends: its leaves up to the end, the target's own behind
// it.
IndexNode* Map::MergeBoundary(VolumeState& source, VolumeState& target, uint64_t index) {
  auto* merged = new IndexNode;
  const IndexNode* from = source.root[index].load(std::memory_order_relaxed);
  const IndexNode* own = target.root[index].load(std::memory_order_relaxed);
  for (uint32_t j = 0; j < kIndexLeaves; ++j) {
    Leaf* theirs = from ? from->leaves[j].load(std::memory_order_relaxed) : nullptr;
    Leaf* ours = own ? own->leaves[j].load(std::memory_order_relaxed) : nullptr;
    const uint64_t slot = index * kIndexLeaves + j;
    const uint64_t first = slot * kLeafTracks;
    target.ClearLeafInherited(slot);
    if (first < source.tracks && first + kLeafTracks > source.tracks) {
      merged->leaves[j].store(
          MergeLeaf(theirs, ours, static_cast<uint32_t>(source.tracks - first)));
      continue;
    }
    const bool inherited = first < source.tracks;
    Leaf* leaf = inherited ? theirs : ours;
    if (inherited) target.SetLeafInherited(slot);
    if (leaf != nullptr) leaf->owners.fetch_add(1);
    merged->leaves[j].store(leaf);
  }
  return merged;
}

Leaf* Map::MergeLeaf(const Leaf* source, const Leaf* target, uint32_t source_entries) {
  if (source == nullptr && target == nullptr) return nullptr;
  auto* merged = new Leaf;
  for (uint32_t i = 0; i < kLeafTracks; ++i) {
    const bool inherited = i < source_entries;
    const Leaf* from = inherited ? source : target;
    if (from == nullptr) continue;
    AppendCopy(merged, i, from->entries[i].load(std::memory_order_relaxed), inherited);
  }
  return merged;
}

void Map::RecountMapped(VolumeState& volume) {
  volume.mapped_tracks = 0;
  for (auto& place : volume.root) {
    const IndexNode* index = place.load(std::memory_order_relaxed);
    if (index == nullptr) continue;
    for (const auto& leaf_place : index->leaves)
      if (const Leaf* leaf = leaf_place.load(std::memory_order_relaxed))
        volume.mapped_tracks += leaf->mapped.load(std::memory_order_relaxed);
  }
}

void Map::DropTree(VolumeState& volume, uint64_t lsn) {
  for (auto& place : volume.root) {
    IndexNode* index = place.exchange(nullptr);
    if (index != nullptr) Emit(IndexDrop(index, lsn));
  }
  volume.mapped_tracks = 0;
}

void Map::Destroy(const std::vector<VolumeState*>& volumes) {
  replaying_ = true;  // counts no longer matter
  for (VolumeState* volume : volumes) DropTree(*volume, 0);
  std::vector<Drop> work;
  work.swap(drops_);
  while (!work.empty()) {
    const Drop drop = work.back();
    work.pop_back();
    Apply(drop, &work);
  }
}

uint64_t Map::NextInherited(const VolumeState& volume, uint64_t track) const {
  const uint64_t limit = volume.inherit_limit_tracks.load();
  while (track < limit) {
    const IndexNode* index = volume.root[track / kIndexTracks].load(std::memory_order_acquire);
    if (index == nullptr) {
      track = (track / kIndexTracks + 1) * kIndexTracks;
      continue;
    }
    const Leaf* leaf =
        index->leaves[track / kLeafTracks % kIndexLeaves].load(std::memory_order_acquire);
    const bool whole = volume.LeafInherited(track / kLeafTracks);
    if (leaf == nullptr || (!whole && leaf->inherited.load(std::memory_order_relaxed) == 0)) {
      track = (track / kLeafTracks + 1) * kLeafTracks;
      continue;
    }
    const uint64_t raw = leaf->entries[track % kLeafTracks].load(std::memory_order_acquire);
    if (raw != 0 && (whole || RawInherited(raw))) return track;
    ++track;
  }
  return limit;
}

uint64_t Map::SkipUnmapped(const VolumeState& volume, uint64_t track) const {
  while (track < volume.tracks) {
    const IndexNode* index = volume.root[track / kIndexTracks].load(std::memory_order_acquire);
    if (index == nullptr) {
      track = (track / kIndexTracks + 1) * kIndexTracks;
      continue;
    }
    if (index->leaves[track / kLeafTracks % kIndexLeaves].load(std::memory_order_acquire))
      return track;
    track = (track / kLeafTracks + 1) * kLeafTracks;
  }
  return volume.tracks;
}

uint64_t Map::CountOutOfSync(const VolumeState& volume) const {
  uint64_t count = 0;
  const uint64_t limit = volume.inherit_limit_tracks.load();
  for (uint64_t track = 0; track < limit; track += kLeafTracks) {
    const IndexNode* index = volume.root[track / kIndexTracks].load(std::memory_order_acquire);
    if (index == nullptr) continue;
    const Leaf* leaf =
        index->leaves[track / kLeafTracks % kIndexLeaves].load(std::memory_order_acquire);
    if (leaf == nullptr) continue;
    const bool whole = volume.LeafInherited(track / kLeafTracks);
    const bool shared_node = index->owners.load() != 1 || leaf->owners.load() != 1;
    if (whole && shared_node) {
      count += leaf->mapped.load(std::memory_order_relaxed);
      continue;
    }
    if (!whole && leaf->inherited.load(std::memory_order_relaxed) == 0) continue;
    const uint64_t end = std::min<uint64_t>(kLeafTracks, limit - track);
    for (uint64_t i = 0; i < end; ++i) {
      const uint64_t raw = leaf->entries[i].load(std::memory_order_acquire);
      if (raw == 0 || !(whole || RawInherited(raw))) continue;
      const Entry entry = Decode(raw);
      // A track in another pool is the source's, even when the source has left it since.
      const bool shared = shared_node || entry.base != kNoTrack ||
                          allocator_.Count(entry.own) > 1 || AreaOf(entry.own) != volume.pool;
      count += shared ? 1 : 0;
    }
  }
  return count;
}

std::string Map::RestoreLeaf(const Leaf& leaf, bool thick) {
  for (const auto& place : leaf.entries) {
    const Entry entry = Decode(place.load(std::memory_order_relaxed));
    if (!entry.mapped()) continue;
    Entry plain = entry;
    plain.inherited = false;
    if (plain != Normalized(plain)) return "an entry whose masks contradict each other";
    if (entry.base == entry.own) return "an entry that is its own base";
    if (!allocator_.Restore(entry.own, thick)) return "a track beyond the pool's capacity";
    const uint64_t own_end =
        TrackInArea(entry.own) * kTrackBytes + std::bit_width(entry.mask) * uint64_t{kSubBytes};
    uint64_t& own_needed = needed_bytes_[AreaOf(entry.own)];
    own_needed = std::max(own_needed, own_end);
    if (entry.base == kNoTrack || Mutated(Mutation::kBaseNotCounted)) continue;
    if (!allocator_.Restore(entry.base, thick)) return "a base beyond the pool's capacity";
    // A base was a full track when it became one.
    uint64_t& base_needed = needed_bytes_[AreaOf(entry.base)];
    base_needed = std::max(base_needed, (TrackInArea(entry.base) + 1) * kTrackBytes);
  }
  return {};
}

std::string Map::RebuildCounts(const std::vector<VolumeState*>& volumes) {
  std::unordered_set<const void*> seen;
  for (VolumeState* volume : volumes) {
    RecountMapped(*volume);
    for (auto& place : volume->root) {
      const IndexNode* index = place.load(std::memory_order_relaxed);
      if (index == nullptr || !seen.insert(index).second) continue;
      for (const auto& leaf_place : index->leaves) {
        const Leaf* leaf = leaf_place.load(std::memory_order_relaxed);
        if (leaf == nullptr || !seen.insert(leaf).second) continue;
        if (std::string problem = RestoreLeaf(*leaf, volume->thick); !problem.empty())
          return problem;
      }
    }
  }
  return {};
}

}  // namespace flashlun
