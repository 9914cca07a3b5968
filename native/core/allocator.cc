#include "core/allocator.h"

#include <algorithm>
#include <bit>
#include <cstdlib>

#include "core/check.h"
#include "core/entry.h"
#include "core/mutation.h"

namespace flashlun {
namespace {

// Fragments (free tracks in regions that are partly used) may be half of what is used, and this
// many more, before they are filled instead of opening new regions: writes that are spread thinly
// over a volume must not allocate sixteen times what they use.
constexpr uint64_t kFragmentsAlways = 4096;

// Chunks of which NextTrim looks at every region in one call: it runs under the state lock.
constexpr int kTrimChunks = 8;

uint64_t FirstOfRegion(uint64_t track) { return track & ~uint64_t{kRegionTracks - 1}; }

}  // namespace

Allocator::Allocator(uint64_t capacity_tracks) {
  FL_CHECK(capacity_tracks <= kMaxAreaTracks);
  MakeTable(0);
  areas_[0].space.capacity = capacity_tracks;
}

Allocator::~Allocator() {
  for (auto& table : tables_) std::free(table.load());
}

void Allocator::MakeTable(uint32_t area) {
  if (tables_[area].load() != nullptr) return;
  // calloc: the pages that are never used cost nothing.
  void* table = std::calloc(kChunksPerArea, sizeof(std::atomic<Chunk*>));
  FL_CHECK(table != nullptr);
  tables_[area].store(static_cast<std::atomic<Chunk*>*>(table), std::memory_order_release);
}

uint64_t Allocator::used() const {
  uint64_t sum = 0;
  for (const Area& area : areas_) sum += area.space.used;
  return sum;
}

uint64_t Allocator::capacity() const {
  uint64_t sum = 0;
  for (const Area& area : areas_) sum += area.space.capacity;
  return sum;
}

void Allocator::SetCapacity(uint32_t area, uint64_t tracks) {
  MakeTable(area);
  Area& a = areas_[area];
  FL_CHECK(tracks >= a.space.capacity && tracks <= kMaxAreaTracks);
  // The last region may have been cut off by the capacity; allocate it again when that is so.
  const uint64_t last = (uint64_t{area} << 32) + FirstOfRegion(a.space.capacity);
  const bool cut = a.space.capacity % kRegionTracks != 0 && ChunkOf(last) != nullptr;
  if (cut) Account(last, -1);
  a.space.capacity = tracks;
  if (cut) Account(last, 1);
}

uint16_t Allocator::FreeBits(const Chunk& chunk, uint64_t first_track) const {
  const uint64_t in_area = TrackInArea(first_track);
  const uint64_t left = areas_[AreaOf(first_track)].space.capacity - in_area;
  const auto valid =
      static_cast<uint16_t>(left >= kRegionTracks ? 0xffff : (uint32_t{1} << left) - 1);
  return static_cast<uint16_t>(valid & ~chunk.used[in_area % kChunkTracks / kRegionTracks]);
}

void Allocator::Account(uint64_t track, int sign) {
  Chunk& chunk = *ChunkOf(track);
  Area& area = areas_[AreaOf(track)];
  const uint64_t first = FirstOfRegion(track);
  const uint64_t region = first % kChunkTracks / kRegionTracks;
  if (!Bit(chunk.ready_bits, region)) return;
  const uint64_t left = area.space.capacity - TrackInArea(first);
  const auto free = static_cast<uint32_t>(std::popcount(FreeBits(chunk, first)));
  const auto add = [sign](auto& sum, uint64_t value) {
    sum = static_cast<std::remove_reference_t<decltype(sum)>>(sign > 0 ? sum + value : sum - value);
  };
  add(area.space.ready, std::min<uint64_t>(kRegionTracks, left));
  add(area.space.ready_free, free);
  add(chunk.ready_regions, 1);
  if (Bit(chunk.placed_bits, region)) return;
  if (free == kRegionTracks) {
    add(chunk.clean, 1);
    add(area.clean, 1);
  } else {
    add(chunk.fragments, free);
    add(area.fragments, free);
  }
}

template <typename Change>
void Allocator::Edit(uint64_t track, Change change) {
  Account(track, -1);
  change(*ChunkOf(track), track % kChunkTracks / kRegionTracks);
  Account(track, 1);
}

Allocator::Chunk* Allocator::EnsureChunk(uint64_t track) {
  std::atomic<Chunk*>& place = PlaceOf(track);
  Chunk* chunk = place.load(std::memory_order_relaxed);
  if (chunk != nullptr) return chunk;
  owned_.push_back(std::make_unique<Chunk>());
  place.store(owned_.back().get(), std::memory_order_release);
  return owned_.back().get();
}

void Allocator::SetUsed(uint64_t track, bool thick) {
  const auto bit = static_cast<uint16_t>(1u << (track % kRegionTracks));
  Edit(track, [&](Chunk& chunk, uint64_t region) {
    FL_CHECK((chunk.used[region] & bit) == 0);
    chunk.used[region] |= bit;
    if (thick) chunk.thick[region] |= bit;
    SetBit(chunk.idle_bits, region, false);
  });
  AreaSpace& space = areas_[AreaOf(track)].space;
  ++space.used;
  if (thick) ++space.thick_used;
}

void Allocator::Free(uint64_t track) {
  const auto bit = static_cast<uint16_t>(1u << (track % kRegionTracks));
  AreaSpace& space = areas_[AreaOf(track)].space;
  const bool bad = (ChunkOf(track)->bad[track % kChunkTracks / kRegionTracks] & bit) != 0;
  Edit(track, [&](Chunk& chunk, uint64_t region) {
    FL_CHECK((chunk.used[region] & bit) != 0);
    if (!bad) chunk.used[region] = static_cast<uint16_t>(chunk.used[region] & ~bit);
    if (chunk.thick[region] & bit) --space.thick_used;
    chunk.thick[region] = static_cast<uint16_t>(chunk.thick[region] & ~bit);
  });
  if (bad) {
    ++space.quarantined;
    return;
  }
  --space.used;
  // A place whose last track went has nothing to keep in order any more.
  const uint64_t first = FirstOfRegion(track);
  const Chunk& chunk = *ChunkOf(track);
  if (FreeBits(chunk, first) != 0xffff ||
      !Bit(chunk.placed_bits, track % kChunkTracks / kRegionTracks))
    return;
  for (Placement& placement : placements_)
    if (placement.key != 0 && placement.first == first) GiveBack(placement);
}

int64_t Allocator::Available(uint32_t area, bool thick) const {
  const AreaSpace& space = areas_[area].space;
  const bool filled = space.claims <= space.thick_used || Mutated(Mutation::kClaimsIgnored);
  const uint64_t unfilled = filled ? 0 : space.claims - space.thick_used;
  const uint64_t kept = thick ? space.promised_thick : std::max(unfilled, space.promised_thick);
  return static_cast<int64_t>(space.ready_free) - static_cast<int64_t>(space.promised_thin + kept);
}

bool Allocator::Promise(uint32_t area, bool thick, uint64_t tracks) {
  if (Available(area, thick) < static_cast<int64_t>(tracks)) return false;
  AreaSpace& space = areas_[area].space;
  (thick ? space.promised_thick : space.promised_thin) += tracks;
  return true;
}

void Allocator::Unpromise(uint32_t area, bool thick, uint64_t tracks) {
  AreaSpace& space = areas_[area].space;
  uint64_t& promised = thick ? space.promised_thick : space.promised_thin;
  FL_CHECK(promised >= tracks);
  promised -= tracks;
}

uint64_t Allocator::Allocate(const SpaceUse& use, bool promised) {
  if (promised)
    Unpromise(use.area, use.thick, 1);
  else if (Available(use.area, use.thick) < 1)
    return kNoTrack;
  Area& area = areas_[use.area];
  const bool may_open = area.fragments <= area.space.used / 2 + kFragmentsAlways;
  uint64_t track = may_open ? AllocatePlaced(use) : kNoTrack;
  if (track == kNoTrack) track = FindFragment(use.area);
  if (track == kNoTrack) track = FindClean(use.area);
  if (track == kNoTrack) {
    // What is left is kept for other places.
    GiveBackAll(use.area);
    track = FindFragment(use.area);
    if (track == kNoTrack) track = FindClean(use.area);
  }
  FL_CHECK(track != kNoTrack);
  SetUsed(track, use.thick);
  ++area.space.allocations;
  ChunkOf(track)->refs[track % kChunkTracks].store(1, std::memory_order_release);
  return track;
}

// The place of a volume's track in the region that is kept for its 1 MiB, opening one when there is
// none, or when the place is taken (it was redirected before).
uint64_t Allocator::AllocatePlaced(const SpaceUse& use) {
  const uint64_t key = (uint64_t{use.volume} << 48 | use.volume_track / kRegionTracks) + 1;
  Placement& placement = placements_[(key * 0x9e3779b97f4a7c15u) >> 56];
  const uint64_t place = use.volume_track % kRegionTracks;
  if (placement.key == key && AreaOf(placement.first) == use.area) {
    const uint64_t track = placement.first + place;
    const Chunk& chunk = *ChunkOf(track);
    if (FreeBits(chunk, placement.first) >> place & 1) return track;
  }
  const uint64_t first = FindClean(use.area);
  if (first == kNoTrack) return kNoTrack;
  GiveBack(placement);
  placement = Placement{key, first};
  Edit(first, [](Chunk& chunk, uint64_t region) {
    SetBit(chunk.placed_bits, region, true);
    SetBit(chunk.idle_bits, region, false);
  });
  return first + place;
}

void Allocator::GiveBack(Placement& placement) {
  if (placement.key == 0) return;
  Edit(placement.first,
       [](Chunk& chunk, uint64_t region) { SetBit(chunk.placed_bits, region, false); });
  placement = Placement{};
}

void Allocator::GiveBackAll(uint32_t area) {
  for (Placement& placement : placements_)
    if (placement.key != 0 && AreaOf(placement.first) == area) GiveBack(placement);
}

// The next region that is READY, all free and not kept: its first track, or kNoTrack. Next-fit, so
// that a sequential writer gets consecutive regions.
uint64_t Allocator::FindClean(uint32_t number) {
  Area& area = areas_[number];
  if (area.clean == 0) return kNoTrack;
  const uint64_t base = uint64_t{number} << 32;
  const uint64_t chunks = ChunksIn(area);
  const uint64_t start = area.cursor / kChunkTracks;
  // One step more than there are chunks: the search begins in the middle of the first.
  for (uint64_t step = 0; step <= chunks; ++step) {
    const uint64_t first = (start + step) % chunks * kChunkTracks;
    const Chunk* chunk = ChunkOf(base + first);
    if (chunk == nullptr || chunk->clean == 0) continue;
    uint64_t region = step == 0 ? area.cursor % kChunkTracks / kRegionTracks : 0;
    for (; region < kChunkRegions; ++region) {
      const uint64_t track = base + first + region * kRegionTracks;
      if (TrackInArea(track) >= area.space.capacity) break;
      if (!Bit(chunk->ready_bits, region) || Bit(chunk->placed_bits, region)) continue;
      if (FreeBits(*chunk, track) != 0xffff) continue;
      area.cursor = (TrackInArea(track) + kRegionTracks) % area.space.capacity;
      return track;
    }
  }
  return kNoTrack;
}

// The next free track of a READY region that is partly used and not kept.
uint64_t Allocator::FindFragment(uint32_t number) {
  Area& area = areas_[number];
  if (area.fragments == 0) return kNoTrack;
  const uint64_t base = uint64_t{number} << 32;
  const uint64_t chunks = ChunksIn(area);
  const uint64_t start = area.cursor / kChunkTracks;
  for (uint64_t step = 0; step <= chunks; ++step) {
    const uint64_t first = (start + step) % chunks * kChunkTracks;
    const Chunk* chunk = ChunkOf(base + first);
    if (chunk == nullptr || chunk->fragments == 0) continue;
    uint64_t region = step == 0 ? area.cursor % kChunkTracks / kRegionTracks : 0;
    for (; region < kChunkRegions; ++region) {
      const uint64_t track = base + first + region * kRegionTracks;
      if (TrackInArea(track) >= area.space.capacity) break;
      if (!Bit(chunk->ready_bits, region) || Bit(chunk->placed_bits, region)) continue;
      const uint16_t free = FreeBits(*chunk, track);
      if (free == 0 || free == 0xffff) continue;
      area.cursor = TrackInArea(track);  // the rest of this region is next
      return track + static_cast<uint64_t>(std::countr_zero(free));
    }
  }
  return kNoTrack;
}

void Allocator::Ref(uint64_t track) {
  const uint16_t before = ChunkOf(track)->refs[track % kChunkTracks].fetch_add(1);
  FL_CHECK(before != 0 && before != UINT16_MAX);
}

bool Allocator::Release(uint64_t track) {
  const uint16_t before = ChunkOf(track)->refs[track % kChunkTracks].fetch_sub(1);
  FL_CHECK(before != 0);
  return before == 1;
}

void Allocator::Quarantine(uint64_t track) {
  uint16_t& bad = ChunkOf(track)->bad[track % kChunkTracks / kRegionTracks];
  bad = static_cast<uint16_t>(bad | 1u << (track % kRegionTracks));
}

bool Allocator::Unref(uint64_t track) {
  if (!Release(track)) return false;
  Free(track);
  return true;
}

void Allocator::FreeIfUnreferenced(uint64_t track) {
  const uint16_t used = ChunkOf(track)->used[track % kChunkTracks / kRegionTracks];
  if (Count(track) == 0 && (used >> (track % kRegionTracks) & 1) != 0) Free(track);
}

bool Allocator::Restore(uint64_t track, bool thick) {
  if (AreaOf(track) >= kMaxAreas || TrackInArea(track) >= space(AreaOf(track)).capacity)
    return false;
  Chunk& chunk = *EnsureChunk(track);
  Edit(track, [](Chunk& of, uint64_t region) { SetBit(of.ready_bits, region, true); });
  if (chunk.refs[track % kChunkTracks].fetch_add(1) == 0) SetUsed(track, thick);
  return true;
}

bool Allocator::NextGrowth(uint32_t number, uint64_t regions, TrackRun* run) {
  Area& area = areas_[number];
  const uint64_t base = uint64_t{number} << 32;
  const auto is_hole = [&](uint64_t first) {
    const Chunk* chunk = ChunkOf(base + first);
    return chunk == nullptr || !Bit(chunk->ready_bits, first % kChunkTracks / kRegionTracks);
  };
  for (int round = 0; round < 2; ++round) {
    uint64_t first = area.growth_cursor * kRegionTracks;
    while (first < area.space.capacity) {
      const Chunk* chunk = ChunkOf(base + first);
      if (first % kChunkTracks == 0 && chunk && chunk->ready_regions == kChunkRegions) {
        first += kChunkTracks;
        continue;
      }
      if (!is_hole(first)) {
        first += kRegionTracks;
        continue;
      }
      uint64_t end = first;
      while (end < area.space.capacity && end - first < regions * kRegionTracks && is_hole(end))
        end += kRegionTracks;
      *run = TrackRun{number, first, end - first};
      area.growth_cursor = end / kRegionTracks;
      return true;
    }
    area.growth_cursor = 0;  // once more from the beginning: trims left holes there
  }
  return false;
}

void Allocator::MakeReady(const TrackRun& run) {
  const uint64_t base = uint64_t{run.area} << 32;
  for (uint64_t first = run.first; first < run.first + run.tracks; first += kRegionTracks) {
    EnsureChunk(base + first);
    Edit(base + first, [](Chunk& chunk, uint64_t region) {
      SetBit(chunk.ready_bits, region, true);
      SetBit(chunk.idle_bits, region, false);
    });
  }
}

bool Allocator::NextTrim(uint32_t number, uint64_t regions, uint64_t keep, TrackRun* run) {
  Area& area = areas_[number];
  const uint64_t base = uint64_t{number} << 32;
  const auto spare = static_cast<int64_t>(keep + kRegionTracks);
  *run = TrackRun{number, 0, 0};
  if (!TrimWanted(number, keep)) return false;
  int looked = 0;
  // From the end: what is at the front stays ready for the next writes.
  for (uint64_t index = ChunksIn(area); index-- != 0;) {
    Chunk* chunk = ChunkOf(base + index * kChunkTracks);
    if (chunk == nullptr || chunk->clean == 0) continue;
    if (looked++ == kTrimChunks) break;
    for (uint64_t region = kChunkRegions; region-- != 0;) {
      const uint64_t first = index * kChunkTracks + region * kRegionTracks;
      if (first >= area.space.capacity || !Bit(chunk->ready_bits, region)) continue;
      if (run->tracks != 0 && first + kRegionTracks != run->first) return true;
      if (Bit(chunk->placed_bits, region) || FreeBits(*chunk, base + first) != 0xffff) continue;
      if (!Bit(chunk->idle_bits, region)) {
        SetBit(chunk->idle_bits, region, true);
        continue;
      }
      if (run->tracks == regions * kRegionTracks || Available(number, false) < spare)
        return run->tracks != 0;
      Edit(base + first, [](Chunk& of, uint64_t which) { SetBit(of.ready_bits, which, false); });
      run->first = first;
      run->tracks += kRegionTracks;
      area.growth_cursor = std::min(area.growth_cursor, first / kRegionTracks);
    }
  }
  return run->tracks != 0;
}

}  // namespace flashlun
