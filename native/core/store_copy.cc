// Volumes and FlashCopy: create, resize, delete, establish, resync, reverse, withdraw, background
// copy (track-store.md 3.5).
#include <algorithm>
#include <chrono>
#include <set>

#include "core/check.h"
#include "core/mutation.h"
#include "core/store_impl.h"

namespace flashlun {
namespace {

// How long an establish waits for I/O in flight on its targets before it gives up without effect
// (NetApp: 7 s).
constexpr std::chrono::seconds kGateLimit{2};

Status NoVolume(uint16_t id) {
  return Status(Code::kNotFound, "volume " + VolumeIdText(id) + " does not exist");
}

Status NoRelation() {
  return Status(Code::kNotFound,
                "the relationship does not exist: it was withdrawn or its copy is complete");
}

std::string NameOf(const PairSpec& pair) {
  return VolumeIdText(pair.source_id) + ":" + VolumeIdText(pair.target_id);
}

bool IsVolumeSize(uint64_t bytes) {
  return bytes >= kMinVolumeBytes && bytes <= kMaxVolumeBytes && bytes % kTrackBytes == 0;
}

Status NoVolumeSize() {
  return Status(Code::kInvalid, "a volume's size is a multiple of 64 KiB up to 64 TiB");
}

}  // namespace

Status StoreImpl::CreateVolume(uint16_t id, uint64_t size_bytes, std::string_view name,
                               const CreateOptions& options) {
  if (!IsVolumeSize(size_bytes)) return NoVolumeSize();
  if (name.size() > kMaxNameBytes)
    return Status(Code::kInvalid, "a volume's name has at most 64 bytes");
  if (options.block_bytes != 512 && options.block_bytes != 4096)
    return Status(Code::kInvalid, "a volume's block size is 512 or 4096 bytes");
  // The claim first, because it may wait; it is nobody's until the volume is there.
  const uint64_t claim = options.thick ? size_bytes / kTrackBytes : 0;
  if (claim != 0)
    if (Status status = ClaimSpace(options.pool, claim); !status.ok()) return status;
  Status status = AddVolume(id, size_bytes, name, options);
  if (!status.ok() && claim != 0) ReleaseClaim(options.pool, claim);
  return status.ok() ? Flush() : std::move(status);
}

Status StoreImpl::AddVolume(uint16_t id, uint64_t size_bytes, std::string_view name,
                            const CreateOptions& options) {
  {
    auto lock = state_.Acquire();
    if (volumes_.contains(id))
      return Status(Code::kExists, "volume " + VolumeIdText(id) + " exists");
    if (volumes_.size() >= kMaxVolumes)
      return Status(Code::kLimit, "the pool has 4096 volumes, its limit");
    if (!poisoned_.empty()) return Status(Code::kPoisoned, poisoned_);
    if (!area_specs_.contains(options.pool)) return NoPool(options.pool);
    auto volume = std::make_shared<VolumeState>(id, size_bytes);
    volume->name = name;
    volume->created_unix_ms = io_.UnixMs();
    volume->pool = options.pool;
    volume->thick = options.thick;
    volume->block_bytes = options.block_bytes;
    CreateVolumeRecord record{MakeHeader<CreateVolumeRecord>(RecordType::kCreateVolume, id,
                                                             static_cast<uint16_t>(name.size())),
                              size_bytes,
                              volume->created_unix_ms,
                              static_cast<uint16_t>(options.pool),
                              FlagsOf(*volume),
                              0,
                              {}};
    std::copy(name.begin(), name.end(), record.name);
    AppendRecord(&record, sizeof record);
    volumes_.emplace(id, std::move(volume));
  }
  return Status::Ok();
}

// Grows a thick volume's claim first, because that may wait; it is nobody's until the volume has
// grown.
Status StoreImpl::ResizeVolume(uint16_t id, uint64_t new_size_bytes) {
  if (!IsVolumeSize(new_size_bytes)) return NoVolumeSize();
  uint32_t pool = 0;
  uint64_t claim = 0;
  {
    auto lock = state_.Acquire();
    const auto it = volumes_.find(id);
    if (it == volumes_.end()) return NoVolume(id);
    const VolumeState& volume = *it->second;
    pool = volume.pool;
    if (volume.thick && new_size_bytes > volume.size_bytes)
      claim = (new_size_bytes - volume.size_bytes) / kTrackBytes;
  }
  if (claim != 0)
    if (Status status = ClaimSpace(pool, claim); !status.ok()) return status;
  Status status = GrowVolume(id, new_size_bytes, claim);
  if (!status.ok() && claim != 0) ReleaseClaim(pool, claim);
  return status.ok() ? Flush() : std::move(status);
}

Status StoreImpl::GrowVolume(uint16_t id, uint64_t new_size_bytes, uint64_t claim) {
  auto lock = state_.Acquire();
  const auto it = volumes_.find(id);
  if (it == volumes_.end()) return NoVolume(id);
  VolumeState& volume = *it->second;
  if (new_size_bytes < volume.size_bytes)
    return Status(Code::kInvalid, "volume " + VolumeIdText(id) + " has " +
                                      std::to_string(volume.size_bytes) +
                                      " bytes and cannot shrink; nothing was changed");
  if (volume.thick && claim != (new_size_bytes - volume.size_bytes) / kTrackBytes)
    return Status(Code::kBusy,
                  "volume " + VolumeIdText(id) + " was resized at the same time; try again");
  if (!poisoned_.empty()) return Status(Code::kPoisoned, poisoned_);
  if (new_size_bytes == volume.size_bytes) return Status::Ok();
  const ResizeVolumeRecord record{MakeHeader<ResizeVolumeRecord>(RecordType::kResizeVolume, id, 0),
                                  new_size_bytes};
  AppendRecord(&record, sizeof record);
  volume.Grow(new_size_bytes);
  return Status::Ok();
}

Status StoreImpl::DeleteVolume(uint16_t id) {
  {
    auto lock = state_.Acquire();
    const auto it = volumes_.find(id);
    if (it == volumes_.end()) return NoVolume(id);
    VolumeState& volume = *it->second;
    for (const auto& [number, relation] : relations_)
      if (relation.source_id == id || relation.target_id == id)
        return Status(Code::kBusy, "volume " + VolumeIdText(id) + " is in the relationship " +
                                       VolumeIdText(relation.source_id) + ":" +
                                       VolumeIdText(relation.target_id) + "; withdraw it first");
    if (volume.attached.load() != 0)
      return Status(Code::kBusy,
                    "volume " + VolumeIdText(id) + " is attached to a host; disconnect it first");
    if (!poisoned_.empty()) return Status(Code::kPoisoned, poisoned_);
    DeleteVolumeRecord record{MakeHeader<DeleteVolumeRecord>(RecordType::kDeleteVolume, id, 0)};
    const uint64_t lsn = AppendRecord(&record, sizeof record);
    map_->DropTree(volume, lsn);
    volume.deleted = true;
    if (volume.thick) map_->allocator().RemoveClaim(volume.pool, volume.tracks);
    volumes_.erase(it);
  }
  return Flush();
}

Result<std::shared_ptr<VolumeState>> StoreImpl::AttachState(uint16_t id) {
  auto lock = state_.Acquire();
  const auto it = volumes_.find(id);
  if (it == volumes_.end()) return NoVolume(id);
  it->second->attached.fetch_add(
      1);  // under the lock: DeleteVolume sees it or we do not find the volume
  return it->second;
}

// Tracks of a thick volume are shared with thick volumes of its own pool only: what another volume
// held on to would not be covered by a claim (allocator.h, theorem).
Status StoreImpl::CheckThickness(const std::string& name, const VolumeState& source,
                                 const VolumeState& target) {
  if (Mutated(Mutation::kThickMixed)) return Status::Ok();
  if (source.thick != target.thick)
    return Status(Code::kInvalid,
                  name + " refused: " + VolumeIdText(source.thick ? source.id : target.id) +
                      " is thick and the other volume is thin, so the copy's space would not be "
                      "reserved; create the other volume thick, or copy between thin volumes");
  if (source.thick && source.pool != target.pool)
    return Status(Code::kInvalid, name +
                                      " refused: copies of thick volumes stay in one pool; create "
                                      "the target in the source's pool");
  return Status::Ok();
}

// State lock held. Whole groups only: the first thing that is wrong refuses all of them.
Status StoreImpl::CheckCopies(std::span<const Copy> copies) {
  if (!poisoned_.empty()) return Status(Code::kPoisoned, poisoned_);
  if (copies.empty() || copies.size() > kMaxPairsPerEstablish)
    return Status(Code::kInvalid, "an establish has 1 to 1024 pairs");
  if (copies.size() * KillRing::BytesFor(sizeof(EstablishRecord)) > ring_->capacity_bytes() / 4)
    return Status(Code::kLimit, "the pool's kill ring is too small for so many pairs at once");
  std::set<uint16_t> sources;
  std::set<uint16_t> targets;
  for (const Copy& copy : copies) {
    if (Status status = CheckCopy(copy); !status.ok()) return status;
    if (!targets.insert(copy.pair.target_id).second)
      return Status(Code::kInvalid, NameOf(copy.pair) + " refused: the target is named twice");
    sources.insert(copy.pair.source_id);
  }
  for (const uint16_t target : targets)
    if (sources.contains(target))
      return Status(Code::kInvalid,
                    VolumeIdText(target) + " refused: it is source and target in one establish");
  return Status::Ok();
}

Status StoreImpl::CheckCopy(const Copy& copy) {
  const std::string name = NameOf(copy.pair);
  const auto source = volumes_.find(copy.pair.source_id);
  const auto target = volumes_.find(copy.pair.target_id);
  if (source == volumes_.end()) return NoVolume(copy.pair.source_id);
  if (target == volumes_.end()) return NoVolume(copy.pair.target_id);
  if (source == target)
    return Status(Code::kInvalid, name + " refused: source and target are the same volume");
  if (copy.type != RecordType::kEstablish && !relations_.contains(copy.relationship))
    return NoRelation();
  if (target->second->tracks < source->second->tracks)
    return Status(Code::kInvalid,
                  name + " refused: the target is smaller than the source; resize it first");
  if (Status status = CheckThickness(name, *source->second, *target->second); !status.ok())
    return status;
  if (copy.type == RecordType::kReverse && target->second->tracks != source->second->tracks)
    return Status(Code::kInvalid,
                  name + " refused: a reverse needs volumes of one size; resize the smaller first");
  const uint64_t target_of = target->second->target_of;
  if (target_of != 0 && (copy.type != RecordType::kResync || target_of != copy.relationship))
    return Status(Code::kBusy,
                  name + " refused: the target is already in a relationship; withdraw it first");
  return Status::Ok();
}

// Replay's form of the same question, and what a flip relies on.
bool StoreImpl::CopyFits(const Copy& copy) const {
  const auto source = volumes_.find(copy.pair.source_id);
  const auto target = volumes_.find(copy.pair.target_id);
  if (source == volumes_.end() || target == volumes_.end() || source == target ||
      target->second->tracks < source->second->tracks)
    return false;
  const auto relation = relations_.find(copy.relationship);
  if (copy.type == RecordType::kEstablish)
    return relation == relations_.end() && copy.relationship != 0 && target->second->target_of == 0;
  if (relation == relations_.end()) return false;
  if (copy.type == RecordType::kResync)
    return relation->second.source_id == copy.pair.source_id &&
           relation->second.target_id == copy.pair.target_id;
  return relation->second.source_id == copy.pair.target_id &&
         relation->second.target_id == copy.pair.source_id &&
         target->second->tracks == source->second->tracks && target->second->target_of == 0;
}

void StoreImpl::SetGates(const std::vector<VolumeState*>& volumes, Gate gate) {
  auto lock = state_.Acquire();
  for (VolumeState* volume : volumes) volume->gate.store(gate, std::memory_order_seq_cst);
  if (gate == Gate::kOpen) gates_changed_.NotifyAll();
}

// The target is quiesced: no new operation begins, those in flight end. The source is not
// (track-store.md 3.5).
Status StoreImpl::CloseTargets(const std::vector<VolumeState*>& targets) {
  SetGates(targets, Gate::kClosed);
  const auto deadline = std::chrono::steady_clock::now() + kGateLimit;
  for (const VolumeState* target : targets) {
    for (unsigned round = 0; !epochs_.VolumePassed(target, UINT64_MAX); ++round) {
      if (t_fibers == nullptr && std::chrono::steady_clock::now() > deadline) {
        SetGates(targets, Gate::kOpen);
        return Status(Code::kTimeout,
                      "volume " + VolumeIdText(target->id) +
                          " still has I/O in flight after 2 s; nothing was changed: try again");
      }
      PollPause(round);
    }
  }
  return Status::Ok();
}

// The change itself, by a live T0 and by its replay alike.
void StoreImpl::ApplyFlip(const Copy& copy, int64_t t0_unix_ms, uint64_t lsn) {
  VolumeState& source = *volumes_.at(copy.pair.source_id);
  VolumeState& target = *volumes_.at(copy.pair.target_id);
  map_->Share(source, target, lsn);
  if (copy.type == RecordType::kReverse) source.target_of = 0;
  target.target_of = copy.relationship;
  // Copies of the old content can no longer be compared with the volume (store_status.cc).
  for (auto& [id, relation] : relations_)
    if (relation.source_id == copy.pair.target_id) relation.flags |= kRelSourceReplaced;
  relations_[copy.relationship] =
      RelationState{copy.relationship, copy.pair.source_id, copy.pair.target_id,
                    copy.pair.flags & ~uint32_t{kRelSourceReplaced}, t0_unix_ms};
  next_relation_ = std::max(next_relation_, copy.relationship + 1);
}

void StoreImpl::FlipOne(const Copy& copy, int64_t t0_unix_ms, bool more) {
  FL_CHECK(Mutated(Mutation::kTornGate) || CopyFits(copy));
  EstablishRecord record{
      MakeHeader<EstablishRecord>(copy.type, copy.pair.source_id, copy.pair.target_id),
      copy.relationship, t0_unix_ms, copy.pair.flags};
  if (more) record.header.flags |= kRecordMore;
  ApplyFlip(copy, t0_unix_ms, AppendRecord(&record, sizeof record));
  ++pairs_flipped_;
#ifdef FLASHLUN_MUTATIONS
  if (on_flip) on_flip(copy.pair);
#endif
}

// T0. Every pair under one hold of the state lock: no publication, no commit cut and no checkpoint
// falls in between.
Status StoreImpl::Flip(std::vector<Copy>& copies, Monitor::Lock& lock) {
  // Again: since the first look a relationship may have ended and a source may have grown.
  if (Status status = CheckCopies(copies); !status.ok()) return status;
  const int64_t t0 = io_.UnixMs();
  for (size_t i = 0; i < copies.size(); ++i) {
    if (copies[i].type == RecordType::kEstablish) copies[i].relationship = next_relation_;
    const bool more = i + 1 < copies.size() && !Mutated(Mutation::kTornGate);
    FlipOne(copies[i], t0, more);
    if (Mutated(Mutation::kTornGate)) {
      lock.unlock();
      for (unsigned pause = 0; pause < 8; ++pause) PollPause(0);
      lock.lock();
    }
  }
  return Status::Ok();
}

// One T0 at a time: its checks, gates and flip see no other one's.
class StoreImpl::T0Turn {
 public:
  explicit T0Turn(StoreImpl& store) : store_(store) {
    auto turn = store_.establish_monitor_.Acquire();
    while (store_.establishing_) store_.establish_done_.Wait(turn);
    store_.establishing_ = true;
  }
  ~T0Turn() {
    auto turn = store_.establish_monitor_.Acquire();
    store_.establishing_ = false;
    store_.establish_done_.NotifyAll();
  }
  T0Turn(const T0Turn&) = delete;
  T0Turn& operator=(const T0Turn&) = delete;

