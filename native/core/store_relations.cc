// Relationships between their T0s: flags, recording, background copy, end (track-store.md 3.5).
#include <cstdio>

#include "core/mutation.h"
#include "core/store_impl.h"

namespace flashlun {
namespace {

Status NoRelation() {
  return Status(Code::kNotFound,
                "the relationship does not exist: it was withdrawn or its copy is complete");
}

}  // namespace

// State lock held.
void StoreImpl::EndRelation(uint64_t relationship_id) {
  const EndRelationRecord record{MakeHeader<EndRelationRecord>(RecordType::kEndRelation, 0, 0),
                                 relationship_id};
  AppendRecord(&record, sizeof record);
  ForgetRelation(relationship_id);
}

// The end itself, live and in replay.
void StoreImpl::ForgetRelation(uint64_t relationship_id) {
  const RelationState relation = relations_.at(relationship_id);
  StopRecording(relation);
  VolumeState& target = *volumes_.at(relation.target_id);
  target.target_of = 0;
  target.write_inhibited.store(false);
  if (target.inherited_tracks != 0) target.stale_inherited = true;
  relations_.erase(relationship_id);
}

void StoreImpl::StopRecording(const RelationState& relation) {
  for (const uint16_t id : {relation.source_id, relation.target_id}) {
    VolumeState& volume = *volumes_.at(id);
    if (volume.recording.load() == relation.id) volume.recording.store(0);
  }
}

// What the flags mean for the two volumes.
void StoreImpl::ApplyFlags(const RelationState& relation) {
  VolumeState& target = *volumes_.at(relation.target_id);
  target.write_inhibited.store((relation.flags & kRelInhibit) != 0);
  if ((relation.flags & kRelRecord) == 0) return;
  volumes_.at(relation.source_id)->recording.store(relation.id, std::memory_order_release);
  target.recording.store(relation.id, std::memory_order_release);
}

Status StoreImpl::SetRelationFlags(uint64_t relationship_id, uint32_t flags) {
  if ((flags & ~kRelFlags) != 0) return Status(Code::kInvalid, "unknown relationship flags");
  {
    auto lock = state_.Acquire();
    const auto it = relations_.find(relationship_id);
    if (it == relations_.end()) return NoRelation();
    if (!poisoned_.empty()) return Status(Code::kPoisoned, poisoned_);
    RelationState& relation = it->second;
    if ((flags & ~relation.flags & kRelRecord) != 0)
      return Status(Code::kInvalid, "recording begins with a new T0: resync with it");
    flags |= relation.flags & ~kRelFlags;
    const SetRelationRecord record{MakeHeader<SetRelationRecord>(RecordType::kSetRelation, 0, 0),
                                   relationship_id, flags};
    AppendRecord(&record, sizeof record);
    if ((flags & kRelRecord) == 0) StopRecording(relation);
    relation.flags = flags;
    ApplyFlags(relation);
  }
  return Flush();
}

// State lock held. A volume's bits are those of one relationship.
Status StoreImpl::CheckRecording(const Copy& copy) {
  if ((copy.pair.flags & kRelRecord) == 0) return Status::Ok();
  // The first write of an unchanged track takes a fresh one while the old one still counts, which
  // no claim covers (allocator.h, theorem).
  if (volumes_.at(copy.pair.source_id)->thick)
    return Status(Code::kInvalid, "thick volumes do not record their changes; copy without");
  for (const uint16_t id : {copy.pair.source_id, copy.pair.target_id}) {
    const uint64_t recording = volumes_.at(id)->recording.load();
    if (recording == 0 || recording == copy.relationship) continue;
    const RelationState& other = relations_.at(recording);
    char text[128];
    std::snprintf(text, sizeof text,
                  "%04X:%04X refused: %04X records its changes for %04X:%04X already; withdraw "
                  "that, or copy without recording",
                  copy.pair.source_id, copy.pair.target_id, id, other.source_id, other.target_id);
    return Status(Code::kBusy, text);
  }
  return Status::Ok();
}

// State lock held. Whether source and target are known to be the same but for their changed tracks.
bool StoreImpl::CanBeIncremental(const Copy& copy) const {
  const auto it = relations_.find(copy.relationship);
  if (copy.type == RecordType::kEstablish || it == relations_.end()) return false;
  const RelationState& relation = it->second;
  if ((relation.flags & kRelRecord) == 0 || (relation.flags & kRelSourceReplaced) != 0)
    return false;
  const VolumeState& source = *volumes_.at(relation.source_id);
  const VolumeState& target = *volumes_.at(relation.target_id);
  if (source.recording.load() != relation.id || target.recording.load() != relation.id ||
      target.inherit_limit_tracks != source.tracks)
    return false;
  // What says that a track was not copied yet must say it of this relationship.
  return copy.type == RecordType::kResync || !source.stale_inherited;
}

// The sharing of a flip, live and in replay.
void StoreImpl::ShareForFlip(const Copy& copy, VolumeState& source, VolumeState& target,
                             uint64_t lsn) {
  if (!copy.incremental) {
    map_->Share(source, target, lsn);
    if (source.tracks == target.tracks) target.stale_inherited = false;
    return;
  }
  if (copy.type == RecordType::kReverse) {
    target.inherited_tracks = 0;
    target.inherit_limit_tracks = source.tracks.load();
  }
  target.target_of = copy.relationship;
  map_->ShareChanged(source, target, lsn);
}

Status StoreImpl::Withdraw(uint64_t relationship_id) {
  {
    auto lock = state_.Acquire();
    if (!relations_.contains(relationship_id)) return NoRelation();
    if (!poisoned_.empty()) return Status(Code::kPoisoned, poisoned_);
    EndRelation(relationship_id);
  }
  return Flush();
}

bool StoreImpl::EndIfComplete(uint64_t relationship_id) {
  auto lock = state_.Acquire();
  const auto it = relations_.find(relationship_id);
  if (it == relations_.end()) return true;
  if (volumes_.at(it->second.target_id)->inherited_tracks != 0) return false;
  if ((it->second.flags & kRelPersistent) != 0) return true;
  EndRelation(relationship_id);
  return true;
}

Result<CopyBatchResult> StoreImpl::CopyBatch(uint64_t relationship_id, uint64_t first_track,
                                             uint32_t max_tracks) {
  CopyBatchResult result;
  OpSlot* slot = epochs_.AcquireSlot();
  if (slot == nullptr)
    return Status(Code::kLimit, "too many threads do volume I/O at once; try again");
  struct Releaser {
    Epochs& epochs;
    OpSlot* slot;
    ~Releaser() { epochs.ReleaseSlot(slot); }
  } const releaser{epochs_, slot};
  result.next_track = first_track;
  // Bounded by tracks looked at, not only by tracks copied: a call must end even when all of them
  // were taken by hosts.
  for (uint32_t step = 0; step < max_tracks; ++step) {
    if (is_poisoned_.load()) return PoisonedStatus();
    Pace();
    std::shared_ptr<VolumeState> target;
    {
      auto lock = state_.Acquire();
      const auto it = relations_.find(relationship_id);
      if (it == relations_.end())
        return Status(Code::kNotFound, "the relationship has ended: it was withdrawn");
      target = volumes_.at(it->second.target_id);
      result.next_track = map_->NextInherited(*target, result.next_track);
    }
    if (result.next_track >= target->inherit_limit_tracks.load()) {
      result.next_track = 0;
      result.done = EndIfComplete(relationship_id);
      return result;
    }
    bool copied = false;
    if (Status status = CopyTrack(*slot, *target, result.next_track, &copied); !status.ok())
      return status;
    result.copied_tracks += copied ? 1 : 0;
    ++result.next_track;
  }
  return result;
}

bool StoreImpl::Inherited(const VolumeState& volume, uint64_t track) {
  auto lock = state_.Acquire();
  return map_->Inherited(volume, track);
}

// Gives one inherited track of the target a physical track of its own, in the target's pool. Under
// the track lock, so a host write to the track comes before (and the copy takes its result along)
// or after (and finds a track of its own): trap T24.
Status StoreImpl::CopyTrack(OpSlot& slot, VolumeState& target, uint64_t track, bool* copied) {
  SpaceTicket ticket;
  Status status;
  bool reserved = false;
  for (int tries = 0;; ++tries) {
    Throttle();
    Enter(slot, target, true);
    const uint64_t key = TrackLocks::Key(target.id, track);
    if (!Mutated(Mutation::kCopyWithoutLock)) track_locks_.LockExclusive(key);
    status = CopyLocked(target, track, &ticket, copied);
    if (!Mutated(Mutation::kCopyWithoutLock)) track_locks_.UnlockExclusive(key);
    Leave(slot);
    if (status.code() != Code::kNoSpace || reserved) break;
    status = Reserve(target, 1, &ticket);
    reserved = status.ok();
    if (!reserved && !MayNeedNone(target, status, tries)) break;
  }
  EndTicket(target, &ticket);
  return status;
}

Status StoreImpl::CopyLocked(VolumeState& target, uint64_t track, SpaceTicket* ticket,
                             bool* copied) {
  const Map::Found found = map_->Find(target, track);
  if (!found.entry.mapped() || !Inherited(target, track)) return Status::Ok();
  Status status;
  const bool in_place = AreaOf(found.entry.own) == target.pool || Mutated(Mutation::kCopyKeepsArea);
  if (found.sole && found.entry.full() && in_place) {
    // The source has left this track since: it already is the target's own.
    status = Publish(target, track, Entry::Full(found.entry.own), true);
  } else {
    bool bad = false;
    status = CopyContent(target, track, found.entry, ticket, &bad);
    if (bad) {  // trap T13: one other track
      Status other = CopyContent(target, track, found.entry, ticket, &bad);
      if (other.code() != Code::kNoSpace) status = std::move(other);
    }
  }
  if (!status.ok()) return status;
  *copied = true;
  auto lock = state_.Acquire();
  ++target.copied_tracks;
  return status;
}

}  // namespace flashlun
