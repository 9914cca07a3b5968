// Areas: the files and block devices that hold the tracks of a pool. Area 0 is the file `tracks` of
// the pool directory; the others were added by `flashlun pool create`.
//
//   0       label: pool uuid and number of the area, so that no file is taken for another
//   1 MiB   track 0 of the area, track 1, ...
//
// Thread safety: File, Offset, MarkDirty and the flush methods from any thread; Open and Create
// from one at a time, before a track of the area is handed out.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <string>

#include "core/allocator.h"
#include "core/io.h"
#include "core/limits.h"

namespace flashlun {

// A data area as the journal and the manifest know it.
struct AreaSpec {
  uint32_t number = 0;
  std::string name;
  std::string path;  // empty: `tracks` in the pool directory
  uint64_t capacity_tracks = 0;
};

// How an area's file is opened.
struct AreaOptions {
  bool direct = false;      // past the page cache
  bool drop_cache = false;  // what is cached of it is not to be trusted, or of no use
  bool read_only = false;   // pool check: nothing is flushed, nothing locked
};

class Areas {
 public:
  static constexpr uint64_t kTracksOffset = 1 << 20;

  // Makes the file of an area (or takes the empty device) and writes its label, durable when it
  // returns. kExists: there is something else; nothing was changed.
  static Status Create(Io& io, const AreaSpec& area, const std::string& path,
                       const std::string& pool_uuid);
  // Opens an area's file and checks its label. Everything that a killed process left in the page
  // cache is durable when it returns.
  Status Open(Io& io, const AreaSpec& area, const std::string& path, const std::string& pool_uuid,
              const AreaOptions& how);
  bool has(uint32_t area) const { return area < kMaxAreas && areas_[area].open.load(); }

  File& FileOf(uint64_t track) const { return *areas_[AreaOf(track)].file; }
  File& file(uint32_t area) const { return *areas_[area].file; }
  static uint64_t Offset(uint64_t track) {
    return kTracksOffset + TrackInArea(track) * kTrackBytes;
  }

  // After a write and before its reply, so that a flush which must cover it sees it. The test
  // before the store keeps the cache line shared while it is already set.
  void MarkDirty(uint64_t track) {
    std::atomic<bool>& dirty = areas_[AreaOf(track)].dirty;
    if (!dirty.load()) dirty.store(true);
  }
  // The same for several areas, one bit each.
  void MarkDirtyAreas(uint32_t areas) {
    for (uint32_t area = 0; areas >> area != 0; ++area)
      if (areas >> area & 1) MarkDirty(uint64_t{area} << 32);
  }
  bool dirty() const;
  // The areas that were written since they were last taken, one bit each.
  uint32_t TakeDirty();
  uint32_t All() const;
  // Begins to write dirty pages of all areas to their disks.
  void StartWriteOut();
  // Flushes these areas, one after the other.
  Status Fdatasync(uint32_t areas);

 private:
  struct alignas(64) Area {
    std::unique_ptr<File> file;
    std::atomic<bool> open{false};  // `file` is there and stays
    std::atomic<bool> dirty{false};
  };
  std::array<Area, kMaxAreas> areas_;
};

}  // namespace flashlun
