// The read and write paths (track-store.md 3.4).
//
//   read             entry -> pieces of own, zero, base
//   A  in place      exclusive, every touched sub-block is own: pin, pwrite; no record. Past the
//   page cache only whole sub-blocks: two writers of one block would read, merge and write the same
//   4 KiB, and one of them would lose; so ragged ends are merged under the track lock, as in B
//   B  extend        exclusive, partial: pwrite into the same track; publish the larger mask
//   C  redirect      shared or unmapped: fresh track, only the written sub-blocks; publish {own,
//   mask, base = old} C' collapse      shared and partial: as C, and the old track's own sub-blocks
//   are copied along (depth stays 1) zero             masks only; a whole track is un-mapped
//
// B, C and zero hold the track lock from the decision to the publication. A publication comes
// strictly after its data write completed, and its record is in the kill ring before the state lock
// is released, hence before any reply.
#include <algorithm>
#include <cstring>

#include "core/check.h"
#include "core/mutation.h"
#include "core/store_impl.h"

namespace flashlun {
namespace {

// T0 content stays on shared tracks as long as the entry still reads from one the target inherited.
bool StillInherited(const Entry& old, bool old_inherited, const Entry& next) {
  if (!old_inherited || !next.mapped()) return false;
  return next.base != kNoTrack || (next.own == old.own && old.base == kNoTrack);
}

// RAII for the track lock.
class ExclusiveTrack {
 public:
  ExclusiveTrack(TrackLocks& locks, const VolumeState& volume, uint64_t track)
      : locks_(locks), key_(TrackLocks::Key(volume.id, track)) {
    locks_.LockExclusive(key_);
  }
  // Takes over the caller's pin. What was found under it has to be looked up again.
  ExclusiveTrack(TrackLocks& locks, uint64_t pinned_key) : locks_(locks), key_(pinned_key) {
    if (locks_.TryUpgrade(key_)) return;
    locks_.Unpin(key_);
    locks_.LockExclusive(key_);
  }
  ~ExclusiveTrack() { locks_.UnlockExclusive(key_); }
  ExclusiveTrack(const ExclusiveTrack&) = delete;
  ExclusiveTrack& operator=(const ExclusiveTrack&) = delete;

