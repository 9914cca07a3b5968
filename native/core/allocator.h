// Allocator: which physical tracks are free, how many leaf entries and bases refer to each of the
// others, and which parts of the data areas have their space on the disk.
//
// A physical track number is area << 32 | track in the area. Everything is derived: at open it is
// rebuilt by walking the leaves, never read from disk (track-store.md 0, point 4).
//
//   track    FREE -> Allocate -> RESERVED (count 1, no entry yet) -> published in an entry (the
//   same
//            count) -> Unref to 0 -> FREE, or quarantined when a write to it failed
//   region   16 tracks, 1 MiB:  HOLE -> NextGrowth, the file allocates it, MakeReady -> READY
//            READY and all free for a while -> NextTrim -> HOLE, and the file discards it
//
// Tracks come from READY regions only, so a full host file system refuses a growth step and not a
// write in the middle (trap T18). A region is a HOLE while its discard is in flight, and one task
// alone grows and trims, so a discard never meets a new owner of the space (trap T17).
//
// Places: the first fresh track for a 1 MiB region of a volume opens a whole region for it; later
// ones of the same 1 MiB take their own place in it, so that redirected data stays in order on the
// disk. These reservations are hints: evicted, and given back when space is short.
//
// Space for an operation is promised as a count before its first I/O (Promise); an allocation that
// was promised cannot fail.
//
// Thick volumes: a claim is the size of a thick volume, in tracks. Thin allocations stop where they
// would use what claims need:  ready free - promised to thin - max(0, claims - thick used) >= 1.
// Theorem: no thick write finds the area full, once pending drops have been applied. An entry of a
// thick volume refers to one track (it has no base, store_io.cc Redirect), and only thick volumes
// of the same area share tracks with it (store_copy.cc CheckThickness); so the tracks that thick
// entries refer to, T, are at most as many as the thick entries, which are at most the claims. An
// entry that needs a fresh track is unmapped or shares its track with another thick entry, so then
// T <= claims - 1; and thin tracks + claims <= READY tracks always. The n tracks of one write are n
// different places of one volume, so the same holds with n for 1. Drops that are pending, and
// writers that un-share the same track at the same time, can hide the space for a moment: a thick
// writer waits for them, and then looks again whether it needs a track at all
// (StoreImpl::MayNeedNone).
//
// Thread safety: Count, Ref and Release from any thread; everything else needs the store's state
// lock.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "core/limits.h"

namespace flashlun {

inline constexpr uint32_t kRegionTracks = 16;

inline constexpr uint32_t AreaOf(uint64_t track) { return static_cast<uint32_t>(track >> 32); }
inline constexpr uint64_t TrackInArea(uint64_t track) { return track & 0xffffffff; }

// A run of whole regions of one area.
struct TrackRun {
  uint32_t area = 0;
  uint64_t first = 0;  // in the area
  uint64_t tracks = 0;
};

// What an allocation is for.
struct SpaceUse {
  uint32_t area = 0;
  bool thick = false;
  uint16_t volume = 0;
  uint64_t volume_track = 0;
};

struct AreaSpace {
  uint64_t capacity = 0;     // tracks; 0: no such area
  uint64_t used = 0;         // referenced, reserved, waiting for a deferred drop, or quarantined
  uint64_t quarantined = 0;  // see Quarantine
  uint64_t ready = 0;        // in READY regions, used or free
  uint64_t ready_free = 0;   // of these, free
  uint64_t thick_used = 0;   // of `used`, allocated for thick volumes
  uint64_t claims = 0;       // sizes of the thick volumes
  uint64_t promised_thin = 0, promised_thick = 0;
  uint64_t allocations = 0;  // so far
};

class Allocator {
 public:
  // Area 0 with this many tracks; with 0 none yet.
  explicit Allocator(uint64_t capacity_tracks);
  ~Allocator();
  Allocator(const Allocator&) = delete;
  Allocator& operator=(const Allocator&) = delete;

  // Adds an area or enlarges one.
  void SetCapacity(uint32_t area, uint64_t tracks);
  const AreaSpace& space(uint32_t area) const { return areas_[area].space; }
  uint64_t used() const;
  uint64_t capacity() const;

  // A track with count 1, or kNoTrack when there is no space that was not promised. `promised`: one
  // track of an earlier Promise is used up; then it cannot fail.
  uint64_t Allocate(const SpaceUse& use, bool promised);
  // Keeps `tracks` tracks for one operation. False: that many are not ready and free.
  bool Promise(uint32_t area, bool thick, uint64_t tracks);
  void Unpromise(uint32_t area, bool thick, uint64_t tracks);
  // A thick volume begins or ends. A claim needs Available(area, false) >= tracks.
  void AddClaim(uint32_t area, uint64_t tracks) { areas_[area].space.claims += tracks; }
  void RemoveClaim(uint32_t area, uint64_t tracks) { areas_[area].space.claims -= tracks; }
  // READY tracks that may still be taken; may be negative for thin ones.
  int64_t Available(uint32_t area, bool thick) const;

