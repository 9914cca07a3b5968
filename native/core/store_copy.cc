// Volumes and FlashCopy: create, delete, establish, withdraw, background copy (track-store.md 3.5).
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

std::string Hex(uint16_t id) {
  char text[8];
  std::snprintf(text, sizeof text, "%04X", id);
  return text;
}

Status NoVolume(uint16_t id) {
  return Status(Code::kNotFound, "volume " + Hex(id) + " does not exist");
}

}  // namespace

Status StoreImpl::CreateVolume(uint16_t id, uint64_t size_bytes, std::string_view name,
                               const CreateOptions& options) {
  if (size_bytes < kMinVolumeBytes || size_bytes > kMaxVolumeBytes || size_bytes % kTrackBytes != 0)
    return Status(Code::kInvalid, "a volume's size is a multiple of 64 KiB up to 64 TiB");
  if (name.size() > kMaxNameBytes)
    return Status(Code::kInvalid, "a volume's name has at most 64 bytes");
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
    if (volumes_.contains(id)) return Status(Code::kExists, "volume " + Hex(id) + " exists");
    if (volumes_.size() >= kMaxVolumes)
      return Status(Code::kLimit, "the pool has 4096 volumes, its limit");
    if (!poisoned_.empty()) return Status(Code::kPoisoned, poisoned_);
    if (!area_specs_.contains(options.pool)) return NoPool(options.pool);
    auto volume = std::make_shared<VolumeState>(id, size_bytes);
    volume->name = name;
    volume->created_unix_ms = io_.UnixMs();
    volume->pool = options.pool;
    volume->thick = options.thick;
    CreateVolumeRecord record{MakeHeader<CreateVolumeRecord>(RecordType::kCreateVolume, id,
                                                             static_cast<uint16_t>(name.size())),
                              size_bytes,
                              volume->created_unix_ms,
                              static_cast<uint16_t>(options.pool),
                              options.thick ? uint16_t{kVolumeThick} : uint16_t{0},
                              0,
                              {}};
    std::copy(name.begin(), name.end(), record.name);
    AppendRecord(&record, sizeof record);
    volumes_.emplace(id, std::move(volume));
  }
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
        return Status(Code::kBusy, "volume " + Hex(id) + " is in the relationship " +
                                       Hex(relation.source_id) + ":" + Hex(relation.target_id) +
                                       "; withdraw it first");
    if (volume.attached.load() != 0)
      return Status(Code::kBusy,
                    "volume " + Hex(id) + " is attached to a host; disconnect it first");
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
  if (source.thick != target.thick)
    return Status(Code::kInvalid,
                  name + " refused: " + Hex(source.thick ? source.id : target.id) +
                      " is thick and the other volume is thin, so the copy's space would not be "
                      "reserved; create the other volume thick, or copy between thin volumes");
  if (source.thick && source.pool != target.pool)
    return Status(Code::kInvalid, name +
                                      " refused: copies of thick volumes stay in one pool; create "
                                      "the target in the source's pool");
  return Status::Ok();
}

Status StoreImpl::CheckPairs(std::span<const PairSpec> pairs) {
  if (pairs.empty() || pairs.size() > kMaxPairsPerEstablish)
    return Status(Code::kInvalid, "an establish has 1 to 1024 pairs");
  if (pairs.size() * KillRing::BytesFor(sizeof(EstablishRecord)) > ring_->capacity_bytes() / 4)
    return Status(Code::kLimit, "the pool's kill ring is too small for so many pairs at once");
  std::set<uint16_t> sources;
  std::set<uint16_t> targets;
  for (const PairSpec& pair : pairs) {
    const std::string name = Hex(pair.source_id) + ":" + Hex(pair.target_id);
    const auto source = volumes_.find(pair.source_id);
    const auto target = volumes_.find(pair.target_id);
    if (source == volumes_.end()) return NoVolume(pair.source_id);
    if (target == volumes_.end()) return NoVolume(pair.target_id);
    if (source == target)
      return Status(Code::kInvalid, name + " refused: source and target are the same volume");
    if (target->second->tracks < source->second->tracks)
      return Status(Code::kInvalid, name + " refused: the target is smaller than the source");
    if (Status status = CheckThickness(name, *source->second, *target->second); !status.ok())
      return status;
    if (target->second->target_of != 0)
      return Status(Code::kBusy,
                    name + " refused: the target is already in a relationship; withdraw it first");
    if (!targets.insert(pair.target_id).second)
      return Status(Code::kInvalid, name + " refused: the target is named twice");
    sources.insert(pair.source_id);
  }
  for (const uint16_t target : targets)
    if (sources.contains(target))
      return Status(Code::kInvalid,
                    Hex(target) + " refused: it is source and target in one establish");
  return Status::Ok();
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
                      "volume " + Hex(target->id) +
                          " still has I/O in flight after 2 s; nothing was changed: try again");
      }
      PollPause(round);
    }
  }
  return Status::Ok();
}