 private:
  TrackLocks& locks_;
  const uint64_t key_;
};

size_t PieceLength(uint32_t within, uint64_t left) {
  return static_cast<size_t>(std::min<uint64_t>(left, kTrackBytes - within));
}

}  // namespace

void StoreImpl::Enter(OpSlot& slot, const VolumeState& volume, bool write) {
  for (;;) {
    epochs_.Enter(slot, &volume);
    // After the slot's store (both seq_cst): either this load sees a closed gate, or the closer's
    // scan sees the slot.
    const Gate gate = volume.gate.load(std::memory_order_seq_cst);
    if (gate == Gate::kOpen || (gate == Gate::kNoWrites && !write)) [[likely]]
      return;
    epochs_.Leave(slot);
    auto lock = state_.Acquire();
    for (;;) {
      const Gate now = volume.gate.load();
      if (now == Gate::kOpen || (now == Gate::kNoWrites && !write)) break;
      gates_changed_.Wait(lock);
    }
  }
}

Status StoreImpl::Read(OpSlot& slot, VolumeState& volume, uint64_t offset, void* buf, size_t len,
                       ReadMode mode) {
  FL_CHECK(offset + len <= volume.size_bytes);
  auto* out = static_cast<uint8_t*>(buf);
  Enter(slot, volume, false);
  Status status;
  for (size_t left = len; left != 0 && status.ok();) {
    const auto within = static_cast<uint32_t>(offset % kTrackBytes);
    const size_t piece = PieceLength(within, left);
    status = ReadEntry(map_->FindEntry(volume, offset / kTrackBytes), within, out, piece, mode);
    out += piece;
    offset += piece;
    left -= piece;
  }
  Leave(slot);
  if (status.code() == Code::kWouldBlock) return status;
  IoCounters& counters = CountersOf(slot, volume);
  counters.read_ops.fetch_add(1, std::memory_order_relaxed);
  counters.read_bytes.fetch_add(len, std::memory_order_relaxed);
  if (!status.ok()) counters.error_ops.fetch_add(1, std::memory_order_relaxed);
  return status;
}

Status StoreImpl::ReadEntry(const Entry& entry, uint32_t within, uint8_t* buf, size_t len,
                            ReadMode mode) {
  if (entry.full()) [[likely]]
    return ReadTrack(entry.own, within, buf, len, mode);
  while (len != 0) {
    const SubRun run = RunAt(entry, within, len);
    Status status;
    if (run.source == SubSource::kZero)
      std::memset(buf, 0, run.bytes);
    else
      status = ReadTrack(run.source == SubSource::kOwn ? entry.own : entry.base, within, buf,
                         run.bytes, mode);
    if (!status.ok()) return status;
    buf += run.bytes;
    within += static_cast<uint32_t>(run.bytes);
    len -= run.bytes;
  }
  return Status::Ok();
}

Status StoreImpl::Write(OpSlot& slot, VolumeState& volume, uint64_t offset, const void* buf,
                        size_t len) {
  FL_CHECK(offset + len <= volume.size_bytes);
  if (len == 0) return Status::Ok();
  SpaceTicket ticket;
  const auto* data = static_cast<const uint8_t*>(buf);
  const bool one_track = offset / kTrackBytes == (offset + len - 1) / kTrackBytes;
  Status status = one_track ? WriteOne(slot, volume, offset, data, len, &ticket)
                            : WriteMany(slot, volume, offset, data, len, &ticket);
  if (ticket.promised != 0) EndTicket(volume, &ticket);
  IoCounters& counters = CountersOf(slot, volume);
  if (ticket.redirected != 0)
    counters.redirected.fetch_add(ticket.redirected, std::memory_order_relaxed);
  counters.write_ops.fetch_add(1, std::memory_order_relaxed);
  counters.write_bytes.fetch_add(len, std::memory_order_relaxed);
  if (!status.ok()) counters.error_ops.fetch_add(1, std::memory_order_relaxed);
  return status;
}

// A piece of one track. It allocates before it writes, so a refusal has changed nothing.
Status StoreImpl::WriteOne(OpSlot& slot, VolumeState& volume, uint64_t offset, const uint8_t* data,
                           size_t len, SpaceTicket* ticket) {
  const auto within = static_cast<uint32_t>(offset % kTrackBytes);
  Pace();
  return WithTrack(volume, ticket, [&] {
    Enter(slot, volume, true);
    Throttle();
    Status status = WritePiece(volume, offset / kTrackBytes, within, data, len, ticket);
    Leave(slot);
    return status;
  });
}

// A write over several tracks that runs out of space has changed none of them (trap T18): either it
// needs no space, or all it could need is promised before its first I/O.
Status StoreImpl::WriteMany(OpSlot& slot, VolumeState& volume, uint64_t offset, const uint8_t* data,
                            size_t len, SpaceTicket* ticket) {
  Status status;
  Pace();
  Enter(slot, volume, true);
  const bool in_place = WriteAllInPlace(volume, offset, data, len, &status);
  Leave(slot);
  if (in_place) return status;
  // One fresh track for every touched track is the most it can take.
  const uint64_t most = (offset + len - 1) / kTrackBytes - offset / kTrackBytes + 1;
  for (int tries = 0; !TryPromise(volume, most, ticket); ++tries) {
    if (WriteExactly(slot, volume, offset, data, len, ticket, &status)) return status;
    Status space = Reserve(volume, most, ticket);
    if (space.ok()) break;
    if (WriteExactly(slot, volume, offset, data, len, ticket, &status)) return status;
    if (!MayNeedNone(volume, space, tries)) return space;
  }
  Enter(slot, volume, true);
  while (len != 0 && status.ok()) {
    const auto within = static_cast<uint32_t>(offset % kTrackBytes);
    const size_t piece = PieceLength(within, len);
    Throttle();
    status = WritePiece(volume, offset / kTrackBytes, within, data, piece, ticket);
    data += piece;
    offset += piece;
    len -= piece;
  }
  Leave(slot);
  return status;
}

Status StoreImpl::ReadTrack(uint64_t track, uint32_t within, void* buf, size_t len, ReadMode mode) {
  const Place place = PlaceOf(track, within);
  return mode == ReadMode::kNoWait ? place.file->PreadNoWait(place.offset, buf, len)
                                   : place.file->Pread(place.offset, buf, len);
}

// Path A for all tracks of a write, or nothing. The pins are taken in ascending order, and whoever
// holds a track lock alone never waits for a second one: no deadlock. What was exclusive at the
// decision may become shared by an establish meanwhile; like every write in flight at T0 this one
// then ends before the target is readable.
bool StoreImpl::WriteAllInPlace(VolumeState& volume, uint64_t offset, const uint8_t* data,
                                size_t len, Status* status) {
  const uint64_t first = offset / kTrackBytes;
  const uint64_t end = (offset + len - 1) / kTrackBytes + 1;
  // Most writes that cannot be done in place show it at their first track: no pins for them.
  if (!map_->Find(volume, first).exclusive) return false;
  std::vector<uint64_t> places;
  places.reserve(end - first);
  uint64_t pinned = first;
  bool in_place = true;
  uint64_t at = offset;
  size_t left = len;
  while (in_place && pinned < end) {
    track_locks_.Pin(TrackLocks::Key(volume.id, pinned));
    const Map::Found found = map_->Find(volume, pinned++);
    const auto within = static_cast<uint32_t>(at % kTrackBytes);
    const size_t piece = PieceLength(within, left);
    in_place = found.exclusive && InPlace(within, piece) &&
               (TouchedSubs(within, piece) & ~found.entry.mask) == 0;
    places.push_back(found.entry.own);
    at += piece;
    left -= piece;
  }
  for (size_t i = 0; in_place && len != 0 && status->ok(); ++i) {
    const auto within = static_cast<uint32_t>(offset % kTrackBytes);
    const size_t piece = PieceLength(within, len);
    *status = WriteTrack(places[i], within, data, piece);
    data += piece;
    offset += piece;
    len -= piece;
  }
  for (uint64_t track = first; track < pinned; ++track)
    track_locks_.Unpin(TrackLocks::Key(volume.id, track));
  return in_place;
}

// The same with as much space as it needs and no more, for when the pool is nearly full: decides
// for all tracks under their locks, taken in ascending order. False: there is not enough space, and
// nothing has changed.
bool StoreImpl::WriteExactly(OpSlot& slot, VolumeState& volume, uint64_t offset,
                             const uint8_t* data, size_t len, SpaceTicket* ticket, Status* status) {
  const uint64_t first = offset / kTrackBytes;
  const uint64_t end = (offset + len - 1) / kTrackBytes + 1;
  Enter(slot, volume, true);
  std::vector<Map::Found> found;
  uint64_t fresh = 0;
  for (uint64_t track = first; track < end; ++track) {
    track_locks_.LockExclusive(TrackLocks::Key(volume.id, track));
    found.push_back(map_->Find(volume, track));
    fresh += found.back().exclusive ? 0 : 1;
  }
  const bool enough = fresh == 0 || TryPromise(volume, fresh, ticket);
  for (uint64_t track = first; enough && track < end && status->ok(); ++track) {
    const auto within = static_cast<uint32_t>(offset % kTrackBytes);
    const size_t piece = PieceLength(within, len);
    Throttle();  // commits and checkpoints wait for no track lock
    *status = WriteDecided(volume, track, found[track - first], within, data, piece, ticket);
    data += piece;
    offset += piece;
    len -= piece;
  }
  for (uint64_t track = first; track < end; ++track)
    track_locks_.UnlockExclusive(TrackLocks::Key(volume.id, track));
  Leave(slot);
  return enough;
}

Status StoreImpl::WriteTrack(uint64_t track, uint32_t within, const void* data, size_t len) {
  if (is_poisoned_.load(std::memory_order_relaxed)) [[unlikely]]
    return PoisonedStatus();
  const Place place = PlaceOf(track, within);
  Status status = place.file->Pwrite(place.offset, data, len);
  areas_.MarkDirty(track);
  if (write_out_) write_out_->Wrote(len);
  return status;
}

Status StoreImpl::WritePiece(VolumeState& volume, uint64_t track, uint32_t within,
                             const uint8_t* data, size_t len, SpaceTicket* ticket) {
  const uint64_t key = TrackLocks::Key(volume.id, track);
  const uint16_t touched = TouchedSubs(within, len);
  track_locks_.Pin(key);
  const Map::Found found = map_->Find(volume, track);
  if (found.exclusive && (touched & ~found.entry.mask) == 0 && InPlace(within, len)) {
    Status status = WriteTrack(found.entry.own, within, data, len);  // path A
    track_locks_.Unpin(key);
    return status;
  }
  if (Mutated(Mutation::kMergeWithoutLock) && (within | len) % kSubBytes != 0) {
    track_locks_.Unpin(key);
    return WriteDecided(volume, track, map_->Find(volume, track), within, data, len, ticket);
  }
  const ExclusiveTrack exclusive(track_locks_, key);
  return WriteDecided(volume, track, map_->Find(volume, track), within, data, len, ticket);
}

// With the track lock held. Not inlined: its 64 KiB buffer belongs on the stack of the slow path
// only.
__attribute__((noinline)) Status StoreImpl::WriteDecided(VolumeState& volume, uint64_t track,
                                                         const Map::Found& found, uint32_t within,
                                                         const uint8_t* data, size_t len,
                                                         SpaceTicket* ticket) {
  uint16_t touched = TouchedSubs(within, len);
  const bool own = found.exclusive && (touched & ~found.entry.mask) == 0;
  if (own && InPlace(within, len)) return WriteTrack(found.entry.own, within, data, len);

  // Whole sub-blocks from here on: the ragged ends are completed with what is there now.
  alignas(kSubBytes) uint8_t merged[kTrackBytes];
  uint32_t begin = within & ~(kSubBytes - 1);
  auto end = static_cast<uint32_t>((within + len + kSubBytes - 1) & ~size_t{kSubBytes - 1});
  if (volume.thick && !found.exclusive && found.entry.mapped() &&
      !Mutated(Mutation::kThickPartial)) {
    // A thick volume's tracks never have a base, which would hold a second track: the whole content
    // comes along (allocator.h, theorem).
    begin = 0;
    end = kTrackBytes;
    touched = kFullMask;
  }
  if (begin != within || end != within + len) {
    Status status = ReadEntry(found.entry, begin, merged, end - begin, ReadMode::kBlocking);
    if (!status.ok()) return status;
    std::memcpy(merged + (within - begin), data, len);
    data = merged;
  }
  if (own) return WriteTrack(found.entry.own, begin, data, end - begin);
  if (!found.exclusive) {
    if (found.entry.mapped()) ++ticket->redirected;
    return Redirect(volume, track, found, touched, begin, data, end - begin, ticket);
  }
  Entry next = found.entry;  // path B
  next.mask = static_cast<uint16_t>(next.mask | touched);
  next = Normalized(next);
  if (Mutated(Mutation::kEarlyPublish)) (void)Publish(volume, track, next, false);
  Status status = WriteTrack(found.entry.own, begin, data, end - begin);
  if (status.code() == Code::kIo) {
    // Trap T13: what the track has is good, but it takes no more. All of it moves.
    Quarantine(found.entry.own);
    Status moved = Redirect(volume, track, found, touched, begin, data, end - begin, ticket);
    return moved.code() == Code::kNoSpace ? std::move(status) : std::move(moved);
  }
  if (!status.ok() || Mutated(Mutation::kEarlyPublish)) return status;
  return Publish(volume, track, next, false);
}

// Trap T13: when the disk does not take a fresh track, nothing was published; one other is tried.
Status StoreImpl::Redirect(VolumeState& volume, uint64_t track, const Map::Found& found,
                           uint16_t touched, uint32_t within, const uint8_t* data, size_t len,
                           SpaceTicket* ticket) {
  bool bad = false;
  Status status = RedirectOnce(volume, track, found, touched, within, data, len, ticket, &bad);
  if (!bad) [[likely]]
    return status;
  Status other = RedirectOnce(volume, track, found, touched, within, data, len, ticket, &bad);
  return other.code() == Code::kNoSpace ? std::move(status) : std::move(other);
}

Status StoreImpl::RedirectOnce(VolumeState& volume, uint64_t track, const Map::Found& found,
                               uint16_t touched, uint32_t within, const uint8_t* data, size_t len,
                               SpaceTicket* ticket, bool* bad) {
  const Entry& old = found.entry;
  const uint64_t fresh = AllocateTrack(volume, track, ticket);
  if (fresh == kNoTrack && Mutated(Mutation::kNoSpaceHalfDone))
    (void)Publish(volume, track, Entry{}, false);
  if (fresh == kNoTrack) return Status(Code::kNoSpace);  // Reserve finds out why
  Entry next;
  next.own = fresh;
  next.mask = touched;
  uint16_t carried = 0;
  if (old.full()) {
    next.base = old.own;
  } else if (old.mapped() && touched != kFullMask) {
    carried = static_cast<uint16_t>(old.mask & ~touched);
    next.mask = static_cast<uint16_t>(next.mask | carried);
    next.base = old.base;
    next.zmask = old.zmask;
  }
  if (Mutated(Mutation::kNoMask) && !old.mapped()) next.mask = kFullMask;
  next = Normalized(next);
  if (Mutated(Mutation::kEarlyPublish)) {
    (void)Publish(volume, track, next, false);
    return WriteTrack(fresh, within, data, len);
  }
  *bad = false;
  Status status = carried == 0 ? Status::Ok() : CarryOver(old, carried, fresh, bad);
  if (status.ok()) status = WriteFresh(fresh, within, data, len, bad);
  if (status.ok()) status = Publish(volume, track, next, false);
  if (!status.ok()) FreeReserved(fresh, *bad);  // nothing was published: nothing has changed
  return status;
}

Status StoreImpl::WriteFresh(uint64_t track, uint32_t within, const void* data, size_t len,
                             bool* bad) {
  Status status = WriteTrack(track, within, data, len);
  *bad = status.code() == Code::kIo;
  return status;
}

// Copies sub-blocks out of a shared partial track. Nobody writes them meanwhile: in-place writes of
// this volume are kept out by the track lock, those of the volume it is shared with ended before
// that volume's target became readable (T2).
Status StoreImpl::CarryOver(const Entry& from, uint16_t subs, uint64_t to_track, bool* bad) {
  alignas(kSubBytes) uint8_t block[kSubBytes];
  for (uint32_t sub = 0; sub < kSubsPerTrack; ++sub) {
    if (!(subs >> sub & 1)) continue;
    Status status = ReadTrack(from.own, sub * kSubBytes, block, kSubBytes, ReadMode::kBlocking);
    if (status.ok()) status = WriteFresh(to_track, sub * kSubBytes, block, kSubBytes, bad);
    if (!status.ok()) return status;
  }
  return Status::Ok();
}

// Fails only without a promise.
uint64_t StoreImpl::AllocateTrack(const VolumeState& volume, uint64_t track, SpaceTicket* ticket) {
  auto lock = state_.Acquire();
  const bool promised = ticket->promised != 0;
  if (promised) --ticket->promised;
  const uint64_t fresh =
      map_->allocator().Allocate({volume.pool, volume.thick, volume.id, track}, promised);
  WakeSpaceTask(volume.pool);
  if (fresh != kNoTrack) map_->Unseal(fresh);
  return fresh;
}

void StoreImpl::FreeReserved(uint64_t track, bool bad) {
  if (bad) Quarantine(track);
  // At once: a reserved track was never in the map, so no record and no reader knows it.
  auto lock = state_.Acquire();
  map_->allocator().Unref(track);
}

void StoreImpl::Quarantine(uint64_t track) {
  if (Mutated(Mutation::kBadTrackReused)) return;
  auto lock = state_.Acquire();
  map_->allocator().Quarantine(track);
}

Status StoreImpl::Publish(VolumeState& volume, uint64_t track, Entry next, bool copied) {
  NodeCopies ahead;
  map_->CopyAhead(volume, track, &ahead);
  Status status = PublishUnderLock(volume, track, next, copied, &ahead);
  map_->GiveBack(&ahead);
  return status;
}

Status StoreImpl::PublishUnderLock(VolumeState& volume, uint64_t track, Entry next, bool copied,
                                   NodeCopies* ahead) {
  // The record and the map change under one lock: replay in LSN order then gives the same map. The
  // inherited flag is decided here too, because another track's publication may at any time move it
  // from the leaf's bit to the entries.
  auto lock = state_.Acquire();
  if (volume.deleted) return Status(Code::kNotFound, "the volume was deleted meanwhile");
  const Entry old = map_->FindEntry(volume, track);
  next.inherited = !copied && StillInherited(old, map_->Inherited(volume, track), next);
  const MapRecord record = MakeMapRecord(volume.id, track, next);
  const uint64_t lsn = AppendRecord(&record, sizeof record);
  map_->SetEntry(volume, track, next, lsn, ahead);
  return Status::Ok();
}

Status StoreImpl::ZeroPiece(VolumeState& volume, uint64_t track, uint16_t subs) {
  if (!map_->FindEntry(volume, track).mapped()) return Status::Ok();
  if (is_poisoned_.load(std::memory_order_relaxed)) return PoisonedStatus();
  const ExclusiveTrack exclusive(track_locks_, volume, track);
  Entry old;
  bool inherited;
  {
    // Only the inherited flag can change under the track lock; the state lock keeps it still.
    auto lock = state_.Acquire();
    old = map_->FindEntry(volume, track);
    inherited = map_->Inherited(volume, track);
  }
  if (!old.mapped()) return Status::Ok();
  old.inherited = false;
  Entry next = old;
  next.mask = static_cast<uint16_t>(next.mask & ~subs);
  if (!Mutated(Mutation::kZeroFallsThrough)) next.zmask = static_cast<uint16_t>(next.zmask | subs);
  const bool nothing_of_base = (next.mask | next.zmask) == kFullMask;
  // An inherited entry keeps its base, which tells the background copy that there is something to
  // copy.
  if (next.base != kNoTrack && nothing_of_base && (!inherited || next.mask == 0))
    next.base = kNoTrack;
  if (next.base == kNoTrack) next.zmask = 0;
  next = Normalized(next);
  if (next != old && Mutated(Mutation::kTrimNotRecorded)) {
    auto lock = state_.Acquire();
    map_->SetEntry(volume, track, next, last_lsn_);
    return Status::Ok();
  }
  return next == old ? Status::Ok() : Publish(volume, track, next, false);
}

Status StoreImpl::ZeroRange(OpSlot& slot, VolumeState& volume, uint64_t offset, uint64_t len,
                            bool ragged_ends, SpaceTicket* ticket) {
  const uint64_t end = offset + len;
  const uint64_t first_whole =
      (offset + (Mutated(Mutation::kTrimRagged) ? 0 : kSubBytes - 1)) & ~uint64_t{kSubBytes - 1};
  const uint64_t last_whole = end & ~uint64_t{kSubBytes - 1};
  if (first_whole >= last_whole)
    return ragged_ends ? WriteZeroBytes(slot, volume, offset, len, ticket) : Status::Ok();
  Status status;
  if (ragged_ends) {
    // The space of both ends before the first changes. What is between them needs none.
    const uint64_t head = first_whole - offset;
    const uint64_t fresh = SpaceNeeded(slot, volume, offset, head) +
                           SpaceNeeded(slot, volume, last_whole, end - last_whole);
    if (fresh > 1 && !volume.thick) status = Reserve(volume, fresh, ticket);
    if (status.ok()) status = WriteZeroBytes(slot, volume, offset, head, ticket);
    if (status.ok()) status = WriteZeroBytes(slot, volume, last_whole, end - last_whole, ticket);
  }
  for (uint64_t at = first_whole; at < last_whole && status.ok();) {
    // One epoch a track: a trim of terabytes must not hold up an establish.
    Enter(slot, volume, true);
    const uint64_t track = map_->SkipUnmapped(volume, at / kTrackBytes);
    at = std::max(at, track * kTrackBytes);
    if (at < last_whole) {
      const auto within = static_cast<uint32_t>(at % kTrackBytes);
      const size_t piece = PieceLength(within, last_whole - at);
      Throttle();
      status = ZeroPiece(volume, track, TouchedSubs(within, piece));
      at += piece;
    }
    Leave(slot);
  }
  return status;
}

// Tracks of the range that a write would need a fresh track for.
uint64_t StoreImpl::SpaceNeeded(OpSlot& slot, VolumeState& volume, uint64_t offset, uint64_t len) {
  uint64_t fresh = 0;
  if (len == 0) return fresh;
  for (uint64_t track = offset / kTrackBytes; track <= (offset + len - 1) / kTrackBytes; ++track) {
    Enter(slot, volume, true);
    fresh += map_->Find(volume, track).exclusive ? 0 : 1;
    Leave(slot);
  }
  return fresh;
}

Status StoreImpl::WriteZeroBytes(OpSlot& slot, VolumeState& volume, uint64_t offset, uint64_t len,
                                 SpaceTicket* ticket) {
  alignas(kSubBytes) static const uint8_t kZeroes[kTrackBytes] = {};
  Status status;
  while (len != 0 && status.ok()) {
    const size_t piece = PieceLength(static_cast<uint32_t>(offset % kTrackBytes), len);
    status = WriteOne(slot, volume, offset, kZeroes, piece, ticket);
    offset += piece;
    len -= piece;
  }
  return status;
}

Status StoreImpl::WriteZeroes(OpSlot& slot, VolumeState& volume, uint64_t offset, uint64_t len,
                              bool no_hole) {
  FL_CHECK(len <= volume.size_bytes && offset <= volume.size_bytes - len);
  SpaceTicket ticket;
  Status status;
  if (no_hole) {
    // May be gigabytes, too many locks to hold: reserved by count. An establish on the range while
    // this runs can make it need more than that.
    const uint64_t fresh = SpaceNeeded(slot, volume, offset, len);
    if (fresh > 1 && !volume.thick) status = Reserve(volume, fresh, &ticket);
    if (status.ok()) status = WriteZeroBytes(slot, volume, offset, len, &ticket);
  } else {
    status = ZeroRange(slot, volume, offset, len, true, &ticket);
  }
  EndTicket(volume, &ticket);
  IoCounters& counters = CountersOf(slot, volume);
  counters.zero_ops.fetch_add(1, std::memory_order_relaxed);
  if (!status.ok()) counters.error_ops.fetch_add(1, std::memory_order_relaxed);
  return status;
}

Status StoreImpl::Trim(OpSlot& slot, VolumeState& volume, uint64_t offset, uint64_t len) {
  FL_CHECK(len <= volume.size_bytes && offset <= volume.size_bytes - len);
  SpaceTicket ticket;
  Status status = ZeroRange(slot, volume, offset, len, false, &ticket);
  IoCounters& counters = CountersOf(slot, volume);
  counters.trim_ops.fetch_add(1, std::memory_order_relaxed);
  if (!status.ok()) counters.error_ops.fetch_add(1, std::memory_order_relaxed);
  return status;
}

}  // namespace flashlun