  // One reference more, from any thread; the caller knows of another that stays meanwhile.
  void Ref(uint64_t track);
  // True when that was the last reference; the track is then free.
  bool Unref(uint64_t track);
  // The two halves of Unref. Between them the track is neither referenced nor handed out.
  bool Release(uint64_t track);
  void Free(uint64_t track);
  // The disk does not take what is written to the track: once unreferenced it is not free but stays
  // used until the next open, which derives everything anew (trap T13).
  void Quarantine(uint64_t track);
  // Only for the early-exclusive mutation.
  void FreeIfUnreferenced(uint64_t track);

  uint16_t Count(uint64_t track) const {
    return ChunkOf(track)->refs[track % kChunkTracks].load(std::memory_order_acquire);
  }

  // Growth and trim (the space task). NextGrowth: the next run of holes, at most `regions` long;
  // false when there is none. Nothing changes until MakeReady.
  bool NextGrowth(uint32_t area, uint64_t regions, TrackRun* run);
  void MakeReady(const TrackRun& run);
  bool HasHoles(uint32_t area) const { return space(area).ready < space(area).capacity; }
  // The next run of regions that were free at the call before this one too, at most `regions` long;
  // they become holes. `keep` free tracks stay, whatever claims and promises need besides.
  bool NextTrim(uint32_t area, uint64_t regions, uint64_t keep, TrackRun* run);
  // Whether NextTrim could ever find something.
  bool TrimWanted(uint32_t area, uint64_t keep) const {
    return areas_[area].clean * kRegionTracks > keep &&
           Available(area, false) >= static_cast<int64_t>(keep + kRegionTracks);
  }

  // Recovery: makes a track referenced that the map says is in use. False when it is out of range.
  bool Restore(uint64_t track, bool thick);

 private:
  // 16,384 tracks, 1 GiB.
  static constexpr uint64_t kChunkTracks = 16384;
  static constexpr uint64_t kChunkRegions = kChunkTracks / kRegionTracks;
  static constexpr uint64_t kChunksPerArea = (uint64_t{1} << 32) / kChunkTracks;
  struct Chunk {
    std::atomic<uint16_t> refs[kChunkTracks]{};
    uint16_t used[kChunkRegions]{};  // one bit a track
    uint16_t thick[kChunkRegions]{};
    uint16_t bad[kChunkRegions]{};
    uint64_t ready_bits[kChunkRegions / 64]{};
    uint64_t placed_bits[kChunkRegions / 64]{};  // kept for one 1 MiB of a volume
    uint64_t idle_bits[kChunkRegions / 64]{};    // was all free when NextTrim last looked
    uint32_t ready_regions = 0;
    uint32_t clean = 0;      // READY regions that are all free and not kept
    uint32_t fragments = 0;  // free tracks of other READY regions that are not kept
  };
  struct Area {
    AreaSpace space;
    uint64_t clean = 0;
    uint64_t fragments = 0;
    uint64_t cursor = 0;         // where the next search begins
    uint64_t growth_cursor = 0;  // region: holes before it were tried in vain
  };
  struct Placement {
    uint64_t key = 0;  // 0: none
    uint64_t first = 0;
  };
  static constexpr size_t kPlacements = 256;

  static bool Bit(const uint64_t* bits, uint64_t region) {
    return bits[region / 64] >> (region % 64) & 1;
  }
  static void SetBit(uint64_t* bits, uint64_t region, bool value) {
    const uint64_t bit = uint64_t{1} << (region % 64);
    bits[region / 64] = value ? bits[region / 64] | bit : bits[region / 64] & ~bit;
  }
  std::atomic<Chunk*>& PlaceOf(uint64_t track) const {
    return tables_[AreaOf(track)].load(
        std::memory_order_acquire)[TrackInArea(track) / kChunkTracks];
  }
  void MakeTable(uint32_t area);
  Chunk* ChunkOf(uint64_t track) const { return PlaceOf(track).load(std::memory_order_acquire); }
  Chunk* EnsureChunk(uint64_t track);
  uint64_t ChunksIn(const Area& area) const {
    return (area.space.capacity + kChunkTracks - 1) / kChunkTracks;
  }
  uint16_t FreeBits(const Chunk& chunk, uint64_t first_track) const;
  // Changes one region and keeps every sum right: what it adds up to is taken out before and put in
  // after.
  template <typename Change>
  void Edit(uint64_t track, Change change);
  void Account(uint64_t track, int sign);
  void SetUsed(uint64_t track, bool thick);
  uint64_t AllocatePlaced(const SpaceUse& use);
  uint64_t FindClean(uint32_t area);
  uint64_t FindFragment(uint32_t area);
  void GiveBack(Placement& placement);
  void GiveBackAll(uint32_t area);

  std::array<Area, kMaxAreas> areas_;
  std::array<Placement, kPlacements> placements_;
  // Of each area: one pointer for every chunk that it can have (2 MiB). Made with the area, before
  // a track of it is known to anybody.
  std::array<std::atomic<std::atomic<Chunk*>*>, kMaxAreas> tables_{};
  std::vector<std::unique_ptr<Chunk>> owned_;
};

}  // namespace flashlun
