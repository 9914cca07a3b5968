// Block status: what a host may know of where a volume's blocks are, without reading them.
//
// A status is a list of extents, each with the flags of one context (proto.md "Metadata contexts").
// It comes from the map in memory; nothing is read from the disk. A call looks at a bounded number
// of places, so an answer may end before what was asked: it always covers at least one byte.
//
//   context        flags of an extent
//   kAllocation    kStatusHole, kStatusZero (base:allocation)
//   kDepth         0 nothing there, 1 the volume's own, 2 T0 content still on the source's tracks
//   kChanges       kStatusDirty: may differ from the source's content at a relationship's T0
//
// kAllocation. Data is never called a hole: what is a hole and not zero, QEMU's mirror and qemu-img
// convert -B do not copy (seen with QEMU 7.2: a full mirror of 1 MiB ended well and had copied
// nothing). So on a thin volume a write may find the pool full where kStatusHole is clear, if the
// track is shared with a copy; a hole without data says so honestly.
//
// kChanges compares the volume with the T0 image that the relationship's target shares. A sub-block
// is unchanged when both refer to the same physical place and the target still has it from T0; what
// cannot be known (the target was written or copied there) counts as changed. So it says too much
// and never too little. It is exact while nobody writes to the target and no background copy runs.
// When the relationship has ended, or its source became a target itself, everything is changed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "core/limits.h"

namespace flashlun {

enum class StatusContext : uint8_t { kAllocation, kDepth, kChanges };

enum StatusFlag : uint32_t {
  kStatusHole = 1u << 0,   // kAllocation
  kStatusZero = 1u << 1,   // kAllocation
  kStatusDirty = 1u << 0,  // kChanges
};

struct StatusQuery {
  StatusContext context = StatusContext::kAllocation;
  uint64_t relationship = 0;  // of kChanges
  uint64_t offset = 0;
  uint64_t length = 0;  // at least 1
  size_t max_extents = 1;
};

struct StatusExtent {
  uint64_t length;
  uint32_t flags;
  bool operator==(const StatusExtent&) const = default;
};

// Consecutive extents, equal neighbours joined, cut off at the end of what was asked.
class StatusExtents {
 public:
  StatusExtents(const StatusQuery& query, std::vector<StatusExtent>* extents)
      : at_(query.offset),
        end_(query.offset + query.length),
        max_extents_(query.max_extents),
        extents_(*extents) {
    extents_.clear();
  }

  // The next bytes up to the volume's offset `end` have these flags.
  void AddUntil(uint64_t end, uint32_t flags) {
    if (end > end_) end = end_;
    if (full_ || end <= at_) return;
    if (extents_.empty() || extents_.back().flags != flags) {
      full_ = extents_.size() == max_extents_;
      if (full_) return;
      extents_.push_back({0, flags});
    }
    extents_.back().length += end - at_;
    at_ = end;
  }

  uint64_t at() const { return at_; }
  bool done() const { return full_ || at_ == end_; }

 private:
  uint64_t at_;
  const uint64_t end_;
  const size_t max_extents_;
  bool full_ = false;
  std::vector<StatusExtent>& extents_;
};

// A run of a volume's bytes that are known to be zero, or that have to be read.
struct DataRun {
  uint64_t bytes = 0;
  bool zero = false;
};

}  // namespace flashlun
