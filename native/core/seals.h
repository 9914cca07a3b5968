// Seals: checksums of physical tracks that are frozen.
//
// A track is frozen while more than one volume refers to it: nothing is written to it in place
// (map.h). A scrub gives such a track its seal, the CRC-32C of its 64 KiB. From then on it is never
// written in place again, also when it has one owner only: a write goes to a fresh track. So a seal
// needs no record when the track's sharing ends, and it can never be stale. It dies when the track
// is free.
//
// The seals of 1024 consecutive tracks are a node of their own, which travels with the checkpoint.
// A seal that was made after the last checkpoint is lost in a crash: the next scrub makes it again.
//
// Thread safety: Of is lock-free; everything else needs the store's state lock.
#pragma once

#include <array>
#include <atomic>
#include <bitset>
#include <cstdint>
#include <memory>
#include <vector>

#include "core/limits.h"
#include "core/nodes.h"

namespace flashlun {

// One page of checksums.
inline constexpr uint64_t kSealTracks = 1024;

struct SealNode : Node {
  explicit SealNode(uint64_t first_track) : Node(NodeKind::kSeal), first(first_track) {}
  uint64_t first;                             // a multiple of kSealTracks
  uint32_t sealed = 0;                        // how many there are
  std::bitset<kSealTracks> live;              // recovery: tracks that the map refers to
  std::atomic<uint32_t> crcs[kSealTracks]{};  // 0: no seal
};

class Seals {
 public:
  // What is stored for a content: its checksum, but never 0.
  static uint32_t Stored(uint32_t crc) { return crc == 0 ? 1 : crc; }

  // 0: the track has no seal.
  uint32_t Of(uint64_t track) const {
    if (count_.load(std::memory_order_acquire) == 0) [[likely]]
      return 0;
    const SealNode* node = Find(track);
    return node == nullptr ? 0 : node->crcs[track % kSealTracks].load(std::memory_order_acquire);
  }

  SealNode* Find(uint64_t track) const;
  // The node becomes the one of its tracks. False: they have one already.
  bool Install(SealNode* node);
  // The node is in the table.
  void Set(SealNode& node, uint64_t track, uint32_t seal);
  void Remove(const SealNode& node);

  const std::vector<SealNode*>& nodes() const { return nodes_; }
  uint64_t count() const { return count_.load(std::memory_order_relaxed); }

 private:
  // 40 bits of track number: 10 in the node, 10 for each level above.
  static constexpr size_t kFanOut = 1024;
  template <typename Below>
  using Level = std::array<std::atomic<Below*>, kFanOut>;
  using Lower = Level<SealNode>;
  using Middle = Level<Lower>;

  static size_t Slot(uint64_t track, unsigned level) {
    return static_cast<size_t>(track >> (10 * level)) % kFanOut;
  }

  // Read by every write: on a cache line that others seldom change.
  alignas(64) std::atomic<uint64_t> count_{0};
  Level<Middle> top_{};
  std::vector<SealNode*> nodes_;
  std::vector<std::unique_ptr<Middle>> middles_;
  std::vector<std::unique_ptr<Lower>> lowers_;
};

}  // namespace flashlun
