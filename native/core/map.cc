#include "core/map.h"

#include <utility>

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

Drop SecondWordsDrop(SecondWords* words, uint64_t lsn) {
  Drop drop = MakeDrop(Drop::Kind::kSecondWords, lsn);
  drop.second_words = words;
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

// After an edit in place, so that a copy begun before its end does not match.
void Edited(std::atomic<uint32_t>& version) {
  version.store(version.load(std::memory_order_relaxed) + 1, std::memory_order_release);
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
      inherited_leaf_bits(root.size() * kIndexLeaves / 64),
      changed(tracks.load()) {}

void VolumeState::Grow(uint64_t size) {
  FL_CHECK(size >= size_bytes && size % kTrackBytes == 0);
  root.GrowTo(IndexNodesFor(size));
  inherited_leaf_bits.GrowTo(root.size() * kIndexLeaves / 64);
  changed.GrowTo(size / kTrackBytes);
  tracks.store(size / kTrackBytes, std::memory_order_release);
  size_bytes.store(size, std::memory_order_release);
}

Entry Map::FindEntry(const VolumeState& volume, uint64_t track) const {
  const IndexNode* index = volume.root[track / kIndexTracks].load(std::memory_order_acquire);
  if (index == nullptr) return Entry{};
  const Leaf* leaf =
      index->leaves[track / kLeafTracks % kIndexLeaves].load(std::memory_order_acquire);
  if (leaf == nullptr) return Entry{};
  return leaf->Get(track % kLeafTracks);
}

Map::Found Map::Find(const VolumeState& volume, uint64_t track) const {
  Found found;
  const IndexNode* index = volume.root[track / kIndexTracks].load(std::memory_order_acquire);
  if (index == nullptr) return found;
  const Leaf* leaf =
      index->leaves[track / kLeafTracks % kIndexLeaves].load(std::memory_order_acquire);
  if (leaf == nullptr) return found;
  found.entry = leaf->Get(track % kLeafTracks);
  // An owner more between these loads is an establish, which waits for us before its target is
  // readable; an owner less needs a grace period, which waits for us too. So the three need not be
  // read at one instant.
  found.sole = found.entry.mapped() &&
               (index->owners.load(std::memory_order_acquire) == 1 ||
                Mutated(Mutation::kIndexSharedIgnored)) &&
               (leaf->owners.load(std::memory_order_acquire) == 1 ||
                Mutated(Mutation::kLeafSharedIgnored)) &&
               allocator_.Count(found.entry.own) == 1;
  // Last: the seal was made before another owner of the track could give it up.
  found.exclusive = found.sole &&
                    (SealOf(found.entry.own) == 0 || Mutated(Mutation::kSealIgnored)) &&
                    (!volume.MustRecord(track) || Mutated(Mutation::kChangeNotRecorded));
  return found;
}

IndexNode* Map::CopyIndex(const IndexNode& index) {
  auto* copy = new IndexNode;
  copy->mapped.store(index.mapped.load(std::memory_order_relaxed), std::memory_order_relaxed);
  for (uint32_t i = 0; i < kIndexLeaves; ++i) {
    Leaf* leaf = index.leaves[i].load(std::memory_order_acquire);
    if (leaf != nullptr && !Mutated(Mutation::kLeafOwnersLost)) leaf->owners.fetch_add(1);
    copy->leaves[i].store(leaf, std::memory_order_relaxed);
  }
  return copy;
}

void Map::CopyAhead(const VolumeState& volume, uint64_t track, NodeCopies* copies) {
  // What these switch off is the grace period that keeps the node and its tracks alive meanwhile.
  if (Mutated(Mutation::kEarlyReuse) || Mutated(Mutation::kEarlyExclusive) ||
      Mutated(Mutation::kNoGrace))
    return;
  const IndexNode* index = volume.root[track / kIndexTracks].load(std::memory_order_acquire);
  if (index == nullptr) return;
  const bool index_shared = index->owners.load(std::memory_order_acquire) != 1;
  if (index_shared) {
    copies->index_from = index;
    copies->index_version = index->version.load(std::memory_order_acquire);
    copies->index = CopyIndex(*index);
  }
  const Leaf* leaf =
      index->leaves[track / kLeafTracks % kIndexLeaves].load(std::memory_order_acquire);
  if (leaf == nullptr || leaf->owners.load(std::memory_order_acquire) == 1) return;
  copies->leaf_from = leaf;
  copies->leaf_version = leaf->version();
  copies->leaf = CopyLeaf(*leaf);
}

// Never the last reference: the nodes that were copied are still counted, because our epoch began
// before anybody could give them up.
void Map::GiveBack(NodeCopies* copies) {
  if (copies->leaf != nullptr) {
    std::vector<uint64_t> unreferenced;
    for (uint32_t i = 0; i < kLeafTracks; ++i) ReleaseEntry(copies->leaf->Get(i), &unreferenced);
    FL_CHECK(unreferenced.empty());
    delete copies->leaf;
  }
  if (copies->index != nullptr) {
    for (auto& place : copies->index->leaves)
      if (Leaf* leaf = place.load(std::memory_order_relaxed))
        FL_CHECK(leaf->owners.fetch_sub(1) > 1 || Mutated(Mutation::kLeafOwnersLost));
    delete copies->index;
  }
  *copies = NodeCopies();
}

IndexNode* Map::IndexForEdit(VolumeState& volume, uint64_t index_slot, uint64_t lsn,
                             NodeCopies* ahead) {
  std::atomic<IndexNode*>& place = volume.root[index_slot];
  IndexNode* index = place.load(std::memory_order_relaxed);
  if (index != nullptr && index->owners.load(std::memory_order_relaxed) == 1) return index;
  IndexNode* own;
  if (index == nullptr)
    own = new IndexNode;
  else if (ahead != nullptr && ahead->index_from == index &&
           ahead->index_version == index->version.load(std::memory_order_relaxed))
    own = std::exchange(ahead->index, nullptr);
  else
    own = CopyIndex(*index);
  nodes_.Add(own);
  place.store(own, std::memory_order_release);
  if (index != nullptr) Emit(IndexDrop(index, lsn));
  return own;
}

Leaf* Map::LeafForEdit(VolumeState& volume, IndexNode* index, uint64_t track, uint64_t lsn,
                       NodeCopies* ahead) {
  std::atomic<Leaf*>& place = index->leaves[track / kLeafTracks % kIndexLeaves];
  Leaf* leaf = place.load(std::memory_order_relaxed);
  const uint64_t leaf_slot = track / kLeafTracks;
  if (leaf != nullptr && leaf->owners.load(std::memory_order_relaxed) == 1) {
    WillChange(leaf);
    MarkInherited(volume, leaf_slot, leaf);
    return leaf;
  }
  Leaf* own;
  if (leaf == nullptr) {
    own = new Leaf;
    volume.ClearLeafInherited(leaf_slot);
  } else {
    if (ahead != nullptr && ahead->leaf_from == leaf && ahead->leaf_version == leaf->version())
      own = std::exchange(ahead->leaf, nullptr);
    else
      own = CopyLeaf(*leaf);
    MarkInherited(volume, leaf_slot, own);
  }
  nodes_.Add(own);
  WillChange(index);
  place.store(own, std::memory_order_release);
  Edited(index->version);
  if (leaf != nullptr) Emit(LeafDrop(leaf, lsn));
  return own;
}

// A leaf without entries, an index node without leaves: memory and metadata for nothing.
void Map::RemoveIfEmpty(VolumeState& volume, IndexNode* index, uint64_t track, uint64_t lsn) {
  std::atomic<Leaf*>& place = index->leaves[track / kLeafTracks % kIndexLeaves];
  Leaf* leaf = place.load(std::memory_order_relaxed);
  if (leaf->mapped() != 0) return;
  WillChange(index);
  place.store(nullptr, std::memory_order_release);
  Edited(index->version);
  Emit(LeafDrop(leaf, lsn));
  for (auto& other : index->leaves)
    if (other.load(std::memory_order_relaxed) != nullptr) return;
  volume.root[track / kIndexTracks].store(nullptr, std::memory_order_release);
  Emit(IndexDrop(index, lsn));
}

// A slot that is inherited as a whole is about to be edited: from here on the entries carry the
// flag.
void Map::MarkInherited(VolumeState& volume, uint64_t leaf_slot, Leaf* leaf) {
  if (!volume.LeafInherited(leaf_slot)) return;
  volume.ClearLeafInherited(leaf_slot);
  leaf->MarkAllInherited();
}

Leaf* Map::CopyLeaf(const Leaf& leaf) {
  auto* copy = new Leaf;
  for (uint32_t i = 0; i < kLeafTracks; ++i) {
    const Entry entry = leaf.Get(i);
    AppendCopy(copy, i, entry, entry.inherited);
  }
  return copy;
}

void Map::AppendCopy(Leaf* to, uint32_t slot, Entry entry, bool inherited) {
  if (!entry.mapped()) return;
  entry.inherited = inherited;
  RefEntry(entry);
  FL_CHECK(to->Set(slot, entry) == nullptr);
}

void Map::RefEntry(const Entry& entry) {
  if (replaying_) return;
  allocator_.Ref(entry.own);
  if (entry.base != kNoTrack && !Mutated(Mutation::kBaseNotCounted)) allocator_.Ref(entry.base);
}

void Map::SetEntry(VolumeState& volume, uint64_t track, const Entry& next, uint64_t lsn,
                   NodeCopies* ahead) {
  FL_CHECK(next == Normalized(next) && (next.base == kNoTrack || next.base != next.own));
  IndexNode* index = IndexForEdit(volume, track / kIndexTracks, lsn, ahead);
  Leaf* leaf = LeafForEdit(volume, index, track, lsn, ahead);
  const Entry old = leaf->Get(track % kLeafTracks);
  if (SecondWords* words = leaf->Set(track % kLeafTracks, next)) Emit(SecondWordsDrop(words, lsn));

  const int mapped_delta = int{next.mapped()} - int{old.mapped()};
  Add(index->mapped, mapped_delta);
  volume.mapped_tracks += static_cast<uint64_t>(int64_t{mapped_delta});
  if (volume.target_of != 0 && track < volume.inherit_limit_tracks)
    volume.inherited_tracks +=
        static_cast<uint64_t>(int64_t{int{next.inherited} - int{old.inherited}});

  const bool base_counts = !Mutated(Mutation::kBaseNotCounted);
  for (const uint64_t gone : {old.own, base_counts ? old.base : kNoTrack}) {
    if (gone == kNoTrack || gone == next.own || (base_counts && gone == next.base)) continue;
    Emit(TrackDrop(gone, lsn));
  }
  RemoveIfEmpty(volume, index, track, lsn);
}

void Map::Emit(Drop drop) {
  if (replaying_ || Mutated(Mutation::kEarlyReuse) || Mutated(Mutation::kEarlyExclusive))
    ApplyNow(drop);
  else
    drops_.push_back(drop);
}

void Map::ApplyNow(const Drop& drop) {
  std::vector<Drop> work{drop};
  std::vector<uint64_t> unreferenced;
  while (!work.empty()) {
    const Drop one = work.back();
    work.pop_back();
    Dismantle(Apply(one), &work, &unreferenced);
  }
  for (const uint64_t track : unreferenced) {
    if (!Mutated(Mutation::kEarlyExclusive)) {
      FreeTrack(track);
      continue;
    }
    Drop later = TrackDrop(track, drop.lsn);
    later.kind = Drop::Kind::kFreeTrack;
    drops_.push_back(later);
  }
}

void Map::FreeTrack(uint64_t track) {
  Unseal(track);
  allocator_.Free(track);
}

void Map::Seal(uint64_t track, uint32_t crc) {
  SealNode* node = seals_.Find(track);
  if (node == nullptr) {
    node = new SealNode(track / kSealTracks * kSealTracks);
    nodes_.Add(node);
    FL_CHECK(seals_.Install(node));
  }
  WillChange(node);
  seals_.Set(*node, track, Seals::Stored(crc));
}

void Map::Unseal(uint64_t track) {
  if (SealOf(track) == 0) return;
  SealNode* node = seals_.Find(track);
  WillChange(node);
  seals_.Set(*node, track, 0);
}

DeadNode Map::Apply(const Drop& drop) {
  DeadNode dead;
  dead.lsn = drop.lsn;
  switch (drop.kind) {
    case Drop::Kind::kTrack:
      if (replaying_) break;
      if (Mutated(Mutation::kEarlyExclusive)) {
        allocator_.Release(drop.track);
        Drop later = drop;
        later.kind = Drop::Kind::kFreeTrack;
        drops_.push_back(later);
        break;
      }
      if (allocator_.Unref(drop.track)) Unseal(drop.track);
      break;
    case Drop::Kind::kFreeTrack:
      allocator_.FreeIfUnreferenced(drop.track);
      break;
    case Drop::Kind::kSecondWords:
      delete drop.second_words;
      break;
    case Drop::Kind::kLeaf:
      if (drop.leaf->owners.fetch_sub(1) != 1) break;
      WillDie(drop.leaf);
      nodes_.Remove(drop.leaf);
      dead.leaf = drop.leaf;
      break;
    case Drop::Kind::kIndex:
      if (drop.index->owners.fetch_sub(1) != 1) break;
      WillDie(drop.index);
      nodes_.Remove(drop.index);
      dead.index = drop.index;
      break;
  }
  return dead;
}

void Map::ReleaseEntry(const Entry& entry, std::vector<uint64_t>* unreferenced) {
  if (!entry.mapped() || replaying_) return;
  if (allocator_.Release(entry.own)) unreferenced->push_back(entry.own);
  if (entry.base != kNoTrack && !Mutated(Mutation::kBaseNotCounted) &&
      allocator_.Release(entry.base))
    unreferenced->push_back(entry.base);
}

void Map::Dismantle(const DeadNode& node, std::vector<Drop>* more,
                    std::vector<uint64_t>* unreferenced) {
  if (node.leaf != nullptr)
    for (uint32_t i = 0; i < kLeafTracks; ++i) ReleaseEntry(node.leaf->Get(i), unreferenced);
  if (node.index != nullptr)
    for (auto& place : node.index->leaves)
      if (Leaf* leaf = place.load(std::memory_order_relaxed))
        more->push_back(LeafDrop(leaf, node.lsn));
  delete node.leaf;
  delete node.index;
}

void Map::Share(VolumeState& source, VolumeState& target, uint64_t lsn) {
  FL_CHECK(target.tracks >= source.tracks && &source != &target);
  const auto mapped = [](const IndexNode* index) {
    return index == nullptr ? 0 : index->mapped.load(std::memory_order_relaxed);
  };
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
    // By index node, not by leaf: a target of terabytes has tens of thousands of those.
    target.mapped_tracks += mapped(next);
    target.mapped_tracks -= mapped(old);
    if (old != nullptr) Emit(IndexDrop(old, lsn));
  }
  target.inherit_limit_tracks = source.tracks.load();
  target.inherited_tracks = source.mapped_tracks;
  target.copied_tracks = 0;
}

// A whole leaf of which every track has changed: one pointer.
void Map::ShareLeaf(VolumeState& source, VolumeState& target, uint64_t first_track, uint64_t lsn) {
  const uint64_t slot = first_track / kLeafTracks;
  const IndexNode* from = source.root[first_track / kIndexTracks].load(std::memory_order_relaxed);
  Leaf* theirs =
      from == nullptr ? nullptr : from->leaves[slot % kIndexLeaves].load(std::memory_order_relaxed);
  IndexNode* index = IndexForEdit(target, first_track / kIndexTracks, lsn, nullptr);
  std::atomic<Leaf*>& place = index->leaves[slot % kIndexLeaves];
  Leaf* ours = place.load(std::memory_order_relaxed);
  const uint64_t mapped = theirs == nullptr ? 0 : theirs->mapped();
  const uint64_t mapped_before = ours == nullptr ? 0 : ours->mapped();
  const uint64_t inherited_before =
      ours == nullptr ? 0 : (target.LeafInherited(slot) ? ours->mapped() : ours->inherited());
  WillChange(index);
  if (theirs != nullptr) theirs->owners.fetch_add(1);
  place.store(theirs, std::memory_order_release);
  Edited(index->version);
  target.SetLeafInherited(slot);
  Add(index->mapped, static_cast<int>(mapped) - static_cast<int>(mapped_before));
  target.mapped_tracks += mapped - mapped_before;
  target.inherited_tracks += mapped - inherited_before;
  if (ours != nullptr) Emit(LeafDrop(ours, lsn));
}

// The index node in which a smaller source ends: its leaves up to the end, the target's own behind
// it.
IndexNode* Map::MergeBoundary(VolumeState& source, VolumeState& target, uint64_t index) {
  auto* merged = NewNode<IndexNode>();
  const IndexNode* from = source.root[index].load(std::memory_order_relaxed);
  const IndexNode* own = target.root[index].load(std::memory_order_relaxed);
  for (uint32_t j = 0; j < kIndexLeaves; ++j) {
    Leaf* theirs = from ? from->leaves[j].load(std::memory_order_relaxed) : nullptr;
    Leaf* ours = own ? own->leaves[j].load(std::memory_order_relaxed) : nullptr;
    const uint64_t slot = index * kIndexLeaves + j;
    const uint64_t first = slot * kLeafTracks;
    target.ClearLeafInherited(slot);
    Leaf* leaf;
    if (first < source.tracks && first + kLeafTracks > source.tracks) {
      leaf = MergeLeaf(theirs, ours, static_cast<uint32_t>(source.tracks - first));
    } else {
      const bool inherited = first < source.tracks;
      leaf = inherited ? theirs : ours;
      if (inherited) target.SetLeafInherited(slot);
      if (leaf != nullptr) leaf->owners.fetch_add(1);
    }
    merged->leaves[j].store(leaf);
    if (leaf != nullptr) Add(merged->mapped, static_cast<int>(leaf->mapped()));
  }
  return merged;
}

Leaf* Map::MergeLeaf(const Leaf* source, const Leaf* target, uint32_t source_entries) {
  if (source == nullptr && target == nullptr) return nullptr;
  auto* merged = NewNode<Leaf>();
  for (uint32_t i = 0; i < kLeafTracks; ++i) {
    const bool inherited = i < source_entries;
    const Leaf* from = inherited ? source : target;
    if (from == nullptr) continue;
    AppendCopy(merged, i, from->Get(i), inherited);
  }
  return merged;
}

void Map::DropTree(VolumeState& volume, uint64_t lsn) {
  for (auto& place : volume.root) {
    IndexNode* index = place.exchange(nullptr);
    if (index != nullptr) Emit(IndexDrop(index, lsn));
  }
  volume.mapped_tracks = 0;
}

Map::~Map() {
  // Nodes that were given up are in the registry still; these arrays are only here.
  for (const Drop& drop : drops_)
    if (drop.kind == Drop::Kind::kSecondWords) delete drop.second_words;
  for (size_t id = 0; id < nodes_.size(); ++id) {
    Node* node = nodes_.Find(static_cast<uint32_t>(id));
    if (node == nullptr) continue;
    if (node->kind == NodeKind::kLeaf)
      delete static_cast<Leaf*>(node);
    else if (node->kind == NodeKind::kIndex)
      delete static_cast<IndexNode*>(node);
    else
      delete static_cast<SealNode*>(node);
  }
}

}  // namespace flashlun