uint64_t StoreImpl::FlipPair(const PairSpec& pair, int64_t t0_unix_ms, bool more) {
  VolumeState& source = *volumes_.at(pair.source_id);
  VolumeState& target = *volumes_.at(pair.target_id);
  const uint64_t id = next_relation_++;
  EstablishRecord record{
      MakeHeader<EstablishRecord>(RecordType::kEstablish, pair.source_id, pair.target_id), id,
      t0_unix_ms, pair.flags};
  if (more) record.header.flags |= kRecordMore;
  const uint64_t lsn = AppendRecord(&record, sizeof record);
  map_->Share(source, target, lsn);
  target.target_of = id;
  relations_.emplace(id, RelationState{id, pair.source_id, pair.target_id, pair.flags, t0_unix_ms});
#ifdef FLASHLUN_MUTATIONS
  if (on_flip) on_flip(pair);
#endif
  return id;
}

// T0. Every pair under one hold of the state lock: no publication, no commit cut and no checkpoint
// falls in between.
std::vector<uint64_t> StoreImpl::Flip(std::span<const PairSpec> pairs, Monitor::Lock& lock) {
  std::vector<uint64_t> ids;
  const int64_t t0 = io_.UnixMs();
  for (size_t i = 0; i < pairs.size(); ++i) {
    const bool more = i + 1 < pairs.size() && !Mutated(Mutation::kTornGate);
    ids.push_back(FlipPair(pairs[i], t0, more));
    if (Mutated(Mutation::kTornGate)) {
      lock.unlock();
      for (unsigned pause = 0; pause < 8; ++pause) PollPause(0);
      lock.lock();
    }
  }
  return ids;
}