 private:
  StoreImpl& store_;
};

// The volumes of a T0. They count as attached meanwhile, which keeps them from being deleted.
struct StoreImpl::Held {
  Held() = default;
  ~Held() {
    for (const auto& volume : volumes) volume->attached.fetch_sub(1);
  }
  Held(const Held&) = delete;
  Held& operator=(const Held&) = delete;

  std::vector<std::shared_ptr<VolumeState>> volumes;
  std::vector<VolumeState*> sources;
  std::vector<VolumeState*> targets;
};

Status StoreImpl::HoldVolumes(std::span<const Copy> copies, Held* held) {
  auto lock = state_.Acquire();
  if (Status status = CheckCopies(copies); !status.ok()) return status;
  for (const Copy& copy : copies) {
    for (const uint16_t id : {copy.pair.source_id, copy.pair.target_id}) {
      held->volumes.push_back(volumes_.at(id));
      held->volumes.back()->attached.fetch_add(1);
    }
    held->targets.push_back(volumes_.at(copy.pair.target_id).get());
    VolumeState* source = volumes_.at(copy.pair.source_id).get();
    if (std::find(held->sources.begin(), held->sources.end(), source) == held->sources.end())
      held->sources.push_back(source);
  }
  return Status::Ok();
}

// The targets are closed and quiet.
Status StoreImpl::GatesAndFlip(std::vector<Copy>& copies, const Held& held) {
  // Closing the sources' gates before the first flip makes the group one point in time: a write
  // that depends on another one's reply cannot begin while only some pairs are flipped (trap T23).
  // Writes that are past the gate need no waiting for here: none of them has been answered, so each
  // may be in or out of T0.
  if (!Mutated(Mutation::kTornGate)) SetGates(held.sources, Gate::kNoWrites);
  Status status;
  {
    auto lock = state_.Acquire();
    status = Flip(copies, lock);
  }
  SetGates(held.sources, Gate::kOpen);
  // Writes that decided before the flip may still land in tracks that are now shared. Until they
  // have, the target would change under its readers (trap T22).
  const uint64_t after_flip = epochs_.Advance();
  for (const VolumeState* source : held.sources)
    for (unsigned round = 0;
         !Mutated(Mutation::kNoDrain) && !epochs_.VolumePassed(source, after_flip); ++round)
      PollPause(round);
  SetGates(held.targets, Gate::kOpen);
  return status;
}

// So that no reference count overflows (trap T19, limits.h). Only somebody who holds up the grace
// period, such as a read that the disk does not answer, lets this many gather.
Status StoreImpl::WaitForDrops(size_t pairs) {
  const auto deadline = std::chrono::steady_clock::now() + kGateLimit;
  auto lock = state_.Acquire();
  while (pairs_flipped_ - pairs_settled_ + pairs > kMaxPendingPairs && poisoned_.empty() &&
         !commit_ended_) {
    if (t_fibers == nullptr && std::chrono::steady_clock::now() > deadline)
      return Status(Code::kTimeout,
                    "I/O that began before earlier establishes is still in flight after 2 s; "
                    "nothing was changed: try again");
    commit_requested_ = true;
    commit_wanted_.NotifyAll();
    progress_.WaitFor(lock, std::chrono::milliseconds(20));
  }
  return Status::Ok();
}

// The one routine of establish, resync and reverse. The caller has the turn.
Status StoreImpl::CopyAtT0(std::vector<Copy>& copies) {
  Held held;
  Status status = HoldVolumes(copies, &held);
  if (!status.ok()) return status;
  status = WaitForDrops(copies.size());
  Throttle();  // the records of all pairs at once go into the kill ring
  if (status.ok()) status = CloseTargets(held.targets);
  if (status.ok()) status = GatesAndFlip(copies, held);
  return status.ok() ? Flush() : std::move(status);
}

Status StoreImpl::Establish(std::span<const PairSpec> pairs, std::vector<uint64_t>* ids) {
  const T0Turn turn(*this);
  std::vector<Copy> copies;
  for (const PairSpec& pair : pairs) copies.push_back({RecordType::kEstablish, 0, pair});
  Status status = CopyAtT0(copies);
  ids->clear();
  for (const Copy& copy : copies)
    if (copy.relationship != 0) ids->push_back(copy.relationship);
  return status;
}

Status StoreImpl::CopyAgain(RecordType type, std::span<const uint64_t> relationship_ids) {
  const T0Turn turn(*this);
  std::vector<Copy> copies;
  {
    auto lock = state_.Acquire();
    for (const uint64_t id : relationship_ids) {
      const auto it = relations_.find(id);
      if (it == relations_.end()) return NoRelation();
      const RelationState& relation = it->second;
      PairSpec pair{relation.source_id, relation.target_id, relation.flags};
      if (type == RecordType::kReverse) std::swap(pair.source_id, pair.target_id);
      copies.push_back({type, id, pair});
    }
  }
  return CopyAtT0(copies);
}

// State lock held.
void StoreImpl::EndRelation(uint64_t relationship_id) {
  const RelationState relation = relations_.at(relationship_id);
  const EndRelationRecord record{MakeHeader<EndRelationRecord>(RecordType::kEndRelation, 0, 0),
                                 relationship_id};
  AppendRecord(&record, sizeof record);
  volumes_.at(relation.target_id)->target_of = 0;
  relations_.erase(relationship_id);
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
  Status status = WithTrack(target, &ticket, [&] {
    Throttle();
    Enter(slot, target, true);
    const uint64_t key = TrackLocks::Key(target.id, track);
    if (!Mutated(Mutation::kCopyWithoutLock)) track_locks_.LockExclusive(key);
    Status copying = CopyLocked(target, track, &ticket, copied);
    if (!Mutated(Mutation::kCopyWithoutLock)) track_locks_.UnlockExclusive(key);
    Leave(slot);
    return copying;
  });
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
