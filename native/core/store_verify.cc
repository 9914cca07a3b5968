// Scrubbing (seals.h): every mapped track of a volume is read; frozen ones are compared with their
// seals, or get one.
//
// A seal is made under the track lock, for a track that the volume's entry refers to and that is
// not the volume's alone. Then nobody can write to it in place: this volume's writers are kept out
// by the lock, and for any other volume it has more than one owner as long as we are in our epoch.
// Writers that decided before the track was shared have ended: on this volume they held a pin, and
// a target is not readable before its source's have (T22).
//
// Comparing needs no lock: a sealed track is not written before it is free, and it does not become
// free while we are in the epoch in which we looked it up.
#include <algorithm>
#include <bit>
#include <cstdlib>
#include <utility>

#include "core/crc32c.h"
#include "core/mutation.h"
#include "core/store_impl.h"

namespace flashlun {
namespace {}  // namespace

// What one batch works with.
struct StoreImpl::Scrub {
  VerifyBatchResult result;
  std::shared_ptr<VolumeState> volume;
  std::vector<std::shared_ptr<VolumeState>> volumes;
  std::unique_ptr<uint8_t, void (*)(void*)> content{
      static_cast<uint8_t*>(std::aligned_alloc(kDirectAlign, kTrackBytes)), std::free};
};

// A whole track, as far as the page cache lets us: its clean pages are dropped, dirty ones stay.
Status StoreImpl::ReadFromDisk(uint64_t physical, uint8_t* content) {
  const Place place = PlaceOf(physical, 0);
  place.file->Uncache(place.offset, kTrackBytes);
  return place.file->Pread(place.offset, content, kTrackBytes);
}

void StoreImpl::ReportMismatch(const VolumeState& volume, uint64_t track, uint64_t physical,
                               Scrub& scrub) {
  VerifyMismatch mismatch{track, physical, PlaceOf(physical, 0).offset, {}};
  // A track is shared at the same place of every volume.
  for (const auto& other : scrub.volumes) {
    if (other->id == volume.id || track >= other->tracks) continue;
    const Entry entry = map_->FindEntry(*other, track);
    if (entry.own == physical || entry.base == physical) mismatch.shared.push_back(other->id);
  }
  scrub.result.mismatched.push_back(std::move(mismatch));
  auto lock = state_.Acquire();
  ++counters_.verify_mismatches;
}

StoreImpl::Seen StoreImpl::CompareSealed(VolumeState& volume, uint64_t track, uint64_t physical,
                                         Scrub& scrub) {
  uint8_t* content = scrub.content.get();
  const uint32_t seal = map_->SealOf(physical);
  Status status = ReadFromDisk(physical, content);
  scrub.result.read_bytes += kTrackBytes;
  if (!status.ok()) {
    scrub.result.io_errors.push_back({track, status.message()});
    return Seen::kUnreadable;
  }
  if (Seals::Stored(Crc32c(0, content, kTrackBytes)) == seal) return Seen::kVerified;
  ReportMismatch(volume, track, physical, scrub);
  return Seen::kMismatched;
}

// The track looked frozen. Again, now that it can be held still.
StoreImpl::Seen StoreImpl::TrySeal(VolumeState& volume, uint64_t track, uint64_t physical,
                                   Scrub& scrub) {
  // A write to a sealed track takes a fresh one, for which a thick volume has no claim
  // (allocator.h, theorem).
  if (volume.thick) return Seen::kReadOnly;
  const uint64_t key = TrackLocks::Key(volume.id, track);
  if (!Mutated(Mutation::kSealWithoutLock)) track_locks_.LockExclusive(key);
  const Map::Found found = map_->Find(volume, track);
  const bool own = found.entry.own == physical && found.entry.full() && !found.sole;
  Seen seen = Seen::kReadOnly;
  if ((own || found.entry.base == physical) && map_->SealOf(physical) == 0) {
    Status status = ReadFromDisk(physical, scrub.content.get());
    scrub.result.read_bytes += kTrackBytes;
    seen = status.ok() ? Seen::kSealed : Seen::kUnreadable;
    if (status.ok()) {
      const uint32_t crc = Crc32c(0, scrub.content.get(), kTrackBytes);
      auto lock = state_.Acquire();
      map_->Seal(physical, crc);
      unsaved_seals_ = true;
    } else {
      scrub.result.io_errors.push_back({track, status.message()});
    }
  }
  if (!Mutated(Mutation::kSealWithoutLock)) track_locks_.UnlockExclusive(key);
  return seen;
}

// One of the physical tracks that the entry reads from.
StoreImpl::Seen StoreImpl::ScrubPhysical(VolumeState& volume, uint64_t track,
                                         const Map::Found& found, uint64_t physical, Scrub& scrub) {
  if (map_->SealOf(physical) != 0) return CompareSealed(volume, track, physical, scrub);
  // A base was a full track when it became one.
  const bool base = physical == found.entry.base;
  if (base || (found.entry.full() && !found.sole))
    if (const Seen seen = TrySeal(volume, track, physical, scrub); seen != Seen::kReadOnly)
      return seen;
  if (base) return Seen::kReadOnly;  // a host's write took it from the entry meanwhile
  // What hosts may write: nothing to compare with, but the disk must give it.
  Entry own = found.entry;
  own.base = kNoTrack;
  const Place place = PlaceOf(physical, 0);
  place.file->Uncache(place.offset, kTrackBytes);
  const Status status = ReadEntry(own, 0, scrub.content.get(), kTrackBytes, ReadMode::kBlocking);
  scrub.result.read_bytes += static_cast<uint64_t>(std::popcount(own.mask)) * kSubBytes;
  if (status.ok()) return Seen::kReadOnly;
  scrub.result.io_errors.push_back({track, status.message()});
  return Seen::kUnreadable;
}

// In an epoch.
void StoreImpl::ScrubTrack(VolumeState& volume, uint64_t track, Scrub& scrub) {
  const Map::Found found = map_->Find(volume, track);
  Seen seen = Seen::kVerified;
  for (const uint64_t physical : {found.entry.own, found.entry.base})
    if (physical != kNoTrack)
      seen = std::max(seen, ScrubPhysical(volume, track, found, physical, scrub));
  scrub.result.verified += seen == Seen::kVerified ? 1 : 0;
  scrub.result.read_only += seen == Seen::kReadOnly ? 1 : 0;
  scrub.result.sealed += seen == Seen::kSealed ? 1 : 0;
}

Status StoreImpl::BeginScrub(uint16_t volume_id, Scrub& scrub) {
  auto lock = state_.Acquire();
  if (!poisoned_.empty()) return Status(Code::kPoisoned, poisoned_);
  const auto it = volumes_.find(volume_id);
  if (it == volumes_.end())
    return Status(Code::kNotFound, "volume " + VolumeIdText(volume_id) + " does not exist");
  scrub.volume = it->second;
  for (const auto& [id, volume] : volumes_) scrub.volumes.push_back(volume);
  return Status::Ok();
}

// Only a checkpoint keeps them over a crash.
void StoreImpl::SaveSeals() {
  auto lock = state_.Acquire();
  if (!std::exchange(unsaved_seals_, false)) return;
  checkpoint_wanted_flag_ = true;
  checkpoint_wanted_.NotifyAll();
}

Result<VerifyBatchResult> StoreImpl::VerifyBatch(uint16_t volume_id, uint64_t first_track,
                                                 uint32_t max_tracks) {
  Scrub scrub;
  if (Status status = BeginScrub(volume_id, scrub); !status.ok()) return status;
  OpSlot* slot = epochs_.AcquireSlot();
  if (slot == nullptr)
    return Status(Code::kLimit, "too many threads do volume I/O at once; try again");
  VolumeState& volume = *scrub.volume;
  VerifyBatchResult& result = scrub.result;
  result.next_track = first_track;
  for (uint32_t tracks = 0; tracks < max_tracks && !result.done;) {
    // One epoch a track: a scrub must not hold up an establish.
    Enter(*slot, volume, false);
    while ((result.next_track = map_->SkipUnmapped(volume, result.next_track)) < volume.tracks &&
           !map_->FindEntry(volume, result.next_track).mapped())
      ++result.next_track;
    result.done = result.next_track >= volume.tracks;
    if (!result.done) {
      ScrubTrack(volume, result.next_track, scrub);
      ++result.next_track;
      ++tracks;
    }
    Leave(*slot);
  }
  epochs_.ReleaseSlot(slot);
  if (result.done) SaveSeals();
  return std::move(scrub.result);
}

// What a background copy reads: rot must not be copied on as if it were the data.
Status StoreImpl::CheckSeal(const VolumeState& volume, uint64_t track, uint64_t physical,
                            const uint8_t* content) {
  if (Seals::Stored(Crc32c(0, content, kTrackBytes)) == map_->SealOf(physical)) return Status::Ok();
  {
    auto lock = state_.Acquire();
    ++counters_.verify_mismatches;
  }
  const Place place = PlaceOf(physical, 0);
  return Status(Code::kCorrupt,
                place.file->path() + ": damaged: track " + std::to_string(track) + " of volume " +
                    VolumeIdText(volume.id) + ", at byte " + std::to_string(place.offset) +
                    ", does not match its checksum; the copy stopped there: restore what the "
                    "volume holds at byte " +
                    std::to_string(track * kTrackBytes) + " or withdraw the relationship");
}

Status StoreImpl::ReadVerified(const VolumeState& volume, uint64_t track, const Entry& entry,
                               uint8_t* content) {
  for (const uint64_t physical : {entry.own, entry.base}) {
    if (physical == kNoTrack || map_->SealOf(physical) == 0) continue;
    Status status = ReadTrack(physical, 0, content, kTrackBytes, ReadMode::kBlocking);
    if (status.ok()) status = CheckSeal(volume, track, physical, content);
    if (!status.ok() || entry.full()) return status;
  }
  return ReadEntry(entry, 0, content, kTrackBytes, ReadMode::kBlocking);
}

// What a background copy writes: compared with its seals on the way.
Status StoreImpl::CopyContent(VolumeState& target, uint64_t track, const Entry& from,
                              SpaceTicket* ticket, bool* bad) {
  alignas(kSubBytes) uint8_t content[kTrackBytes];
  const uint64_t fresh = AllocateTrack(target, track, ticket);
  if (fresh == kNoTrack) return Status(Code::kNoSpace);
  *bad = false;
  Status status = ReadVerified(target, track, from, content);
  if (status.ok()) status = WriteFresh(fresh, 0, content, kTrackBytes, bad);
  if (status.ok()) status = Publish(target, track, Entry::Full(fresh), true);
  if (!status.ok()) FreeReserved(fresh, *bad);
  return status;
}

}  // namespace flashlun
