// Map: volumes as trees of pointers to tracks, shared between volumes by reference count of nodes.
//
//   volume.root[i] -> IndexNode (256 leaves, 8 GiB) -> Leaf (512 entries, 32 MiB) -> Entry (64 KiB)
//
// Establish gives the target the source's index nodes (one increment each: O(size / 8 GiB)).
// Whoever writes first gets copies of the nodes on the way (LeafForEdit).
//
// A reference that is given up (track, leaf, index node, partial record) goes on counting until the
// record that gives it up is durable and every operation that may have looked it up has ended;
// until then it sits in a Drop. That is trap T1: counting it out earlier would let another volume
// write in place to a track that a crash could give back.
//
// Copying a node takes up to 40 microseconds (512 counts). So a publication makes the copies ahead,
// without the state lock, and only puts them in place under it (NodeCopies).
//
// Thread safety: Find, CopyAhead, GiveBack and the walks are lock-free inside an epoch, Dismantle
// anywhere; everything else needs the store's state lock.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/allocator.h"
#include "core/changes.h"
#include "core/entry.h"
#include "core/growing.h"
#include "core/leaf.h"
#include "core/seals.h"
#include "core/store.h"

namespace flashlun {

struct IndexNode : Node {
  IndexNode() : Node(NodeKind::kIndex) {}
  std::atomic<uint32_t> version{0};  // as of a leaf
  std::atomic<uint32_t> mapped{0};   // entries below it that are mapped
  std::atomic<Leaf*> leaves[kIndexLeaves]{};
};

enum class Gate : int { kOpen, kNoWrites, kClosed };

// Counters of host I/O, one copy per group of threads so that connections do not share a cache
// line.
struct alignas(128) IoCounters {
  std::atomic<uint64_t> read_ops{0}, read_bytes{0}, write_ops{0}, write_bytes{0};
  std::atomic<uint64_t> flush_ops{0}, trim_ops{0}, zero_ops{0}, error_ops{0}, redirected{0};
  std::atomic<uint64_t> host_writes{0};  // under way (freeze.h)
};
inline constexpr size_t kCounterCopies = 8;

// Index nodes of a volume of this size.
inline constexpr uint64_t IndexNodesFor(uint64_t size_bytes) {
  const uint64_t tracks = (size_bytes + kTrackBytes - 1) / kTrackBytes;
  return (tracks + kIndexTracks - 1) / kIndexTracks;
}

struct VolumeState {
  VolumeState(uint16_t volume_id, uint64_t size);

  // Online resize, under the state lock. Running operations lie below the old size, and nothing of
  // the old part moves (growing.h). The size is stored last: whoever sees it finds the places.
  void Grow(uint64_t size);

  const uint16_t id;
  std::atomic<uint64_t> size_bytes;
  std::atomic<uint64_t> tracks;
  std::string name;
  int64_t created_unix_ms = 0;
  std::atomic<Gate> gate{Gate::kOpen};
  std::atomic<uint32_t> attached{0};
  std::atomic<bool> frozen{false};        // host writes wait (freeze.h)
  std::vector<ThawWaiter*> thaw_waiters;  // guarded by the monitor of Freezes
  bool deleted = false;
  // Constant after creation: the data area that fresh tracks come from, and whether the volume's
  // whole size is claimed there (allocator.h).
  uint32_t pool = 0;
  bool thick = false;
  uint32_t block_bytes = 512;  // constant too; of the hosts, nothing here depends on it
  Growing<std::atomic<IndexNode*>> root;

  // FlashCopy target side. A leaf slot with its bit set is inherited as a whole (nothing in it
  // written since T0); once the slot is edited, the entries carry the flag themselves.
  uint64_t target_of = 0;  // relationship id, 0: none
  std::atomic<uint64_t> inherit_limit_tracks{
      0};  // tracks of the source: flags beyond are leftovers
  uint64_t inherited_tracks = 0;
  Growing<std::atomic<uint64_t>> inherited_leaf_bits;
  uint64_t mapped_tracks = 0;
  uint64_t copied_tracks = 0;
  // Entries may still carry the flag of a relationship that ended early, where it says nothing.
  bool stale_inherited = false;

  // Set while the volume is the target of a relationship that inhibits writes: hosts are refused.
  std::atomic<bool> write_inhibited{false};

  // No host has written to it since it was created or last became a target. Of a thick volume only
  // what makes a record ends it.
  std::atomic<bool> untouched{false};

  // Change recording, of source and target: the relationship, 0: none; and what changed since its
  // T0.
  std::atomic<uint64_t> recording{0};
  ChangedTracks changed;
  // The next change of the track must be recorded, so it may not be made in place.
  bool MustRecord(uint64_t track) const {
    if (untouched.load(std::memory_order_acquire) && !thick) return true;
    return recording.load(std::memory_order_acquire) != 0 && !changed.Has(track);
  }
  // State lock held. The entry of the track was replaced by something else than a background copy.
  void Changed(uint64_t track) {
    if (recording.load(std::memory_order_relaxed) != 0) changed.Set(track);
    if (untouched.load(std::memory_order_relaxed)) untouched.store(false);
  }

