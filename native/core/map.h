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
// Thread safety: Find is lock-free inside an epoch; everything else needs the store's state lock.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/allocator.h"
#include "core/entry.h"
#include "core/partials.h"
#include "core/store.h"

namespace flashlun {

struct Leaf {
  std::atomic<uint32_t> owners{1};
  std::atomic<uint32_t> mapped{0};  // entries that are mapped
  std::atomic<uint32_t> inherited{
      0};  // entries with the inherited flag: a hint to skip leaves, may be too high
  bool capture_pending = false;  // a running checkpoint has not taken this leaf's image yet
  std::atomic<uint64_t> entries[kLeafTracks]{};
};

struct IndexNode {
  std::atomic<uint32_t> owners{1};
  std::atomic<Leaf*> leaves[kIndexLeaves]{};
};

enum class Gate : int { kOpen, kNoWrites, kClosed };

// Counters of host I/O, one copy per group of threads so that connections do not share a cache
// line.
struct alignas(128) IoCounters {
  std::atomic<uint64_t> read_ops{0}, read_bytes{0}, write_ops{0}, write_bytes{0};
  std::atomic<uint64_t> flush_ops{0}, trim_ops{0}, zero_ops{0}, error_ops{0}, redirected{0};
};
inline constexpr size_t kCounterCopies = 8;

// Index nodes of a volume of this size.
inline constexpr uint64_t IndexNodesFor(uint64_t size_bytes) {
  const uint64_t tracks = (size_bytes + kTrackBytes - 1) / kTrackBytes;
  return (tracks + kIndexTracks - 1) / kIndexTracks;
}

struct VolumeState {
  VolumeState(uint16_t volume_id, uint64_t size);

  const uint16_t id;
  const uint64_t size_bytes;
  const uint64_t tracks;
  std::string name;
  int64_t created_unix_ms = 0;
  std::atomic<Gate> gate{Gate::kOpen};
  std::atomic<uint32_t> attached{0};
  bool deleted = false;
  // Constant after creation: the data area that fresh tracks come from, and whether the volume's
  // whole size is claimed there (allocator.h).
  uint32_t pool = 0;
  bool thick = false;
  std::vector<std::atomic<IndexNode*>> root;

  // FlashCopy target side. A leaf slot with its bit set is inherited as a whole (nothing in it
  // written since T0); once the slot is edited, the entries carry the flag themselves.
  uint64_t target_of = 0;  // relationship id, 0: none
  std::atomic<uint64_t> inherit_limit_tracks{
      0};  // tracks of the source: flags beyond are leftovers
  uint64_t inherited_tracks = 0;
  std::vector<std::atomic<uint64_t>> inherited_leaf_bits;
  uint64_t mapped_tracks = 0;
  uint64_t copied_tracks = 0;

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
  enum class Kind : uint8_t { kTrack, kPartial, kLeaf, kIndex, kFreeTrack };
  Kind kind;
  uint64_t lsn;
  union {
    uint64_t track;
    uint32_t partial;
    Leaf* leaf;
    IndexNode* index;
  };
};

class Map {
 public:
  explicit Map(uint64_t capacity_tracks) : allocator_(capacity_tracks) {}
  Map(const Map&) = delete;
  Map& operator=(const Map&) = delete;

  struct Found {
    Entry entry;
    // One owner of the index node, of the leaf and of the track, deferred drops included: in-place
    // writes are allowed.
    bool exclusive = false;
  };
  Found Find(const VolumeState& volume, uint64_t track) const;
  // The entry only. Cheaper: for reads.
  Entry FindEntry(const VolumeState& volume, uint64_t track) const;

  // Replaces the entry. References in `next` that the old entry did not have must already be
  // counted (Allocate). Old ones that `next` lacks become drops of `lsn`.
  void SetEntry(VolumeState& volume, uint64_t track, const Entry& next, uint64_t lsn);
  // target := source, for the source's range; a larger target keeps its own tracks beyond it.
  void Share(VolumeState& source, VolumeState& target, uint64_t lsn);
  // Gives up the whole tree (volume delete).
  void DropTree(VolumeState& volume, uint64_t lsn);
  // Frees the memory of every tree and of all drops. The end of the map: nothing may be running.
  void Destroy(const std::vector<VolumeState*>& volumes);
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

  // Applies one drop, whose time has come. Children that lose their last owner are appended to
  // `more`.
  void Apply(const Drop& drop, std::vector<Drop>* more);
  std::vector<Drop>& drops() { return drops_; }
  Allocator& allocator() { return allocator_; }

  // Recovery: no counting of tracks and no deferring, because the counts are rebuilt afterwards and
  // nothing is served before the recovered state is durable.
  void set_replaying(bool replaying) { replaying_ = replaying; }
  bool replaying() const { return replaying_; }
  // Rebuilds track counts and mapped counts from the trees. A message when the map contradicts
  // itself.
  std::string RebuildCounts(const std::vector<VolumeState*>& volumes);
  // Bytes that a data area must have for every mapped sub-block to be in it. After RebuildCounts.
  uint64_t needed_bytes(uint32_t area) const { return needed_bytes_[area]; }

  // Called with a leaf that is about to change or die while its capture is pending
  // (checkpoint.h).
  std::function<void(Leaf*)> before_change;

  Entry Decode(uint64_t raw) const;
  uint64_t Encode(const Entry& entry);
  static bool RawInherited(uint64_t raw) { return raw & kInheritedBit; }

 private:
  static constexpr uint64_t kMappedBit = uint64_t{1} << 63;
  static constexpr uint64_t kPartialBit = uint64_t{1} << 62;
  static constexpr uint64_t kInheritedBit = uint64_t{1} << 61;

  Leaf* LeafForEdit(VolumeState& volume, uint64_t track, uint64_t lsn);
  IndexNode* IndexForEdit(VolumeState& volume, uint64_t index, uint64_t lsn);
  Leaf* CopyLeaf(const Leaf& leaf);
  void AppendCopy(Leaf* to, uint32_t slot, uint64_t raw, bool inherited);
  void MarkInherited(VolumeState& volume, uint64_t leaf_slot, Leaf* leaf);
  IndexNode* MergeBoundary(VolumeState& source, VolumeState& target, uint64_t index);
  Leaf* MergeLeaf(const Leaf* source, const Leaf* target, uint32_t source_entries);
  void RecountMapped(VolumeState& volume);
  void WillChange(Leaf* leaf) {
    if (leaf->capture_pending) before_change(leaf);
  }
  void Emit(Drop drop);
  void RefEntry(const Entry& entry);
  void ApplyLeaf(const Drop& drop, std::vector<Drop>* more);
  std::string RestoreLeaf(const Leaf& leaf, bool thick);

  Allocator allocator_;
  PartialTable partials_;
  std::vector<Drop> drops_;
  bool replaying_ = false;
  std::array<uint64_t, kMaxAreas> needed_bytes_{};
};

}  // namespace flashlun
