// Leaf: the entries of 512 consecutive tracks (32 MiB) of a volume.
//
//   first word    bits 0-39 own track, 40-55 mask (partial entries only), 61 inherited, 62 partial,
//                 63 mapped; 0: unmapped
//   second word   bits 0-39 base track, 48-63 zmask; only partial entries have one
//
// The second words are an array of their own, which exists only while the leaf has partial entries:
// 8 bytes a track in the usual case, 16 in the worst. A full entry is read with one load. A partial
// one is two words, so its reader checks the leaf's version around them (a seqlock): odd while an
// edit is under way, +2 after it.
//
// Thread safety: Get and raw are lock-free inside an epoch; Set and the counters need the store's
// state lock (or a leaf that nobody else knows yet).
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <utility>

#include "core/entry.h"
#include "core/nodes.h"

namespace flashlun {

using SecondWords = std::array<std::atomic<uint64_t>, kLeafTracks>;

class Leaf : public Node {
 public:
  Leaf() : Node(NodeKind::kLeaf) {}
  ~Leaf() { delete second_.load(std::memory_order_relaxed); }

  // Even between edits. The same value twice: nothing was edited in between.
  uint32_t version() const { return version_.load(std::memory_order_acquire); }
  // The first word; enough to know whether the entry is mapped and inherited.
  uint64_t raw(uint32_t slot) const { return first_[slot].load(std::memory_order_acquire); }
  static bool RawInherited(uint64_t raw) { return raw & kInheritedBit; }

  Entry Get(uint32_t slot) const {
    const uint64_t raw = first_[slot].load(std::memory_order_acquire);
    if (!(raw & kPartialBit)) [[likely]]
      return FromFirst(raw);
    return GetPartial(slot);
  }

  // Replaces an entry and counts it. When the last partial entry goes, the array of second words is
  // left over: the result, to be deleted after a grace period.
  [[nodiscard]] SecondWords* Set(uint32_t slot, const Entry& entry) {
    const Entry old = Get(slot);
    Add(mapped_, int{entry.mapped()} - int{old.mapped()});
    Add(inherited_, int{entry.inherited} - int{old.inherited});
    partial_ += static_cast<uint32_t>(int{entry.partial()} - int{old.partial()});
    if (entry.partial() && second_.load(std::memory_order_relaxed) == nullptr)
      second_.store(new SecondWords{}, std::memory_order_release);
    const uint32_t version = version_.load(std::memory_order_relaxed);
    version_.store(version + 1, std::memory_order_relaxed);
    // The odd version before the words, for a reader that sees one of them.
    std::atomic_thread_fence(std::memory_order_release);
    if (entry.partial())
      (*second_.load(std::memory_order_relaxed))[slot].store(SecondOf(entry),
                                                             std::memory_order_relaxed);
    first_[slot].store(FirstOf(entry), std::memory_order_release);
    version_.store(version + 2, std::memory_order_release);
    if (partial_ != 0 || second_.load(std::memory_order_relaxed) == nullptr) return nullptr;
    return second_.exchange(nullptr);
  }

  // Every mapped entry is inherited from here on.
  void MarkAllInherited() {
    for (auto& word : first_) {
      const uint64_t raw = word.load(std::memory_order_relaxed);
      if (raw != 0) word.store(raw | kInheritedBit, std::memory_order_release);
    }
    inherited_.store(mapped_.load(std::memory_order_relaxed), std::memory_order_relaxed);
  }

  uint32_t mapped() const { return mapped_.load(std::memory_order_relaxed); }
  uint32_t inherited() const { return inherited_.load(std::memory_order_relaxed); }
  bool wide() const { return partial_ != 0; }

 private:
  static constexpr uint64_t kMappedBit = uint64_t{1} << 63;
  static constexpr uint64_t kPartialBit = uint64_t{1} << 62;
  static constexpr uint64_t kInheritedBit = uint64_t{1} << 61;
  static constexpr uint32_t kMaskShift = 40;

  // One writer at a time: no locked instruction is needed.
  static void Add(std::atomic<uint32_t>& counter, int delta) {
    const uint32_t before = counter.load(std::memory_order_relaxed);
    counter.store(before + static_cast<uint32_t>(delta), std::memory_order_relaxed);
  }

  static Entry FromFirst(uint64_t raw) {
    if (raw == 0) return Entry{};
    Entry entry = Entry::Full(raw & kNoTrack);
    entry.inherited = (raw & kInheritedBit) != 0;
    return entry;
  }

  static uint64_t FirstOf(const Entry& entry) {
    if (!entry.mapped()) return 0;
    uint64_t raw = kMappedBit | entry.own | (entry.inherited ? kInheritedBit : 0);
    if (entry.partial()) raw |= kPartialBit | (uint64_t{entry.mask} << kMaskShift);
    return raw;
  }

  static uint64_t SecondOf(const Entry& entry) {
    return entry.base | (uint64_t{entry.zmask} << 48);
  }

  Entry GetPartial(uint32_t slot) const {
    for (;;) {
      const uint32_t before = version_.load(std::memory_order_acquire);
      const SecondWords* second = second_.load(std::memory_order_acquire);
      const uint64_t raw = first_[slot].load(std::memory_order_acquire);
      if (!(raw & kPartialBit)) return FromFirst(raw);
      // An edit may just have taken the array away: its first word says full then.
      if (second == nullptr || (before & 1) != 0) continue;
      const uint64_t word = (*second)[slot].load(std::memory_order_relaxed);
      std::atomic_thread_fence(std::memory_order_acquire);
      if (version_.load(std::memory_order_relaxed) != before) continue;
      Entry entry = FromFirst(raw);
      entry.mask = static_cast<uint16_t>(raw >> kMaskShift);
      entry.base = word & kNoTrack;
      entry.zmask = static_cast<uint16_t>(word >> 48);
      return entry;
    }
  }

  std::atomic<uint32_t> version_{0};
  std::atomic<uint32_t> mapped_{0};
  std::atomic<uint32_t> inherited_{0};
  uint32_t partial_ = 0;
  std::atomic<SecondWords*> second_{nullptr};
  std::atomic<uint64_t> first_[kLeafTracks]{};
};

}  // namespace flashlun