  IoCounters counters[kCounterCopies];

  bool LeafInherited(uint64_t slot) const {
    return inherited_leaf_bits[slot / 64].load(std::memory_order_acquire) >> (slot % 64) & 1;
  }
  void SetLeafInherited(uint64_t slot) {
    inherited_leaf_bits[slot / 64] |= uint64_t{1} << (slot % 64);
  }
  // All leaf slots of one index node. Whole words: an establish of terabytes sets thousands.
  void SetIndexInherited(uint64_t index) {
    static_assert(kIndexLeaves % 64 == 0);
    for (uint64_t word = 0; word < kIndexLeaves / 64; ++word)
      inherited_leaf_bits[index * (kIndexLeaves / 64) + word].store(~uint64_t{0});
  }
  void ClearLeafInherited(uint64_t slot) {
    inherited_leaf_bits[slot / 64] &= ~(uint64_t{1} << (slot % 64));
  }
};

// What stops counting once the record `lsn` is durable and a grace period is over.
struct Drop {
  enum class Kind : uint8_t { kTrack, kSecondWords, kLeaf, kIndex, kFreeTrack };
  Kind kind;
  uint64_t lsn;
  union {
    uint64_t track;
    SecondWords* second_words;
    Leaf* leaf;
    IndexNode* index;
  };
};

// Copies of the shared nodes on the way to a track, made before the state lock is taken.
//
// A node with more than one owner does not change, so its copy stays right until it is installed,
// unless the other owners leave and somebody edits it in place meanwhile. The version tells, and it
// also tells when the place held another node in between (ABA): what matters is the content.
//
// The copies' counts are raised early, so for a moment tracks and leaves look more shared than they
// are. That is harmless: "shared" only makes others redirect where they could have written in
// place.
struct NodeCopies {
  const IndexNode* index_from = nullptr;
  uint32_t index_version = 0;
  IndexNode* index = nullptr;
  const Leaf* leaf_from = nullptr;
  uint32_t leaf_version = 0;
  Leaf* leaf = nullptr;
};

// A node that nobody can reach any more.
struct DeadNode {
  uint64_t lsn = 0;
  Leaf* leaf = nullptr;
  IndexNode* index = nullptr;
};

class Map {
 public:
  explicit Map(uint64_t capacity_tracks) : allocator_(capacity_tracks) {}
  // Nothing may be running.
  ~Map();
  Map(const Map&) = delete;
  Map& operator=(const Map&) = delete;

  struct Found {
    Entry entry;
    // One owner of the index node, of the leaf and of the track, deferred drops included.
    bool sole = false;
    // And the track has no seal: in-place writes are allowed.
    bool exclusive = false;
  };
  Found Find(const VolumeState& volume, uint64_t track) const;
  // The entry only. Cheaper: for reads.
  Entry FindEntry(const VolumeState& volume, uint64_t track) const;

  // Replaces the entry. References in `next` that the old entry did not have must already be
  // counted (Allocate). Old ones that `next` lacks become drops of `lsn`.
  // Copies that `ahead` has and that still fit are taken out of it. Only ShareChanged makes an
  // entry inherited that was not.
  void SetEntry(VolumeState& volume, uint64_t track, const Entry& next, uint64_t lsn,
                NodeCopies* ahead = nullptr);
  // Copies what an edit of the track would have to un-share: nothing, in most cases.
  void CopyAhead(const VolumeState& volume, uint64_t track, NodeCopies* copies);
  // Undoes the copies that were not installed. In the epoch in which they were made.
  void GiveBack(NodeCopies* copies);
  // target := source, for the source's range; a larger target keeps its own tracks beyond it.
  void Share(VolumeState& source, VolumeState& target, uint64_t lsn);
  // As Share, but only of the tracks that changed on either side since both were the same, which
  // they were but for those. Precondition: the target is one already (target_of, inherit limit).
  void ShareChanged(VolumeState& source, VolumeState& target, uint64_t lsn);
  // target := image, entry by entry; what differs counts as changed.
  void Restore(const VolumeState& image, VolumeState& target, uint64_t lsn);
  // Whether an entry from `track` on carries the flag, whatever the volume's relationship says.
  bool InheritedFrom(const VolumeState& volume, uint64_t track) const;
  // Gives up the whole tree (volume delete).
  void DropTree(VolumeState& volume, uint64_t lsn);
  // Whether the track is T0 content that was not copied yet. Under the state lock: an edit of the
  // leaf moves the flag from the slot's bit to the entries.
  bool Inherited(const VolumeState& volume, uint64_t track) const {
    return FindEntry(volume, track).inherited || volume.LeafInherited(track / kLeafTracks);
  }
  // First track >= `track` below the limit that may be inherited, or the limit. Skips whole leaves.
  uint64_t NextInherited(const VolumeState& volume, uint64_t track) const;
  // First track >= `track` that may be mapped, or the volume's end. Lock-free inside an epoch.
  uint64_t SkipUnmapped(const VolumeState& volume, uint64_t track) const;
  // Tracks of a target whose T0 content is on tracks it shares. Lock-free inside an epoch.
  uint64_t CountOutOfSync(const VolumeState& volume) const;

