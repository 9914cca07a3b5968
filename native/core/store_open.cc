// Open, recovery and close (track-store.md 3.7).
//
//   1 lock; flush every file (never decide on bytes that only the page cache has)
//   2 superblock, of the better copy of the metadata when there is a mirror (store_mirror.cc);
//     checkpoint, verified; the previous one when the current does not check
//   3 journal groups behind it
//   4 kill ring, if this boot wrote it: the process died, the machine did not
//   5 walk the leaves: reference counts and free map
//   6 the mirror is made equal; superblock with open_epoch + 1: from here on an old journal tail
//   can never match 7 what came from the kill ring becomes a journal group of the new session
//
// Nothing is written before 6, so a crash during recovery changes nothing.
#include <algorithm>
#include <cstring>

#include "core/check.h"
#include "core/mutation.h"
#include "core/store_impl.h"

namespace flashlun {
namespace {

constexpr const char* kDefaultPoolName = "default";

Status Contradiction(const std::string& dir, const std::string& what) {
  return Status(Code::kCorrupt,
                dir + ": damaged: the metadata holds " + what +
                    "; nothing was changed: restore the pool directory from a backup");
}

}  // namespace

StoreImpl::~StoreImpl() {
  StopTasks();
  // What waited for its epoch is freed with the map.
  for (const Grace& grace : grace_)
    map_->drops().insert(map_->drops().end(), grace.drops.begin(), grace.drops.end());
}

std::vector<VolumeState*> StoreImpl::VolumePointers() const {
  std::vector<VolumeState*> volumes;
  for (const auto& [id, volume] : volumes_) volumes.push_back(volume.get());
  return volumes;
}

Status StoreImpl::Open() {
  if (Status status = io_.MakeDir(options_.dir); !status.ok()) return status;
  Result<std::shared_ptr<void>> lock = io_.Lock(PathOf("lock"));
  if (!lock.ok()) return lock.TakeStatus();
  lock_file_ = lock.value();
  if (Status status = OpenMetadata(); !status.ok()) return status;
  Result<std::unique_ptr<IoQueue>> queue = io_.MakeQueue(options_.io_backend);
  if (!queue.ok()) return queue.TakeStatus();
  queue_ = std::move(queue.value());
  if (Status status = Recover(); !status.ok())
    return other_problem_.empty()
               ? std::move(status)
               : Status(status.code(), status.message() + "; the other copy: " + other_problem_);
  if (Status status = SettleCopies(); !status.ok()) return status;
  if (Status status = BeginSession(); !status.ok()) return status;
  if (!options_.direct && options_.write_out_bytes != 0)
    write_out_ = std::make_unique<WriteOut>(
        io_, [this] { areas_.StartWriteOut(); }, options_.write_out_bytes,
        options_.write_out_limit_bytes);
  opened_ = true;
  commit_task_ = io_.Spawn("fl-commit", [this] { CommitLoop(); });
  checkpoint_task_ = io_.Spawn("fl-checkpoint", [this] { CheckpointLoop(); });
  space_task_ = io_.Spawn("fl-space", [this] { SpaceLoop(); });
  return Status::Ok();
}

// A pool whose meta file is gone must not be taken for a directory without one. An interrupted
// creation leaves no ring (it is made after the meta file has its name) and no tracks.
Status StoreImpl::RefuseRemains() {
  bool remains = io_.Exists(PathOf("ring"));
  if (Result<std::unique_ptr<File>> file = io_.OpenFile(PathOf("tracks"), {}); file.ok()) {
    Result<uint64_t> size = file.value()->Size();
    remains = remains || !size.ok() || size.value() > Areas::kTracksOffset;
  }
  if (!remains) return Status::Ok();
  return Status(Code::kCorrupt, PathOf("meta") +
                                    ": missing, although the other files of the pool are there; "
                                    "nothing was changed: restore the file from a backup");
}

// The meta file gets its name last, when everything in the directory is durable: a crash in between
// leaves a directory without a pool, and the next open begins again.
Status StoreImpl::CreateStore() {
  Superblock superblock;
  superblock.pool_uuid = io_.NewUuid();
  superblock.generation = 1;
  superblock.capacity_tracks = std::min(options_.capacity_bytes / kTrackBytes, kMaxPoolTracks);
  superblock.journal_blocks = options_.journal_blocks;
  superblock.clean = true;
  superblock.kill_ring_bytes = options_.kill_ring_bytes;
  if (superblock.capacity_tracks == 0)
    return Status(Code::kInvalid, "a pool's capacity is at least one track");
  if (!RingFits(superblock.kill_ring_bytes, superblock.journal_blocks))
    return Status(Code::kInvalid, "the kill ring needs 16 KiB to a quarter of the journal");

  // An interrupted creation left a label with another uuid: RefuseRemains saw that nothing follows
  // it.
  Result<std::unique_ptr<File>> data = io_.OpenFile(PathOf("tracks"), {.create = true});
  if (!data.ok()) return data.TakeStatus();
  Status status = data.value()->Truncate(0);
  data.value().reset();
  if (status.ok())
    status = Areas::Create(io_, {.number = 0, .name = {}, .path = {}, .capacity_tracks = 0},
                           PathOf("tracks"), superblock.pool_uuid);
  if (!status.ok()) return status;
  Result<std::unique_ptr<File>> meta = io_.OpenFile(PathOf("meta.new"), {.create = true});
  if (!meta.ok()) return meta.TakeStatus();
  // Written, not only allocated: the first fdatasync of a journal block then has no extent to
  // convert (3.3).
  const std::vector<uint8_t> zeroes(1 << 20);
  const uint64_t end = PagesOffset(superblock.journal_blocks);
  for (uint64_t at = kJournalOffset; at < end && status.ok(); at += zeroes.size())
    status = meta.value()->Pwrite(at, zeroes.data(), std::min<uint64_t>(zeroes.size(), end - at));
  if (status.ok()) status = WriteSuperblock(*meta.value(), superblock);
  if (status.ok()) status = io_.SyncDir(options_.dir);
  if (status.ok()) status = io_.Rename(PathOf("meta.new"), PathOf("meta"));
  if (status.ok()) status = io_.SyncDir(options_.dir);
  // And the pool directory's own name.
  if (status.ok()) status = io_.SyncDir(options_.dir + "/..");
  return status;
}

Status StoreImpl::OpenFiles() {
  // Only the tracks are ever direct. Metadata stays in the page cache: the kill ring's promise
  // (SIGKILL loses nothing) rests on it anyway, its writes are small and each is followed by
  // fdatasync, and a recovery reads it twice.
  const auto open = [this](const char* name, std::unique_ptr<File>* file) {
    Result<std::unique_ptr<File>> result = io_.OpenFile(PathOf(name), {});
    if (!result.ok() && io_.Exists(PathOf(name))) return result.TakeStatus();  // not missing
    if (!result.ok())
      return Status(Code::kCorrupt, result.status().message() +
                                        "; the pool is incomplete: restore it from a backup");
    *file = std::move(result.value());
    // What a killed process left in the page cache is made durable before anything is decided on
    // it.
    Status status = (*file)->Fdatasync();
    // After a write-back error the cache can hold what the disk does not: decide on the disk's.
    if (status.ok()) (*file)->DropCache();
    return status;
  };
  if (Status status = open("meta", &meta_); !status.ok()) return status;
  if (Status status = open("meta", &checkpoint_file_); !status.ok()) return status;
  return Status::Ok();
}

Status StoreImpl::Recover() {
  pool_uuid_ = superblock_.pool_uuid;

  Result<std::unique_ptr<SharedMemory>> memory =
      io_.MapShared(PathOf("ring"), KillRing::kHeaderBytes + superblock_.kill_ring_bytes);
  if (!memory.ok()) return memory.TakeStatus();
  ring_ = std::make_unique<KillRing>(std::move(memory.value()));
  journal_ =
      std::make_unique<Journal>(*meta_, kJournalOffset, superblock_.journal_blocks, pool_uuid_);
  if (Status status = LoadMap(); !status.ok()) return status;
  if (Status status = ReplayRecords(); !status.ok()) return status;
  if (Status status = OpenAreas(); !status.ok()) return status;
  map_->set_replaying(false);
  if (std::string problem = map_->RebuildCounts(VolumePointers()); !problem.empty())
    return Contradiction(options_.dir, problem);
  counters_.recovered_unclean = !superblock_.clean;
  for (const auto& [number, area] : area_specs_)
    if (Status status = CheckTracksSize(area); !status.ok()) return status;
  RestoreClaims();
  return Status::Ok();
}

void StoreImpl::SetArea(const AreaSpec& area) {
  area_specs_[area.number] = area;
  map_->allocator().SetCapacity(area.number, area.capacity_tracks);
}

// Before anything is committed: opening an area flushes it, so that no record of the kill ring can
// become durable before its data (T3).
Status StoreImpl::OpenAreas() {
  AreaOptions how;
  how.direct = options_.direct;
  // The last session may have ended because a data flush failed (T12). The cache would then show
  // what the disk never got, so an unclean open reads the disk's. A direct one has no use for it.
  how.drop_cache =
      options_.direct || (!superblock_.clean && !Mutated(Mutation::kKeepCacheAfterLoss));
  for (const auto& [number, area] : area_specs_) {
    Status status = areas_.Open(io_, area, PathOf(area), pool_uuid_, how);
    if (status.ok()) continue;
    // What the ring's records point at may just have been lost; the next open must not believe
    // them.
    if (status.code() == Code::kIo) ring_->Invalidate();
    return status;
  }
  return Status::Ok();
}

// Claims are the sizes of the thick volumes: derived, like everything of the allocator.
void StoreImpl::RestoreClaims() {
  for (const auto& [id, volume] : volumes_)
    if (volume->thick && !Mutated(Mutation::kClaimsForgotten))
      map_->allocator().AddClaim(volume->pool, volume->tracks);
}

// A sparse file reads as zeroes behind its end: a truncated one would serve them as data.
Status StoreImpl::CheckTracksSize(const AreaSpec& area) {
  File& file = areas_.file(area.number);
  Result<uint64_t> size = file.Size();
  if (!size.ok()) return size.TakeStatus();
  const uint64_t mapped = map_->needed_bytes(area.number);
  const uint64_t needed = mapped == 0 ? 0 : Areas::kTracksOffset + mapped;
  if (size.value() >= needed) return Status::Ok();
  return Status(Code::kCorrupt, file.path() + ": damaged: it has " + std::to_string(size.value()) +
                                    " bytes where the map needs " + std::to_string(needed) +
                                    "; nothing was changed: restore the file from a backup");
}

Status StoreImpl::LoadCheckpoint(const CheckpointRef& ref) {
  volumes_.clear();
  relations_.clear();
  area_specs_.clear();
  map_ = std::make_unique<Map>(0);
  map_->set_replaying(true);
  checkpoint_ = std::make_unique<Checkpoints>(
      PageStore(*checkpoint_file_, PagesOffset(superblock_.journal_blocks)), pool_uuid_);
  Result<Checkpoints::Loaded> loaded = checkpoint_->Load(ref, *map_);
  if (!loaded.ok()) return loaded.TakeStatus();
  SetArea({0, kDefaultPoolName, {}, superblock_.capacity_tracks});
  for (const AreaSpec& area : loaded.value().areas) {
    if (area.capacity_tracks < map_->allocator().space(area.number).capacity)
      return Contradiction(options_.dir, "a pool smaller than it was made");
    SetArea(area);
  }
  for (auto& volume : loaded.value().volumes) volumes_.emplace(volume->id, volume);
  for (const RelationState& relation : loaded.value().relations) {
    if (!volumes_.contains(relation.source_id) || !volumes_.contains(relation.target_id))
      return Contradiction(options_.dir, "a relationship of a volume that does not exist");
    relations_.emplace(relation.id, relation);
    ApplyFlags(relation);
  }
  next_relation_ = loaded.value().next_relation;
  last_lsn_ = ref.lsn;
  return Status::Ok();
}

Status StoreImpl::LoadMap() {
  Status status = LoadCheckpoint(superblock_.current);
  if (status.ok()) {
    checkpoint_->KeepPrevious(superblock_.previous);
    return status;
  }
  // The previous checkpoint and a longer replay give the same state: its pages and its journal were
  // kept for this.
  if (superblock_.generation > 1 && LoadCheckpoint(superblock_.previous).ok()) {
    superblock_.current = superblock_.previous;
    counters_.used_previous_checkpoint = true;
    return Status::Ok();
  }
  return Status(status.code(), status.message() +
                                   ", nor does the checkpoint before it; nothing was changed: "
                                   "restore the pool directory from a backup");
}

// Journal and kill ring. A journal that ends before the superblock's reach has lost groups that
// were durable: from the current checkpoint on nobody notices, from the previous one it matters.
Status StoreImpl::ReplayRecords() {
  if (Status status = ReplayJournal(); !status.ok()) return status;
  durable_lsn_ = last_lsn_;
  if (Status status = ReplayKillRing(); !status.ok()) return status;
  if (last_lsn_ >= superblock_.reach_lsn) return Status::Ok();
  return Status(Code::kCorrupt,
                meta_->path() +
                    ": damaged: the journal ends before the current checkpoint, which "
                    "does not check either; nothing was changed: restore the file from "
                    "a backup");
}

Status StoreImpl::ReplayJournal() {
  uint64_t seen = 0;
  Result<JournalPosition> end =
      journal_->Replay(superblock_.current.replay, superblock_.open_epoch,
                       [this, &seen](uint64_t lsn, const uint8_t* record, size_t length) {
                         seen = lsn;
                         if (lsn <= last_lsn_) return Status::Ok();  // the checkpoint has it
                         if (lsn != last_lsn_ + 1)
                           return Contradiction(options_.dir, "a gap between journal records");
                         return ApplyRecord(lsn, record, length);
                       });
  if (!end.ok()) return end.TakeStatus();
  position_ = end.value();
  journal_gap_ = superblock_.current.lsn > std::max(superblock_.reach_lsn, seen);
  return Status::Ok();
}

Status StoreImpl::ReplayKillRing() {
  struct Waiting {
    uint64_t lsn;
    std::vector<uint8_t> bytes;
  };
  std::vector<Waiting> transaction;
  bool usable = true;
  const auto visit = [&](uint64_t lsn, const uint8_t* record, size_t length) {
    usable = usable && RecordLength(record, length) == length;
    if (!usable) return;
    transaction.push_back({lsn, std::vector<uint8_t>(record, record + length)});
    if (ReadRecord<RecordHeader>(record).flags & kRecordMore) return;
    // The transaction is whole. One that a kill cut off is dropped: nobody was told of it.
    for (const Waiting& one : transaction) {
      usable = usable && one.lsn == last_lsn_ + 1 &&
               ApplyRecord(one.lsn, one.bytes.data(), one.bytes.size()).ok();
      if (usable) pending_.Append(one.lsn, one.bytes.data(), one.bytes.size());
    }
    transaction.clear();
  };
  const bool whole = ring_->Recover(pool_uuid_, io_.BootId(), last_lsn_, visit);
  // After an orderly end nothing is expected there. What an operation that ran into Close left was
  // never promised.
  if (whole || superblock_.clean) return Status::Ok();
  return Status(Code::kCorrupt,
                PathOf("ring") +
                    ": damaged, or the journal is: records are missing between the "
                    "end of the journal and intact ones of the kill ring; nothing was "
                    "changed: restore the pool directory from a backup");
}

Status StoreImpl::ApplyRecord(uint64_t lsn, const uint8_t* record, size_t length) {
  FL_CHECK(RecordLength(record, length) == length);
  last_lsn_ = lsn;
  ++counters_.recovered_records;
  const auto header = ReadRecord<RecordHeader>(record);
  switch (static_cast<RecordType>(header.type)) {
    case RecordType::kMap:
      return ApplyMap(lsn, record);
    case RecordType::kEstablish:
    case RecordType::kResync:
    case RecordType::kReverse:
      return ApplyCopy(lsn, record);
    case RecordType::kResizeVolume:
      return ApplyResize(record);
    case RecordType::kEndRelation: {
      const uint64_t id = ReadRecord<EndRelationRecord>(record).relationship;
      if (!relations_.contains(id))
        return Contradiction(options_.dir, "the end of an unknown relationship");
      ForgetRelation(id);
      return Status::Ok();
    }
    case RecordType::kRevert:
      return ReplayRevert(lsn, record);
    case RecordType::kSetRelation:
      return ApplySetRelation(record);
    case RecordType::kCreateVolume:
      return ApplyCreate(record);
    case RecordType::kDeleteVolume: {
      const auto it = volumes_.find(header.volume);
      if (it == volumes_.end())
        return Contradiction(options_.dir, "the deletion of an unknown volume");
      for (const auto& [id, relation] : relations_)
        if (relation.source_id == header.volume || relation.target_id == header.volume)
          return Contradiction(options_.dir, "the deletion of a volume in a relationship");
      map_->DropTree(*it->second, lsn);
      volumes_.erase(it);
      return Status::Ok();
    }
    case RecordType::kAddPool:
      return ApplyAddPool(record);
    case RecordType::kGrowPool:
      return ApplyGrowPool(record);
  }
  return Contradiction(options_.dir, "a record of unknown type");
}

Status StoreImpl::ApplyMap(uint64_t lsn, const uint8_t* bytes) {
  const auto record = ReadRecord<MapRecord>(bytes);
  const auto it = volumes_.find(record.header.volume);
  Entry entry = EntryOf(record);
  const bool inherited = entry.inherited;
  entry.inherited = false;
  if (it == volumes_.end() || record.track >= it->second->tracks || entry != Normalized(entry) ||
      (entry.base != kNoTrack && entry.base == entry.own))
    return Contradiction(options_.dir, "an impossible map record");
  // A track that the entry did not have was fresh when it was written: a seal is of what it held
  // before.
  if (entry.own != map_->FindEntry(*it->second, record.track).own && !Mutated(Mutation::kStaleSeal))
    map_->Unseal(entry.own);
  entry.inherited = inherited;
  map_->SetEntry(*it->second, record.track, entry, lsn);
  if ((record.header.flags & kRecordCopied) == 0) it->second->Changed(record.track);
  return Status::Ok();
}

Status StoreImpl::ReplayRevert(uint64_t lsn, const uint8_t* bytes) {
  const auto record = ReadRecord<RevertRecord>(bytes);
  if (!RevertFits(record.relationship, record.header.volume))
    return Contradiction(options_.dir, "an impossible revert record");
  ApplyRevert(record, lsn);
  return Status::Ok();
}

Status StoreImpl::ApplySetRelation(const uint8_t* bytes) {
  const auto record = ReadRecord<SetRelationRecord>(bytes);
  const auto it = relations_.find(record.relationship);
  if (it == relations_.end())
    return Contradiction(options_.dir, "flags of an unknown relationship");
  StopRecording(it->second);
  it->second.flags = static_cast<uint32_t>(record.relation_flags);
  ApplyFlags(it->second);
  return Status::Ok();
}

Status StoreImpl::ApplyCopy(uint64_t lsn, const uint8_t* bytes) {
  const auto record = ReadRecord<EstablishRecord>(bytes);
  const Copy copy{
      static_cast<RecordType>(record.header.type),
      record.relationship,
      {record.header.volume, record.header.extra, static_cast<uint32_t>(record.relation_flags)},
      (record.header.flags & kRecordIncremental) != 0};
  if (!CopyFits(copy)) return Contradiction(options_.dir, "an impossible establish record");
  ApplyFlip(copy, record.t0_unix_ms, lsn);
  return Status::Ok();
}

Status StoreImpl::ApplyResize(const uint8_t* bytes) {
  const auto record = ReadRecord<ResizeVolumeRecord>(bytes);
  const auto it = volumes_.find(record.header.volume);
  if (it == volumes_.end() || record.size_bytes <= it->second->size_bytes ||
      record.size_bytes > kMaxVolumeBytes || record.size_bytes % kTrackBytes != 0)
    return Contradiction(options_.dir, "an impossible resize record");
  it->second->Grow(record.size_bytes);
  return Status::Ok();
}

Status StoreImpl::ApplyCreate(const uint8_t* bytes) {
  const auto record = ReadRecord<CreateVolumeRecord>(bytes);
  if (volumes_.contains(record.header.volume) || record.header.extra > kMaxNameBytes ||
      record.size_bytes < kMinVolumeBytes || record.size_bytes > kMaxVolumeBytes ||
      !area_specs_.contains(record.pool))
    return Contradiction(options_.dir, "an impossible create record");
  auto volume = std::make_shared<VolumeState>(record.header.volume, record.size_bytes);
  volume->name.assign(record.name, record.header.extra);
  volume->created_unix_ms = record.created_unix_ms;
  volume->pool = record.pool;
  SetFlags(*volume, record.flags);
  volumes_.emplace(record.header.volume, std::move(volume));
  return Status::Ok();
}

Status StoreImpl::ApplyAddPool(const uint8_t* bytes) {
  const auto record = ReadRecord<AddPoolRecord>(bytes);
  const uint32_t number = record.header.volume;
  if (number >= kMaxAreas || area_specs_.contains(number) ||
      record.header.extra > kMaxPoolNameBytes || record.path[kMaxPoolPathBytes - 1] != 0 ||
      record.capacity_tracks == 0 || record.capacity_tracks > kMaxAreaTracks)
    return Contradiction(options_.dir, "an impossible pool record");
  SetArea(
      {number, std::string(record.name, record.header.extra), record.path, record.capacity_tracks});
  return Status::Ok();
}

Status StoreImpl::ApplyGrowPool(const uint8_t* bytes) {
  const auto record = ReadRecord<GrowPoolRecord>(bytes);
  const auto it = area_specs_.find(record.header.volume);
  if (it == area_specs_.end() || record.capacity_tracks < it->second.capacity_tracks ||
      record.capacity_tracks > kMaxAreaTracks)
    return Contradiction(options_.dir, "an impossible growth record");
  AreaSpec area = it->second;
  area.capacity_tracks = record.capacity_tracks;
  SetArea(area);
  return Status::Ok();
}

Status StoreImpl::BeginSession() {
  ++superblock_.generation;
  open_epoch_ = ++superblock_.open_epoch;
  superblock_.clean = false;
  // A killed process may have left the copies that were read in the page cache only.
  if (Status status = checkpoint_file_->Fdatasync(); !status.ok()) return status;
  if (Status status = WriteSuperblock(*checkpoint_file_, superblock_); !status.ok()) return status;
  if (Status status = CommitRecovered(); !status.ok()) return status;
  if (counters_.used_previous_checkpoint || reserve_damaged_) {
    // Two that can be opened again, before anything else happens. A full file system leaves one.
    Status status = CheckpointOnce(false);
    if (!status.ok() && status.code() != Code::kNoSpace) return status;
  }
  // Only now: until here a second kill must find the ring as it was.
  ring_->Reset(pool_uuid_, io_.BootId());
  return Status::Ok();
}

// What came from the kill ring becomes durable. OpenAreas flushed the tracks, so its data is (T3).
Status StoreImpl::CommitRecovered() {
  const bool full = !pending_.empty() && !JournalHasRoom(Journal::BlocksFor(pending_)) &&
                    !Mutated(Mutation::kRecoverOverJournal);
  if (full || (journal_gap_ && !Mutated(Mutation::kJournalGap))) {
    // Full: the group would go over blocks that the current or the previous checkpoint still needs,
    // and a second death would find neither. Gap: the group would continue what the previous
    // checkpoint does not lead to, and tracks that only that one refers to would be written again
    // while an open can still fall back to it. Two checkpoints of this state need no journal at
    // all; until both are there, nothing is overwritten.
    pending_.Clear();
    Status status = CheckpointOnce(false);
    if (status.ok()) status = CheckpointOnce(false);
    durable_lsn_ = last_lsn_;
    return status;
  }
  if (pending_.empty()) return Status::Ok();
  Result<JournalPosition> position = journal_->WriteGroup(position_, open_epoch_, pending_);
  if (!position.ok()) return position.TakeStatus();
  position_ = position.value();
  durable_lsn_ = last_lsn_;
  pending_.Clear();
  return Status::Ok();
}

void StoreImpl::StopTasks() {
  StopSpaceTask();
  {
    auto lock = state_.Acquire();
    stopping_ = true;
    commit_wanted_.NotifyAll();
    progress_.NotifyAll();
  }
  if (commit_task_) commit_task_->Join();
  {
    // Only now: the final commit may have needed a checkpoint for journal room.
    auto lock = state_.Acquire();
    checkpoint_stopping_ = true;
    checkpoint_wanted_.NotifyAll();
  }
  if (checkpoint_task_) checkpoint_task_->Join();
  commit_task_.reset();
  checkpoint_task_.reset();
  queue_.reset();
  write_out_.reset();
}

Status StoreImpl::Close() {
  if (!opened_) return Status::Ok();
  opened_ = false;
  freezes_.Stop();
  StopTasks();
  Status status = is_poisoned_.load() ? PoisonedStatus() : CheckpointOnce(true);
  if (status.ok()) ring_->Reset(pool_uuid_, io_.BootId());
  lock_file_.reset();
  // A full file system keeps the checkpoint from being written, but loses nothing: the final commit
  // put every record into the journal, and the next open replays it.
  return status.code() == Code::kNoSpace ? Status::Ok() : std::move(status);
}

}  // namespace flashlun
