// Walks over the trees: lock-free ones of running operations, and the one of a recovery.
#include <algorithm>
#include <bit>
#include <unordered_set>

#include "core/map.h"
#include "core/mutation.h"

namespace flashlun {

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
    if (leaf == nullptr || (!whole && leaf->inherited() == 0)) {
      track = (track / kLeafTracks + 1) * kLeafTracks;
      continue;
    }
    const uint64_t raw = leaf->raw(track % kLeafTracks);
    if (raw != 0 && (whole || Leaf::RawInherited(raw))) return track;
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
      count += leaf->mapped();
      continue;
    }
    if (!whole && leaf->inherited() == 0) continue;
    const uint64_t end = std::min<uint64_t>(kLeafTracks, limit - track);
    for (uint64_t i = 0; i < end; ++i) {
      const uint64_t raw = leaf->raw(static_cast<uint32_t>(i));
      if (raw == 0 || !(whole || Leaf::RawInherited(raw))) continue;
      const Entry entry = leaf->Get(static_cast<uint32_t>(i));
      // A track in another pool is the source's, even when the source has left it since.
      const bool shared = shared_node || entry.base != kNoTrack ||
                          allocator_.Count(entry.own) > 1 || AreaOf(entry.own) != volume.pool;
      count += shared ? 1 : 0;
    }
  }
  return count;
}

void Map::CountOwners(const std::vector<VolumeState*>& volumes) {
  for (size_t id = 0; id < nodes_.size(); ++id)
    if (Node* node = nodes_.Find(static_cast<uint32_t>(id))) node->owners.store(0);
  for (const VolumeState* volume : volumes)
    for (const auto& place : volume->root)
      if (IndexNode* index = place.load(std::memory_order_relaxed)) index->owners.fetch_add(1);
  const auto each = [this](NodeKind kind, auto visit) {
    for (size_t id = 0; id < nodes_.size(); ++id)
      if (Node* node = nodes_.Find(static_cast<uint32_t>(id)); node && node->kind == kind)
        visit(node);
  };
  each(NodeKind::kIndex, [this](Node* node) {
    auto* index = static_cast<IndexNode*>(node);
    if (index->owners.load() == 0) {
      nodes_.Remove(index);
      delete index;
      return;
    }
    for (const auto& place : index->leaves)
      if (Leaf* leaf = place.load(std::memory_order_relaxed)) leaf->owners.fetch_add(1);
  });
  each(NodeKind::kLeaf, [this](Node* node) {
    if (node->owners.load() != 0) return;
    nodes_.Remove(node);
    delete static_cast<Leaf*>(node);
  });
}

std::string Map::RestoreLeaf(const Leaf& leaf, bool thick) {
  for (uint32_t i = 0; i < kLeafTracks; ++i) {
    const Entry entry = leaf.Get(i);
    if (!entry.mapped()) continue;
    Entry plain = entry;
    plain.inherited = false;
    if (plain != Normalized(plain)) return "an entry whose masks contradict each other";
    if (entry.base == entry.own) return "an entry that is its own base";
    if (!allocator_.Restore(entry.own, thick)) return "a track beyond the pool's capacity";
    for (const uint64_t track : {entry.own, entry.base})
      if (SealNode* node = SealOf(track) == 0 ? nullptr : seals_.Find(track))
        node->live.set(track % kSealTracks);
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

// Seals of tracks that nobody refers to: they were freed after the checkpoint.
void Map::DropDeadSeals() {
  const std::vector<SealNode*> nodes = seals_.nodes();
  for (SealNode* node : nodes) {
    for (uint64_t i = 0; i < kSealTracks; ++i)
      if (!node->live[i]) Unseal(node->first + i);
    node->live.reset();
    if (node->sealed != 0) continue;
    seals_.Remove(*node);
    nodes_.Remove(node);
    delete node;
  }
}

// Of a target: entries that carry the flag, or whose whole leaf does.
uint64_t Map::CountInherited(const VolumeState& volume) const {
  uint64_t count = 0;
  const uint64_t limit = volume.inherit_limit_tracks.load();
  for (uint64_t track = NextInherited(volume, 0); track < limit;) {
    const Leaf* leaf =
        volume.root[track / kIndexTracks].load()->leaves[track / kLeafTracks % kIndexLeaves];
    const bool all = track % kLeafTracks == 0 && limit - track >= kLeafTracks;
    if (all && volume.LeafInherited(track / kLeafTracks)) {
      count += leaf->mapped();
      track += kLeafTracks;
    } else {
      ++count;
      ++track;
    }
    track = NextInherited(volume, track);
  }
  return count;
}

std::string Map::RebuildCounts(const std::vector<VolumeState*>& volumes, const Told* told) {
  std::unordered_set<const void*> seen;
  for (VolumeState* volume : volumes) {
    volume->mapped_tracks = 0;
    for (size_t at = 0; at < volume->root.size(); ++at) {
      IndexNode* index = volume->root[at].load(std::memory_order_relaxed);
      if (index == nullptr) continue;
      if (seen.insert(index).second) {
        uint32_t mapped = 0;
        for (uint32_t slot = 0; slot < kIndexLeaves; ++slot) {
          const Leaf* leaf = index->leaves[slot].load(std::memory_order_relaxed);
          if (leaf == nullptr) continue;
          mapped += leaf->mapped();
          if (!seen.insert(leaf).second) continue;
          const std::string problem = RestoreLeaf(*leaf, volume->thick);
          if (problem.empty()) continue;
          if (told == nullptr) return problem;
          (*told)(*volume, at * kIndexTracks + uint64_t{slot} * kLeafTracks, problem);
        }
        index->mapped.store(mapped, std::memory_order_relaxed);
      }
      volume->mapped_tracks += index->mapped.load(std::memory_order_relaxed);
    }
    // Derived, as the counts above are: a replayed establish does not know how much of its source
    // is mapped.
    volume->inherited_tracks = volume->target_of == 0 ? 0 : CountInherited(*volume);
    volume->stale_inherited =
        InheritedFrom(*volume, volume->target_of == 0 ? 0 : volume->inherit_limit_tracks.load());
  }
  DropDeadSeals();
  return {};
}

}  // namespace flashlun
