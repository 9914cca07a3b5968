// Block status, relationships and what they tell, runs of zeroes for READ, read-ahead, and early
// write-out: walks of the map in an epoch, without a lock (block_status.h).
#include <algorithm>

#include "core/check.h"
#include "core/store_impl.h"

namespace flashlun {
namespace {

const IndexNode* IndexAt(const VolumeState& volume, uint64_t index) {
  return index < volume.root.size() ? volume.root[index].load(std::memory_order_acquire) : nullptr;
}

const Leaf* LeafAt(const IndexNode* index, uint64_t leaf) {
  return index == nullptr ? nullptr
                          : index->leaves[leaf % kIndexLeaves].load(std::memory_order_acquire);
}

// The volume's offset where the index node, the leaf or the track of `track` ends.
template <uint64_t kTracks>
uint64_t EndOf(uint64_t track) {
  return (track / kTracks + 1) * kTracks * kTrackBytes;
}

// Adds the sub-blocks of a track from the list's position on, each with its flags.
template <typename FlagsOf>
void AddSubs(StatusExtents& list, uint64_t track, const FlagsOf& flags_of) {
  const uint64_t first = track * kTrackBytes;
  for (auto sub = static_cast<uint32_t>((list.at() - first) >> kSubShift); sub < kSubsPerTrack;
       ++sub)
    list.AddUntil(first + (uint64_t{sub} + 1) * kSubBytes, flags_of(sub));
}

// Allocation --------------------------------------------------------------------

// One step: a track, or all that has no leaf.
void AddAllocation(const Map& map, const VolumeState& volume, StatusExtents& list) {
  const uint64_t track = list.at() / kTrackBytes;
  const uint32_t nothing = kStatusZero | (volume.thick ? 0u : uint32_t{kStatusHole});
  const IndexNode* index = IndexAt(volume, track / kIndexTracks);
  if (index == nullptr) return list.AddUntil(EndOf<kIndexTracks>(track), nothing);
  const Leaf* leaf = LeafAt(index, track / kLeafTracks);
  if (leaf == nullptr) return list.AddUntil(EndOf<kLeafTracks>(track), nothing);
  if (leaf->raw(track % kLeafTracks) == 0) return list.AddUntil(EndOf<1>(track), nothing);
  const Map::Found found = map.Find(volume, track);
  if (found.entry.full()) return list.AddUntil(EndOf<1>(track), 0);
  // Zeroes of a track that may be written in place have their space already.
  const uint32_t zero = found.exclusive ? uint32_t{kStatusZero} : nothing;
  AddSubs(list, track, [&](uint32_t sub) {
    return !found.entry.mapped() || SourceOf(found.entry, sub) == SubSource::kZero ? zero : 0u;
  });
}

// Depth -------------------------------------------------------------------------

void AddDepth(const Map& map, const VolumeState& volume, bool target, StatusExtents& list) {
  const uint64_t track = list.at() / kTrackBytes;
  const IndexNode* index = IndexAt(volume, track / kIndexTracks);
  if (index == nullptr) return list.AddUntil(EndOf<kIndexTracks>(track), 0);
  const Leaf* leaf = LeafAt(index, track / kLeafTracks);
  if (leaf == nullptr) return list.AddUntil(EndOf<kLeafTracks>(track), 0);
  const Map::Found found = map.Find(volume, track);
  const Entry& entry = found.entry;
  if (!entry.mapped()) return list.AddUntil(EndOf<1>(track), 0);
  const bool inherited = target && track < volume.inherit_limit_tracks.load() &&
                         (entry.inherited || volume.LeafInherited(track / kLeafTracks));
  const uint32_t own = inherited && !found.sole ? 2 : 1;
  if (entry.full()) return list.AddUntil(EndOf<1>(track), own);
  AddSubs(list, track, [&](uint32_t sub) -> uint32_t {
    switch (SourceOf(entry, sub)) {
      case SubSource::kOwn:
        return own;
      case SubSource::kBase:
        return inherited ? 2 : 1;
      case SubSource::kZero:
        return entry.zmask >> sub & 1;  // zeroed here, or never written
    }
    return 0;
  });
}

// Changes -----------------------------------------------------------------------

// Where a sub-block's bytes are; kNoTrack: they are zero.
uint64_t PlaceOfSub(const Entry& entry, uint32_t sub) {
  if (!entry.mapped()) return kNoTrack;
  switch (SourceOf(entry, sub)) {
    case SubSource::kOwn:
      return entry.own;
    case SubSource::kBase:
      return entry.base;
    case SubSource::kZero:
      return kNoTrack;
  }
  return kNoTrack;
}

bool WholeIndexInherited(const VolumeState& target, uint64_t index) {
  for (uint64_t word = 0; word < kIndexLeaves / 64; ++word)
    if (target.inherited_leaf_bits[index * (kIndexLeaves / 64) + word].load(
            std::memory_order_acquire) != ~uint64_t{0})
      return false;
  return true;
}

// `then` is the target's entry; `whole`: nothing in its leaf was edited since T0, so it is that of
// T0. Otherwise only what it inherited is, and a zero may be its own.
//
// Why the same physical place means the same content: the target refers to it since T0, so while
// anybody else does too, nobody writes to it in place (Map::Find), and it cannot be given away.
// Once the target is alone with it, the other side has left it and cannot come back to it: new
// tracks of a volume are fresh ones, or its source's when it becomes a target itself
// (kRelSourceReplaced).
bool SubChanged(const Entry& now, const Entry& then, bool whole, uint32_t sub) {
  const uint64_t before = PlaceOfSub(then, sub);
  if (!whole && (!then.inherited || before == kNoTrack)) return true;
  return PlaceOfSub(now, sub) != before;
}

void AddTrackChanges(const Leaf* now_leaf, const Leaf* then_leaf, const VolumeState& target,
                     uint64_t track, StatusExtents& list) {
  const auto slot = static_cast<uint32_t>(track % kLeafTracks);
  const Entry now = now_leaf == nullptr ? Entry{} : now_leaf->Get(slot);
  const Entry then = then_leaf == nullptr ? Entry{} : then_leaf->Get(slot);
  // After the entry: an edit clears the bit first.
  const bool whole = target.LeafInherited(track / kLeafTracks);
  const bool plain = (now.full() || !now.mapped()) && (then.full() || !then.mapped());
  if (plain)
    return list.AddUntil(EndOf<1>(track), SubChanged(now, then, whole, 0) ? kStatusDirty : 0u);
  AddSubs(list, track, [&](uint32_t sub) -> uint32_t {
    return SubChanged(now, then, whole, sub) ? kStatusDirty : 0u;
  });
}

// `limit`: tracks of the source at T0.
void AddChanges(const VolumeState& now, const VolumeState& target, uint64_t limit,
                StatusExtents& list) {
  const uint64_t track = list.at() / kTrackBytes;
  if (track >= limit) return list.AddUntil(UINT64_MAX, kStatusDirty);
  const uint64_t end = limit * kTrackBytes;
  const uint64_t number = track / kIndexTracks;
  const IndexNode* now_index = IndexAt(now, number);
  const IndexNode* then_index = IndexAt(target, number);
  const bool same_index =
      now_index == then_index && (now_index != nullptr || WholeIndexInherited(target, number));
  if (same_index) return list.AddUntil(std::min(end, EndOf<kIndexTracks>(track)), 0);
  const uint64_t slot = track / kLeafTracks;
  const Leaf* now_leaf = LeafAt(now_index, slot);
  const Leaf* then_leaf = LeafAt(then_index, slot);
  if (now_leaf == then_leaf && (now_leaf != nullptr || target.LeafInherited(slot)))
    return list.AddUntil(std::min(end, EndOf<kLeafTracks>(track)), 0);
  AddTrackChanges(now_leaf, then_leaf, target, track, list);
}

// Runs --------------------------------------------------------------------------

// The first bytes from `offset` on, at most `len`, that are all known zeroes or all not.
DataRun NextRun(const Map& map, const VolumeState& volume, uint64_t offset, uint64_t len) {
  const uint64_t track = offset / kTrackBytes;
  const auto until = [&](uint64_t end) { return std::min(end - offset, len); };
  const IndexNode* index = IndexAt(volume, track / kIndexTracks);
  if (index == nullptr) return {until(EndOf<kIndexTracks>(track)), true};
  if (LeafAt(index, track / kLeafTracks) == nullptr)
    return {until(EndOf<kLeafTracks>(track)), true};
  const Entry entry = map.FindEntry(volume, track);
  const uint64_t in_track = until(EndOf<1>(track));
  if (!entry.mapped() || entry.full()) return {in_track, !entry.mapped()};
  const SubRun run = RunAt(entry, static_cast<uint32_t>(offset % kTrackBytes), in_track);
  return {run.bytes, run.source == SubSource::kZero};
}

}  // namespace

Status StoreImpl::BlockStatus(OpSlot& slot, VolumeState& volume, const StatusQuery& query,
                              std::vector<StatusExtent>* extents) {
  FL_CHECK(query.length != 0 && query.max_extents != 0 && query.offset < volume.size_bytes &&
           query.length <= volume.size_bytes - query.offset);
  if (query.context == StatusContext::kChanges) return Changes(slot, volume, query, extents);
  bool target = false;
  if (query.context == StatusContext::kDepth) {
    auto lock = state_.Acquire();
    target = volume.target_of != 0;
  }
  StatusExtents list(query, extents);
  Enter(slot, volume, false);
  for (uint32_t step = 0; step < kMaxStatusSteps && !list.done(); ++step) {
    if (query.context == StatusContext::kDepth)
      AddDepth(*map_, volume, target, list);
    else
      AddAllocation(*map_, volume, list);
  }
  Leave(slot);
  return Status::Ok();
}

// State lock held. Nothing when the relationship does not tell about the volume, or not any more.
StoreImpl::Recording StoreImpl::FindRecording(uint64_t relationship_id, const VolumeState& volume) {
  const auto it = relations_.find(relationship_id);
  if (it == relations_.end() || (it->second.flags & kRelSourceReplaced) != 0) return {};
  const RelationState& relation = it->second;
  uint16_t now = relation.source_id;
  if (volume.id != relation.source_id && volume.id != relation.target_id) {
    // A later copy of the same source.
    const auto own = relations_.find(volume.target_of);
    if (own == relations_.end() || own->second.source_id != relation.source_id) return {};
    now = volume.id;
  }
  return {volumes_.at(now), volumes_.at(relation.target_id)};
}

Status StoreImpl::Changes(OpSlot& slot, VolumeState& volume, const StatusQuery& query,
                          std::vector<StatusExtent>* extents) {
  Recording recording;
  {
    auto lock = state_.Acquire();
    recording = FindRecording(query.relationship, volume);
  }
  StatusExtents list(query, extents);
  if (recording.target != nullptr) {
    Enter(slot, volume, false);
    const uint64_t limit = recording.target->inherit_limit_tracks.load();
    for (uint32_t step = 0; step < kMaxStatusSteps && !list.done(); ++step)
      AddChanges(*recording.now, *recording.target, limit, list);
    Leave(slot);
    auto lock = state_.Acquire();
    const Recording still = FindRecording(query.relationship, volume);
    if (still.now == recording.now && still.target == recording.target) return Status::Ok();
  }
  // There is no T0 to compare with.
  StatusExtents all(query, extents);
  all.AddUntil(UINT64_MAX, kStatusDirty);
  return Status::Ok();
}

DataRun StoreImpl::FindRun(OpSlot& slot, VolumeState& volume, uint64_t offset, uint64_t len,
                           uint64_t data_limit, uint64_t min_zero) {
  FL_CHECK(len != 0 && len <= volume.size_bytes && offset <= volume.size_bytes - len);
  DataRun run;
  uint64_t zeroes = 0;  // at the end of what is looked at
  uint64_t seen = 0;
  Enter(slot, volume, false);
  while (seen < len && (zeroes == seen || seen < data_limit)) {
    const DataRun next = NextRun(*map_, volume, offset + seen, len - seen);
    if (!next.zero && (zeroes >= min_zero)) break;
    seen += next.bytes;
    zeroes = next.zero ? zeroes + next.bytes : 0;
  }
  Leave(slot);
  const bool ends_in_hole = zeroes >= min_zero || zeroes == len;
  run.zero = ends_in_hole && zeroes == seen;
  run.bytes = run.zero || !ends_in_hole ? seen : seen - zeroes;
  return run;
}

std::vector<RecordingInfo> StoreImpl::ListRecordings(uint16_t volume_id) {
  std::vector<RecordingInfo> list;
  auto lock = state_.Acquire();
  const auto it = volumes_.find(volume_id);
  if (it == volumes_.end()) return list;
  for (const auto& [id, relation] : relations_) {
    if (list.size() == kMaxRecordings) break;
    if (FindRecording(id, *it->second).target == nullptr) continue;
    list.push_back({id, relation.source_id, relation.target_id});
  }
  return list;
}

std::vector<RelationshipInfo> StoreImpl::ListRelationships() {
  std::vector<RelationshipInfo> list;
  std::vector<std::shared_ptr<VolumeState>> targets;
  {
    auto lock = state_.Acquire();
    for (const auto& [id, relation] : relations_) {
      const std::shared_ptr<VolumeState>& target = volumes_.at(relation.target_id);
      RelationshipInfo info;
      info.id = id;
      info.source_id = relation.source_id;
      info.target_id = relation.target_id;
      info.flags = relation.flags;
      info.t0_unix_ms = relation.t0_unix_ms;
      info.total_tracks = target->inherit_limit_tracks.load();
      info.copied_tracks = target->copied_tracks;
      info.pending_tracks = target->inherited_tracks;
      list.push_back(info);
      targets.push_back(target);
    }
  }
  // Counting walks the leaves: in an epoch, without the lock, so that writers go on.
  OpSlot* slot = epochs_.AcquireSlot();
  if (slot == nullptr) return list;
  for (size_t i = 0; i < list.size(); ++i) {
    epochs_.Enter(*slot, nullptr);
    list[i].out_of_sync_tracks = map_->CountOutOfSync(*targets[i]);
    epochs_.Leave(*slot);
  }
  epochs_.ReleaseSlot(slot);
  return list;
}

// visit(place, bytes) of each piece of the range that has one, its own or its base's.
template <typename Visit>
void StoreImpl::VisitPlaces(OpSlot& slot, VolumeState& volume, uint64_t offset, uint64_t len,
                            Visit visit) {
  FL_CHECK(len <= volume.size_bytes && offset <= volume.size_bytes - len);
  if (options_.direct) return;  // there is no cache
  const uint64_t end = offset + len;
  Enter(slot, volume, false);
  while (offset < end) {
    const auto within = static_cast<uint32_t>(offset % kTrackBytes);
    const uint64_t piece = std::min<uint64_t>(end - offset, kTrackBytes - within);
    const Entry entry = map_->FindEntry(volume, offset / kTrackBytes);
    for (const uint64_t track : {entry.own, entry.base})
      if (track != kNoTrack) visit(PlaceOf(track, within), piece);
    offset += piece;
  }
  Leave(slot);
}

void StoreImpl::Prefetch(OpSlot& slot, VolumeState& volume, uint64_t offset, uint64_t len) {
  VisitPlaces(
      slot, volume, offset, std::min<uint64_t>(len, kMaxPrefetchBytes),
      [](const Place& place, uint64_t bytes) { place.file->WillNeed(place.offset, bytes); });
}

void StoreImpl::StartWriteOut(OpSlot& slot, VolumeState& volume, uint64_t offset, uint64_t len) {
  VisitPlaces(slot, volume, offset, len, [](const Place& place, uint64_t bytes) {
    place.file->StartWriteOut(place.offset, bytes);
  });
}

}  // namespace flashlun