Status StoreImpl::Establish(std::span<const PairSpec> pairs, std::vector<uint64_t>* ids) {
  {
    auto turn = establish_monitor_.Acquire();
    while (establishing_) establish_done_.Wait(turn);
    establishing_ = true;
  }
  std::vector<VolumeState*> sources;
  std::vector<VolumeState*> targets;
  std::vector<std::shared_ptr<VolumeState>> held;
  Status status;
  {
    auto lock = state_.Acquire();
    status = poisoned_.empty() ? CheckPairs(pairs) : Status(Code::kPoisoned, poisoned_);
    if (status.ok()) {
      for (const PairSpec& pair : pairs) {
        for (const uint16_t id : {pair.source_id, pair.target_id}) {
          held.push_back(volumes_.at(id));
          held.back()->attached.fetch_add(1);  // keeps the volume from being deleted meanwhile
        }
        targets.push_back(volumes_.at(pair.target_id).get());
        VolumeState* source = volumes_.at(pair.source_id).get();
        if (std::find(sources.begin(), sources.end(), source) == sources.end())
          sources.push_back(source);
      }
    }
  }
  Throttle();  // the records of all pairs at once go into the kill ring
  if (status.ok()) status = CloseTargets(targets);
  if (status.ok()) {
    // Closing the sources' gates before the first flip makes the group one point in time: a write
    // that depends on another one's reply cannot begin while only some pairs are flipped (trap
    // T23). Writes that are past the gate need no waiting for here: none of them has been answered,
    // so each may be in or out of T0.
    if (!Mutated(Mutation::kTornGate)) SetGates(sources, Gate::kNoWrites);
    {
      auto lock = state_.Acquire();
      *ids = Flip(pairs, lock);
    }
    SetGates(sources, Gate::kOpen);
    // Writes that decided before the flip may still land in tracks that are now shared. Until they
    // have, the target would change under its readers (trap T22).
    const uint64_t after_flip = epochs_.Advance();
    for (const VolumeState* source : sources)
      for (unsigned round = 0;
           !Mutated(Mutation::kNoDrain) && !epochs_.VolumePassed(source, after_flip); ++round)
        PollPause(round);
    SetGates(targets, Gate::kOpen);
    status = Flush();
  }
  for (const auto& volume : held) volume->attached.fetch_sub(1);
  auto turn = establish_monitor_.Acquire();
  establishing_ = false;
  establish_done_.NotifyAll();
  return status;
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
    if (!relations_.contains(relationship_id))
      return Status(Code::kNotFound,
                    "the relationship does not exist: it was withdrawn or its copy is complete");
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
  for (bool reserved = false;; reserved = true) {
    Throttle();
    Enter(slot, target, true);
    const uint64_t key = TrackLocks::Key(target.id, track);
    track_locks_.LockExclusive(key);
    status = CopyLocked(target, track, &ticket, copied);
    track_locks_.UnlockExclusive(key);
    Leave(slot);
    if (status.code() != Code::kNoSpace || reserved) break;
    if (status = Reserve(target, 1, &ticket); !status.ok()) break;
  }
  EndTicket(target, &ticket);
  return status;
}

Status StoreImpl::CopyLocked(VolumeState& target, uint64_t track, SpaceTicket* ticket,
                             bool* copied) {
  alignas(kSubBytes) uint8_t content[kTrackBytes];
  const Map::Found found = map_->Find(target, track);
  if (!found.entry.mapped() || !Inherited(target, track)) return Status::Ok();
  Status status;
  if (found.exclusive && found.entry.full() && AreaOf(found.entry.own) == target.pool) {
    // The source has left this track since: it already is the target's own.
    status = Publish(target, track, Entry::Full(found.entry.own), true);
  } else {
    const uint64_t fresh = AllocateTrack(target, track, ticket);
    if (fresh == kNoTrack) return Status(Code::kNoSpace);
    status = ReadEntry(found.entry, 0, content, kTrackBytes, ReadMode::kBlocking);
    if (status.ok()) status = WriteTrack(fresh, 0, content, kTrackBytes);
    if (status.ok()) status = Publish(target, track, Entry::Full(fresh), true);
    if (!status.ok()) FreeReserved(fresh);
  }
  if (!status.ok()) return status;
  *copied = true;
  auto lock = state_.Acquire();
  ++target.copied_tracks;
  return status;
}

std::vector<RelationshipInfo> StoreImpl::ListRelationships() {
  std::vector<RelationshipInfo> list;
  std::vector<std::shared_ptr<VolumeState>> targets;
  {
    auto lock = state_.Acquire();
    for (const auto& [id, relation] : relations_) {
      const std::shared_ptr<VolumeState>& target = volumes_.at(relation.target_id);
      RelationshipInfo info;
      info.id = id;
      info.source_id = relation.source_id;
      info.target_id = relation.target_id;
      info.flags = relation.flags;
      info.t0_unix_ms = relation.t0_unix_ms;
      info.total_tracks = target->inherit_limit_tracks.load();
      info.copied_tracks = target->copied_tracks;
      list.push_back(info);
      targets.push_back(target);
    }
  }
  // Counting walks the leaves: in an epoch, without the lock, so that writers go on.
  OpSlot* slot = epochs_.AcquireSlot();
  if (slot == nullptr) return list;
  for (size_t i = 0; i < list.size(); ++i) {
    epochs_.Enter(*slot, nullptr);
    list[i].out_of_sync_tracks = map_->CountOutOfSync(*targets[i]);
    epochs_.Leave(*slot);
  }
  epochs_.ReleaseSlot(slot);
  return list;
}

}  // namespace flashlun
