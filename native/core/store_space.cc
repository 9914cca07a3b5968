// Space: promises, growth in steps, trim of freed runs, claims of thick volumes (allocator.h has
// the states and the theorem).
//
//   operation  promise -> I/O -> allocate (cannot fail) -> publish
//   fl-space   keeps a stock of READY regions ahead of the writers: NextGrowth, File::Allocate
//   without
//              the state lock, MakeReady; gives what stays free back: NextTrim, File::Discard
//
// Whoever waits for space waits outside every epoch and without a track lock: the drops that would
// free it wait for epochs.
#include <algorithm>
#include <chrono>

#include "core/check.h"
#include "core/mutation.h"
#include "core/store_impl.h"

namespace flashlun {
namespace {

// A growth step, in regions of 1 MiB: 64 MiB, more when somebody waits for more, less in a small
// pool.
constexpr uint64_t kStepRegions = 64;
constexpr uint64_t kMaxStepRegions = 1024;
// One allocation of it: the file system keeps writers of the file out meanwhile (on tmpfs, which
// clears the pages, 64 MiB at once were seen to hold a write up for 15 ms, 4 MiB for 1).
constexpr uint64_t kAllocationRegions = 4;
// Free READY tracks: below the first the pool grows at once (64 MiB), below the second when writers
// pause (384 MiB), and above the third it trims (512 MiB). The first write to each track after an
// establish takes 64 KiB, and an allocation of the file keeps the writers out: measured on tmpfs, a
// burst of such writes that finds its space prepared runs at the rate of overwrites, and beside a
// growing file at a quarter of that.
constexpr uint64_t kUrgentTracks = 1024;
constexpr uint64_t kStockTracks = 6144;
constexpr uint64_t kKeepReady = 8192;
// Writers pause when they take no more than so many tracks in so long.
constexpr uint64_t kPauseTracks = 32;
constexpr std::chrono::milliseconds kPause{50};
// Runs of holes that one growth step tries when the file system is full: a region that kept its
// space since the last session still works.
constexpr int kHolesPerStep = 16;
// How long after a failed step the next one is tried.
constexpr int64_t kRetryMs = 1000;
// A region must stay free this long, and this is waited between two discards.
constexpr std::chrono::milliseconds kTrimPeriod{1000};
constexpr std::chrono::milliseconds kBetweenTrims{50};
// Commits that a writer waits for, in the hope that drops free what it needs.
constexpr int kReclaims = 2;
// How often a thick volume's writer looks again. Its space is there, or not needed any more, as
// soon as what is pending has ended, so the limit is only there to end.
constexpr int kThickTries = 500;

uint64_t UrgentOf(const AreaSpace& space) { return std::min(kUrgentTracks, space.capacity / 64); }
uint64_t StockOf(const AreaSpace& space) { return std::min(kStockTracks, space.capacity / 24); }
uint64_t KeepOf(const AreaSpace& space) { return std::min(kKeepReady, space.capacity / 16); }

}  // namespace

bool StoreImpl::TryPromise(const VolumeState& volume, uint64_t tracks, SpaceTicket* ticket) {
  auto lock = state_.Acquire();
  if (!map_->allocator().Promise(volume.pool, volume.thick, tracks)) return false;
  ticket->promised += tracks;
  WakeSpaceTask(volume.pool);
  return true;
}

Status StoreImpl::Reserve(const VolumeState& volume, uint64_t tracks, SpaceTicket* ticket) {
  return AwaitSpace(volume.pool, tracks, kReclaims, [&] {
    if (!map_->allocator().Promise(volume.pool, volume.thick, tracks)) return false;
    ticket->promised += tracks;
    return true;
  });
}

// Two volumes that leave a track they shared both ask for a fresh one, and only one of them needs
// it: to the other the track belongs alone, once the drop has been applied. Then there may never be
// a free one.
bool StoreImpl::MayNeedNone(const VolumeState& volume, const Status& refused, int tries) {
  return volume.thick && refused.code() == Code::kNoSpace && tries < kThickTries &&
         !Mutated(Mutation::kThickWaitsOnly);
}

void StoreImpl::EndTicket(const VolumeState& volume, SpaceTicket* ticket) {
  if (ticket->promised == 0) return;
  auto lock = state_.Acquire();
  map_->allocator().Unpromise(volume.pool, volume.thick, ticket->promised);
  ticket->promised = 0;
}

// Until take(), under the state lock, succeeds, or neither growth nor pending drops can help.
Status StoreImpl::AwaitSpace(uint32_t area, uint64_t tracks, int reclaims,
                             const std::function<bool()>& take) {
  auto lock = state_.Acquire();
  // Until it has taken them, what grows for it must not be trimmed: the space task has the lock
  // from the end of a growth step on, and would be back at a trim before we are awake.
  ++growth_[area].waiting;
  Status status = AwaitUnderLock(lock, area, tracks, reclaims, take);
  --growth_[area].waiting;
  if (space_idle_) space_wanted_.NotifyAll();
  return status;
}

Status StoreImpl::AwaitUnderLock(Monitor::Lock& lock, uint32_t area, uint64_t tracks, int reclaims,
                                 const std::function<bool()>& take) {
  for (;;) {
    if (!poisoned_.empty()) return Status(Code::kPoisoned, poisoned_);
    if (space_stopping_) return Status(Code::kClosed, "the pool is closing");
    if (take()) return Status::Ok();
    if (WaitForGrowth(lock, area, tracks)) continue;
    if (reclaims-- == 0) return NoSpace(area);
    lock.unlock();
    ReclaimForSpace();
    lock.lock();
  }
}

// Waits for the end of one growth step. False: there is nothing to grow, or the file system is
// full.
bool StoreImpl::WaitForGrowth(Monitor::Lock& lock, uint32_t area, uint64_t tracks) {
  Growth& growth = growth_[area];
  if (!map_->allocator().HasHoles(area) || GrowthBlocked(growth)) return false;
  growth.demand = std::max(growth.demand, tracks);
  space_wanted_.NotifyAll();
  const uint64_t before = growth.attempts;
  while (growth.attempts == before && !space_stopping_ && poisoned_.empty())
    space_changed_.Wait(lock);
  return growth.error.empty();
}

bool StoreImpl::GrowthBlocked(const Growth& growth) const {
  if (growth.error.empty()) return false;
  const int64_t since = io_.UnixMs() - growth.failed_unix_ms;
  return since >= 0 && since < kRetryMs;
}

Status StoreImpl::NoSpace(uint32_t area) const {
  const AreaSpec& spec = area_specs_.at(area);
  const std::string pool = "pool " + spec.name + " (" + areas_.file(area).path() + ")";
  if (map_->allocator().HasHoles(area) && !growth_[area].error.empty())
    return Status(Code::kNoSpace, pool + " cannot grow: " + growth_[area].error +
                                      "; free space on its file system");
  return Status(Code::kNoSpace,
                pool +
                    " is full; delete volumes or copies, trim, or enlarge it: flashlun pool "
                    "grow " +
                    spec.name + " --size SIZE");
}

Status StoreImpl::ClaimSpace(uint32_t area, uint64_t tracks) {
  bool fits = false;
  for (int round = 0; round <= kReclaims && !fits; ++round) {
    if (round != 0) ReclaimForSpace();
    auto lock = state_.Acquire();
    if (!area_specs_.contains(area)) return NoPool(area);
    const AreaSpace& space = map_->allocator().space(area);
    fits = space.used - space.thick_used + space.claims + tracks <= space.capacity;
    if (!fits && round == kReclaims)
      return Status(Code::kNoSpace, "pool " + area_specs_.at(area).name +
                                        " cannot hold a thick volume of this size beside what is "
                                        "in use and claimed; enlarge it or choose a smaller size");
  }
  return AwaitSpace(area, tracks, kReclaims, [&] {
    if (map_->allocator().Available(area, false) < static_cast<int64_t>(tracks)) return false;
    map_->allocator().AddClaim(area, tracks);
    return true;
  });
}

void StoreImpl::ReleaseClaim(uint32_t area, uint64_t tracks) {
  auto lock = state_.Acquire();
  map_->allocator().RemoveClaim(area, tracks);
}

bool StoreImpl::GrowthUrgent(uint32_t area) const {
  const Allocator& allocator = map_->allocator();
  const uint64_t least = std::max(UrgentOf(allocator.space(area)), growth_[area].demand);
  return allocator.HasHoles(area) && allocator.Available(area, false) < static_cast<int64_t>(least);
}

bool StoreImpl::StockWanted(uint32_t area) const {
  const Allocator& allocator = map_->allocator();
  return allocator.HasHoles(area) &&
         allocator.Available(area, false) < static_cast<int64_t>(StockOf(allocator.space(area)));
}

// Whether they took next to nothing for as long as kPause, and since.
bool StoreImpl::WritersPause(uint32_t area) {
  const Growth& growth = growth_[area];
  const int64_t since = io_.UnixMs() - growth.measured_unix_ms;
  if (map_->allocator().space(area).allocations - growth.allocations > kPauseTracks || since < 0)
    MeasureWriters(area, false);
  else if (since >= kPause.count())
    MeasureWriters(area, true);
  return growth.pause;
}

void StoreImpl::MeasureWriters(uint32_t area, bool pause) {
  growth_[area].allocations = map_->allocator().space(area).allocations;
  growth_[area].measured_unix_ms = io_.UnixMs();
  growth_[area].pause = pause;
}

bool StoreImpl::TrimWanted(uint32_t area) const {
  const Allocator& allocator = map_->allocator();
  const bool waited_for = growth_[area].waiting != 0 && !Mutated(Mutation::kTrimUnderWaiter);
  return !waited_for && allocator.TrimWanted(area, KeepOf(allocator.space(area)));
}

void StoreImpl::WakeSpaceTask(uint32_t area) {
  // Awake it looks at the stock by itself.
  if (GrowthUrgent(area) || (space_idle_ && StockWanted(area))) space_wanted_.NotifyAll();
}

void StoreImpl::StopSpaceTask() {
  {
    auto lock = state_.Acquire();
    space_stopping_ = true;
    space_wanted_.NotifyAll();
    space_changed_.NotifyAll();
  }
  if (space_task_) space_task_->Join();
  space_task_.reset();
}

void StoreImpl::SpaceLoop() {
  auto lock = state_.Acquire();
  std::chrono::milliseconds not_trimmed{0};  // while a burst was waited for
  while (!space_stopping_) {
    bool done = false;
    bool later = false;
    bool blocked = false;
    bool trim_wanted = false;
    for (uint32_t area = 0; area < kMaxAreas && !space_stopping_; ++area) {
      if (map_->allocator().space(area).capacity == 0) continue;
      const SpaceWork work = GrowArea(lock, area);
      done = done || work == SpaceWork::kDone;
      later = later || work == SpaceWork::kLater;
      blocked = blocked || work == SpaceWork::kBlocked;
      trim_wanted = trim_wanted || TrimWanted(area);
    }
    if (done || space_stopping_) continue;
    if (later && (!trim_wanted || not_trimmed < kTrimPeriod)) {
      space_wanted_.WaitFor(lock, kPause);
      not_trimmed += kPause;
    } else if (trim_wanted) {
      const bool trimmed = TrimOnce(lock);
      not_trimmed = std::chrono::milliseconds(0);
      space_wanted_.WaitFor(lock, trimmed || later ? kBetweenTrims : kTrimPeriod);
    } else if (blocked)
      space_wanted_.WaitFor(lock, std::chrono::milliseconds(kRetryMs));
    else
      AwaitSpaceWork(lock);
  }
}

void StoreImpl::AwaitSpaceWork(Monitor::Lock& lock) {
  space_idle_ = true;
  space_wanted_.Wait(lock);
  space_idle_ = false;
  // The first allocation of a burst may have woken us: whether it is one is not known yet.
  for (uint32_t area = 0; area < kMaxAreas; ++area) MeasureWriters(area, false);
}

// Grows for those who wait for space or soon would, or, while writers pause, for the stock.
StoreImpl::SpaceWork StoreImpl::GrowArea(Monitor::Lock& lock, uint32_t area) {
  Growth& growth = growth_[area];
  const bool urgent = GrowthUrgent(area);
  if (!urgent && growth.demand != 0) {
    growth.demand = 0;
    ++growth.attempts;
    space_changed_.NotifyAll();
  }
  if (!urgent && !StockWanted(area)) return SpaceWork::kNone;
  if (GrowthBlocked(growth)) return SpaceWork::kBlocked;
  if (!urgent && !WritersPause(area)) return SpaceWork::kLater;
  return GrowOnce(lock, area, !urgent) ? SpaceWork::kDone : SpaceWork::kNone;
}

// Allocates the run in the file, piece by piece; each is READY as soon as it is there.
Status StoreImpl::AllocateRun(Monitor::Lock& lock, const TrackRun& run) {
  for (uint64_t done = 0; done < run.tracks;) {
    TrackRun piece = run;
    piece.first += done;
    piece.tracks = std::min(run.tracks - done, kAllocationRegions * kRegionTracks);
    lock.unlock();
    Status status = areas_.file(run.area).Allocate(Areas::kTracksOffset + piece.first * kTrackBytes,
                                                   piece.tracks * kTrackBytes);
    lock.lock();
    if (status.ok() || Mutated(Mutation::kGrowthUnchecked)) map_->allocator().MakeReady(piece);
    if (!status.ok()) return status;
    done += piece.tracks;
    if (space_stopping_) break;
  }
  return Status::Ok();
}

// One growth step, for the `stock` a small one: writers may be back. True: the area has more READY
// tracks.
bool StoreImpl::GrowOnce(Monitor::Lock& lock, uint32_t area, bool stock) {
  Allocator& allocator = map_->allocator();
  Growth& growth = growth_[area];
  const uint64_t usual =
      std::clamp<uint64_t>(allocator.space(area).capacity / kRegionTracks / 16, 1, kStepRegions);
  uint64_t regions = std::clamp(growth.demand / kRegionTracks, usual, kMaxStepRegions);
  if (stock) regions = std::min(regions, kAllocationRegions);
  Status status;
  TrackRun run;
  for (int tries = 0; tries < kHolesPerStep && allocator.NextGrowth(area, regions, &run); ++tries) {
    status = AllocateRun(lock, run);
    if (status.code() != Code::kNoSpace) break;
    regions = std::max<uint64_t>(regions / 8, 1);
  }
  growth.error = status.ok() ? "" : status.message();
  growth.failed_unix_ms = status.ok() ? 0 : io_.UnixMs();
  if (!status.ok()) growth.demand = 0;
  ++growth.attempts;
  space_changed_.NotifyAll();
  return status.ok();
}

// One discard. The regions are holes from before it begins, and this task alone makes holes READY
// again: nobody is given space that is being discarded (trap T17).
bool StoreImpl::TrimOnce(Monitor::Lock& lock) {
  for (uint32_t area = 0; area < kMaxAreas; ++area) {
    const AreaSpace& space = map_->allocator().space(area);
    TrackRun run;
    if (space.capacity == 0 || !TrimWanted(area) ||
        !map_->allocator().NextTrim(area, kStepRegions, KeepOf(space), &run))
      continue;
    if (Mutated(Mutation::kTrimRace)) map_->allocator().MakeReady(run);
    lock.unlock();
    // A hint: an error of it loses nothing but the space.
    (void)areas_.file(area).Discard(Areas::kTracksOffset + run.first * kTrackBytes,
                                    run.tracks * kTrackBytes);
    lock.lock();
    counters_.trimmed_tracks += run.tracks;
    return true;
  }
  return false;
}

}  // namespace flashlun
