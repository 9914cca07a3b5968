// Entry: where the 64 KiB of one track of a volume are.
//
//   sub-block i of the track reads from
//     own    physical track `own`      if bit i of mask is set
//     zero   (nothing)                 else if bit i of zmask is set, or there is no base
//     base   physical track `base`     else
//
//   state      own    mask     base   zmask     made by
//   unmapped   none   0        none   0         create, whole-track trim: reads as zero
//   full       P      0xffff   none   0         64 KiB write, completed partial track
//   partial    P      some     none   any       first 4 KiB write ever; zeroed part of a full track
//   partial    P      some     B      some      4 KiB write to a shared track: the rest stays on B
//   (depth is always 1)
//
// A recycled physical track still holds foreign bytes, but only sub-blocks in `mask` are ever read
// from it (trap T6).
//
// `inherited`: this is T0 content of a FlashCopy target that has not been copied yet. It never
// changes what is read.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "core/limits.h"

namespace flashlun {

inline constexpr uint64_t kNoTrack = (uint64_t{1} << 40) - 1;

struct Entry {
  uint64_t own = kNoTrack;
  uint64_t base = kNoTrack;
  uint16_t mask = 0;
  uint16_t zmask = 0;
  bool inherited = false;

  bool mapped() const { return own != kNoTrack; }
  bool full() const { return mask == kFullMask; }
  bool partial() const { return mapped() && !full(); }
  bool operator==(const Entry&) const = default;

  static Entry Full(uint64_t track) {
    Entry entry;
    entry.own = track;
    entry.mask = kFullMask;
    return entry;
  }
};

enum class SubSource { kOwn, kZero, kBase };

inline SubSource SourceOf(const Entry& entry, uint32_t sub) {
  const auto bit = static_cast<uint16_t>(1u << sub);
  if (entry.mask & bit) return SubSource::kOwn;
  if (entry.base == kNoTrack || (entry.zmask & bit)) return SubSource::kZero;
  return SubSource::kBase;
}

// Bytes from `within` on that come from one place.
struct SubRun {
  SubSource source;
  size_t bytes;
};

// The first run of [within, within + len); len > 0.
inline SubRun RunAt(const Entry& entry, uint32_t within, size_t len) {
  if (entry.full()) [[likely]]
    return {SubSource::kOwn, len};
  const SubSource source = SourceOf(entry, within >> kSubShift);
  uint32_t end = within;
  while (end < within + len && SourceOf(entry, end >> kSubShift) == source)
    end = (end | (kSubBytes - 1)) + 1;
  return {source, std::min<size_t>(end - within, len)};
}

// Sub-blocks that [within, within + len) touches.
inline uint16_t TouchedSubs(uint32_t within, size_t len) {
  const uint32_t first = within >> kSubShift;
  const uint32_t last = (within + static_cast<uint32_t>(len) - 1) >> kSubShift;
  const uint32_t count = last - first + 1;
  return static_cast<uint16_t>(((1u << count) - 1) << first);
}

// Brings an entry into the one form of its state: a full track has no base, an unmapped one has
// nothing.
inline Entry Normalized(Entry entry) {
  entry.zmask = static_cast<uint16_t>(entry.zmask & ~entry.mask);
  if (entry.mask == kFullMask) entry.base = kNoTrack;
  if (entry.base == kNoTrack) entry.zmask = 0;
  if (entry.mask == 0 && entry.base == kNoTrack) return Entry{};
  return entry;
}

}  // namespace flashlun