  // Seals (seals.h). Seal: the track's content cannot change, because somebody refers to it who
  // keeps others from writing it in place.
  void Seal(uint64_t track, uint32_t crc);
  // The track is free or about to be written.
  void Unseal(uint64_t track);
  uint32_t SealOf(uint64_t track) const { return seals_.Of(track); }
  Seals& seals() { return seals_; }

  // Applies one drop, whose time has come. When a node loses its last owner, the caller dismantles
  // it.
  DeadNode Apply(const Drop& drop);
  // Gives up what a dead node refers to. An index node's leaves are appended to `more`; tracks that
  // lost their last reference to `unreferenced`, for Allocator::Free.
  void Dismantle(const DeadNode& node, std::vector<Drop>* more,
                 std::vector<uint64_t>* unreferenced);
  std::vector<Drop>& drops() { return drops_; }
  Allocator& allocator() { return allocator_; }

  // Allocator::Free.
  void FreeTrack(uint64_t track);

  // Recovery: no counting of tracks and no deferring, because the counts are rebuilt afterwards and
  // nothing is served before the recovered state is durable.
  void set_replaying(bool replaying) { replaying_ = replaying; }
  bool replaying() const { return replaying_; }
  // Owner counts of loaded nodes; those that no volume reaches are deleted (their drop was still
  // waiting when the checkpoint was taken).
  void CountOwners(const std::vector<VolumeState*>& volumes);
  // Rebuilds the counts of tracks, of mapped and of inherited entries from the trees. A message
  // when the map contradicts itself; with `told`, every leaf that does is reported, and none ends
  // it.
  using Told = std::function<void(const VolumeState&, uint64_t first_track, const std::string&)>;
  std::string RebuildCounts(const std::vector<VolumeState*>& volumes, const Told* told = nullptr);
  // Bytes that a data area must have for every mapped sub-block to be in it. After RebuildCounts.
  uint64_t needed_bytes(uint32_t area) const { return needed_bytes_[area]; }

  // A running checkpoint: called with a node of its epoch that is about to change or die
  // (checkpoint.h). capture_epoch 0: none runs.
  std::function<void(Node*)> before_change;
  uint32_t capture_epoch = 0;
  NodeRegistry& nodes() { return nodes_; }

 private:
  Leaf* LeafForEdit(VolumeState& volume, IndexNode* index, uint64_t track, uint64_t lsn,
                    NodeCopies* ahead);
  IndexNode* IndexForEdit(VolumeState& volume, uint64_t index, uint64_t lsn, NodeCopies* ahead);
  void RemoveIfEmpty(VolumeState& volume, IndexNode* index, uint64_t track, uint64_t lsn);
  Leaf* CopyLeaf(const Leaf& leaf);
  static IndexNode* CopyIndex(const IndexNode& index);
  void AppendCopy(Leaf* to, uint32_t slot, Entry entry, bool inherited);
  void MarkInherited(VolumeState& volume, uint64_t leaf_slot, Leaf* leaf);
  void ShareLeaf(VolumeState& source, VolumeState& target, uint64_t first_track, uint64_t lsn);
  void ShareTrack(VolumeState& source, VolumeState& target, uint64_t track, uint64_t lsn);
  void RestoreLeafOf(const Leaf* image, VolumeState& target, uint64_t first_track, uint64_t lsn);
  void CountMissing(const Entry& next, const Entry& old);
  IndexNode* MergeBoundary(VolumeState& source, VolumeState& target, uint64_t index);
  Leaf* MergeLeaf(const Leaf* source, const Leaf* target, uint32_t source_entries);
  template <typename AnyNode>
  AnyNode* NewNode() {
    auto* node = new AnyNode;
    nodes_.Add(node);
    return node;
  }
  // The image that a running checkpoint needs is still to be taken.
  bool Pending(const Node* node) const {
    return capture_epoch != 0 && node->dirty_epoch == capture_epoch;
  }
  void WillDie(Node* node) {
    if (Pending(node)) before_change(node);
  }
  void WillChange(Node* node) {
    WillDie(node);
    nodes_.SetDirty(node);
  }
  void Emit(Drop drop);
  void ApplyNow(const Drop& drop);
  void RefEntry(const Entry& entry);
  void ReleaseEntry(const Entry& entry, std::vector<uint64_t>* unreferenced);
  std::string RestoreLeaf(const Leaf& leaf, bool thick);
  uint64_t CountInherited(const VolumeState& volume) const;
  void DropDeadSeals();

  Allocator allocator_;
  NodeRegistry nodes_;
  Seals seals_;
  std::vector<Drop> drops_;
  bool replaying_ = false;
  std::array<uint64_t, kMaxAreas> needed_bytes_{};
};

}  // namespace flashlun
