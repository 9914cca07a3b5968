// StoreImpl: the parts of an open pool and how they work together.
//
// Files of a pool directory (docs/format.md):
//   lock                    held while open
//   meta                    superblock x 4, journal ring, checkpoint pages
//   tracks                  data area 0: label, then from 1 MiB on 64 KiB physical tracks
//   ring                    kill ring (MAP_SHARED)
//
// Locks, in the order in which they may be taken:
//   1 establish turn   one establish at a time
//   2 track lock       one per operation; a write of several tracks takes them in ascending order
//   3 state lock       map edits, records, volumes, relationships; never held over Io (sync.h)
// Readers and in-place writers take no state lock: they live in an epoch.
//
// Source files: store_open.cc recovery and close; store_mirror.cc the copies of the metadata;
// recovery_trial.cc and pool_check.cc the same steps, for a comparison and for a report;
// store_io.cc read, write, zero; store_commit.cc group commit, drops, checkpoints; store_async.cc
// asynchronous reads and writes; store_space.cc space, growth, trim, pools; store_copy.cc
// volumes and FlashCopy; store_status.cc block status; store_verify.cc scrubbing; store.cc the
// public face.
#pragma once

#include <atomic>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/areas.h"
#include "core/async_op.h"
#include "core/checkpoint.h"
#include "core/epoch.h"
#include "core/freeze.h"
#include "core/io.h"
#include "core/journal.h"
#include "core/kill_ring.h"
#include "core/map.h"
#include "core/mirror.h"
#include "core/records.h"
#include "core/store.h"
#include "core/superblock.h"
#include "core/sync.h"
#include "core/track_locks.h"
#include "core/write_out.h"

namespace flashlun {

class StoreImpl {
  friend class PoolChecker;     // looks at what a recovery found (pool_check.cc)
  friend struct RecoveryTrial;  // runs its steps one by one
  friend struct CopyTrial;

 public:
  StoreImpl(Io& io, StoreOptions options) : io_(io), options_(std::move(options)) {}
  ~StoreImpl();
  StoreImpl(const StoreImpl&) = delete;
  StoreImpl& operator=(const StoreImpl&) = delete;

  Status Open();
  Status Close();

  Status CreateVolume(uint16_t id, uint64_t size_bytes, std::string_view name,
                      const CreateOptions& options);
  Status ResizeVolume(uint16_t id, uint64_t new_size_bytes);
  Status DeleteVolume(uint16_t id);
  std::vector<VolumeInfo> ListVolumes();
  Result<VolumeInfo> GetVolume(uint16_t id);
  Result<std::shared_ptr<VolumeState>> AttachState(uint16_t id);

  Status Establish(std::span<const PairSpec> pairs, std::vector<uint64_t>* ids);
  // kResync or kReverse.
  Status CopyAgain(RecordType type, std::span<const uint64_t> relationship_ids);
  Status Withdraw(uint64_t relationship_id);
  std::vector<RelationshipInfo> ListRelationships();
  Result<CopyBatchResult> CopyBatch(uint64_t relationship_id, uint64_t first_track,
                                    uint32_t max_tracks);

  Status CreatePool(const std::string& name, const std::string& path, uint64_t capacity_bytes);
  Status GrowPool(uint32_t number, uint64_t capacity_bytes);
  std::vector<PoolInfo> ListPools();
  Result<VerifyBatchResult> VerifyBatch(uint16_t volume, uint64_t first_track, uint32_t max_tracks);

  Status Read(OpSlot& slot, VolumeState& volume, uint64_t offset, void* buf, size_t len,
              ReadMode mode);
  Status Write(OpSlot& slot, VolumeState& volume, uint64_t offset, const void* buf, size_t len);
  Status WriteZeroes(OpSlot& slot, VolumeState& volume, uint64_t offset, uint64_t len,
                     bool no_hole);
  Status Trim(OpSlot& slot, VolumeState& volume, uint64_t offset, uint64_t len);

  Status BlockStatus(OpSlot& slot, VolumeState& volume, const StatusQuery& query,
                     std::vector<StatusExtent>* extents);
  DataRun FindRun(OpSlot& slot, VolumeState& volume, uint64_t offset, uint64_t len,
                  uint64_t data_limit, uint64_t min_zero);
  void Prefetch(OpSlot& slot, VolumeState& volume, uint64_t offset, uint64_t len);
  void StartWriteOut(OpSlot& slot, VolumeState& volume, uint64_t offset, uint64_t len);
  template <typename Visit>
  void VisitPlaces(OpSlot& slot, VolumeState& volume, uint64_t offset, uint64_t len, Visit visit);
  std::vector<RecordingInfo> ListRecordings(uint16_t volume_id);

  bool ReadAsync(VolumeState& volume, uint64_t offset, void* buf, size_t len, Completion* done);
  bool WriteAsync(VolumeState& volume, uint64_t offset, const void* buf, size_t len,
                  Completion* done);
  void PieceDone(AsyncOp& op, const Status& status);

  void FlushAsync(FlushWaiter* waiter);
  Status Flush();
  // Takes a checkpoint now. For the simulation; the store otherwise decides itself.
  void RequestCheckpoint();
  StoreInfo Info();
#ifdef FLASHLUN_MUTATIONS
  // The simulation's view of T0: runs under the state lock, right after a pair was flipped.
  std::function<void(const PairSpec&)> on_flip;
#endif
  bool direct() const { return options_.direct; }
  Epochs& epochs() { return epochs_; }
  Freezes& freezes() { return freezes_; }
  Status Freeze(std::span<const uint16_t> ids, std::chrono::milliseconds limit);
  IoCounters& CountersOf(const OpSlot& slot, VolumeState& volume) const {
    return volume.counters[reinterpret_cast<uintptr_t>(&slot) / sizeof(OpSlot) % kCounterCopies];
  }

 private:
  friend class StorePeer;  // native/test: builds maps of terabytes without their data
  // Growth of one area.
  struct Growth {
    uint64_t attempts = 0;  // steps that ended, well or not
    uint64_t demand = 0;    // tracks that somebody waits for
    uint32_t waiting = 0;   // operations in AwaitSpace: nothing is trimmed meanwhile
    std::string error;      // why the last step failed; empty: it did not
    int64_t failed_unix_ms = 0;
    // Whether writers take next to nothing (WritersPause): what they had taken when it was last
    // measured, and when that was.
    uint64_t allocations = 0;
    int64_t measured_unix_ms = 0;
    bool pause = false;
  };
  enum class SpaceWork { kNone, kDone, kLater, kBlocked };
  // One operation's promised tracks (store_space.cc).
  struct SpaceTicket {
    uint64_t promised = 0;
    uint64_t redirected = 0;  // tracks that went to a fresh place because the old one was shared
  };

  // store_mirror.cc
  using CopyFiles = std::array<std::unique_ptr<File>, 2>;  // as meta_ and checkpoint_file_
  std::string PathOfCopy(size_t copy) const;
  Status OpenMetadata();
  Status OpenPrimary();
  Status FindWitness();
  void MakeCopies(size_t chosen);
  Status OpenCopy(const std::string& path, bool create, CopyFiles* files);
  Status ChooseCopy();
  bool Identified(File& file, size_t copy) const;
  Status RecordCounts(Counts counts);
  Status SettleCopies();
  Status OpenNewMirror(const std::string& path, CopyFiles* files);
  Status AttachMirror(const std::string& path, CopyFiles files);
  Status HealCopies();
  Status MakeOther(size_t other);

  // store_open.cc
  Status CreateStore();
  Status RefuseRemains();
  Status OpenFiles();
  Status Recover();
  Status LoadMap();
  Status LoadCheckpoint(const CheckpointRef& ref);
  Status OpenAreas();
  Status CheckTracksSize(const AreaSpec& area);
  void RestoreClaims();
  Status ReplayRecords();
  Status ReplayJournal();
  Status ReplayKillRing();
  Status ApplyRecord(uint64_t lsn, const uint8_t* record, size_t length);
  Status ApplyMap(uint64_t lsn, const uint8_t* record);
  Status ApplyCopy(uint64_t lsn, const uint8_t* record);
  Status ApplyResize(const uint8_t* record);
  Status ApplyCreate(const uint8_t* record);
  Status ApplyAddPool(const uint8_t* record);
  Status ApplyGrowPool(const uint8_t* record);
  void SetArea(const AreaSpec& area);
  Status BeginSession();
  Status CommitRecovered();
  void StopTasks();
  std::string PathOf(const char* name) const { return options_.dir + "/" + name; }
  std::string PathOf(const AreaSpec& area) const {
    return area.path.empty() ? PathOf("tracks") : area.path;
  }
  std::vector<VolumeState*> VolumePointers() const;

  // store_io.cc
  void Enter(OpSlot& slot, const VolumeState& volume, bool write);
  void Leave(OpSlot& slot) { epochs_.Leave(slot); }
  Status ReadEntry(const Entry& entry, uint32_t within, uint8_t* buf, size_t len, ReadMode mode);
  Status WritePiece(VolumeState& volume, uint64_t track, uint32_t within, const uint8_t* data,
                    size_t len, SpaceTicket* ticket);
  Status WriteDecided(VolumeState& volume, uint64_t track, const Map::Found& found, uint32_t within,
                      const uint8_t* data, size_t len, SpaceTicket* ticket);
  Status Redirect(VolumeState& volume, uint64_t track, const Map::Found& found, uint16_t touched,
                  uint32_t within, const uint8_t* data, size_t len, SpaceTicket* ticket);
  Status RedirectOnce(VolumeState& volume, uint64_t track, const Map::Found& found,
                      uint16_t touched, uint32_t within, const uint8_t* data, size_t len,
                      SpaceTicket* ticket, bool* bad);
  Status CarryOver(const Entry& from, uint16_t subs, uint64_t to_track, bool* bad);
  // To a track that nobody knows yet. *bad: the disk does not take it (trap T13).
  Status WriteFresh(uint64_t track, uint32_t within, const void* data, size_t len, bool* bad);
  Status ZeroPiece(VolumeState& volume, uint64_t track, uint16_t subs);
  Status WriteOne(OpSlot& slot, VolumeState& volume, uint64_t offset, const uint8_t* data,
                  size_t len, SpaceTicket* ticket);
  Status WriteMany(OpSlot& slot, VolumeState& volume, uint64_t offset, const uint8_t* data,
                   size_t len, SpaceTicket* ticket);
  bool WriteAllInPlace(VolumeState& volume, uint64_t offset, const uint8_t* data, size_t len,
                       Status* status);
  bool WriteExactly(OpSlot& slot, VolumeState& volume, uint64_t offset, const uint8_t* data,
                    size_t len, SpaceTicket* ticket, Status* status);
  uint64_t SpaceNeeded(OpSlot& slot, VolumeState& volume, uint64_t offset, uint64_t len);
  Status ZeroRange(OpSlot& slot, VolumeState& volume, uint64_t offset, uint64_t len,
                   bool ragged_ends, SpaceTicket* ticket);
  Status WriteZeroBytes(OpSlot& slot, VolumeState& volume, uint64_t offset, uint64_t len,
                        SpaceTicket* ticket);
  // Where a byte of a track is.
  struct Place {
    File* file;
    uint64_t offset;
  };
  Place PlaceOf(uint64_t track, uint32_t within) {
    return {&areas_.FileOf(track), Areas::Offset(track) + within};
  }
  // These two, and the queue (store_async.cc), transfer the bytes of tracks; nothing else does.
  Status ReadTrack(uint64_t track, uint32_t within, void* buf, size_t len, ReadMode mode);
  Status WriteTrack(uint64_t track, uint32_t within, const void* data, size_t len);
  // Before a write, outside every epoch: waits while writers are too far ahead of the disk.
  void Pace() {
    if (write_out_) write_out_->Pace();
  }
  // Whether such a write may go to the file without its surroundings.
  bool InPlace(uint32_t within, size_t len) const {
    return !options_.direct || (within | len) % kSubBytes == 0;
  }
  uint64_t AllocateTrack(const VolumeState& volume, uint64_t track, SpaceTicket* ticket);
  void FreeReserved(uint64_t track, bool bad);
  void Quarantine(uint64_t track);
  // Makes `next` the entry and appends its record; `copied`: it is a background copy's. kNotFound:
  // the volume is gone.
  Status Publish(VolumeState& volume, uint64_t track, Entry next, bool copied);
  Status PublishUnderLock(VolumeState& volume, uint64_t track, Entry next, bool copied,
                          NodeCopies* ahead);

  // store_space.cc
  bool TryPromise(const VolumeState& volume, uint64_t tracks, SpaceTicket* ticket);
  // Promises the tracks, waiting for growth and for pending drops. Outside every epoch, no locks
  // held. kNoSpace: nothing was promised.
  Status Reserve(const VolumeState& volume, uint64_t tracks, SpaceTicket* ticket);
  // attempt(), which is outside every epoch before and after, until it is not refused for space: a
  // track is promised to the next.
  template <typename Attempt>
  Status WithTrack(const VolumeState& volume, SpaceTicket* ticket, Attempt attempt) {
    bool reserved = false;
    for (int tries = 0;; ++tries) {
      Status status = attempt();
      if (status.code() != Code::kNoSpace || reserved) [[likely]]
        return status;
      // Outside the epoch: tracks may be waiting for a commit and for us to leave.
      status = Reserve(volume, 1, ticket);
      reserved = status.ok();
      if (!reserved && !MayNeedNone(volume, status, tries)) return status;
    }
  }
  // Whether a write that did not get its space should look again whether it needs any.
  static bool MayNeedNone(const VolumeState& volume, const Status& refused, int tries);
  void EndTicket(const VolumeState& volume, SpaceTicket* ticket);
  Status AwaitSpace(uint32_t area, uint64_t tracks, int reclaims,
                    const std::function<bool()>& take);
  Status AwaitUnderLock(Monitor::Lock& lock, uint32_t area, uint64_t tracks, int reclaims,
                        const std::function<bool()>& take);
  Status NoSpace(uint32_t area) const;  // state lock held
  bool TrimWanted(uint32_t area) const;
  bool GrowthUrgent(uint32_t area) const;
  bool StockWanted(uint32_t area) const;
  bool WritersPause(uint32_t area);
  void MeasureWriters(uint32_t area, bool pause);
  bool GrowthBlocked(const Growth& growth) const;
  bool WaitForGrowth(Monitor::Lock& lock, uint32_t area, uint64_t tracks);
  Status ClaimSpace(uint32_t area, uint64_t tracks);
  void ReleaseClaim(uint32_t area, uint64_t tracks);
  void WakeSpaceTask(uint32_t area);  // state lock held
  void SpaceLoop();
  void AwaitSpaceWork(Monitor::Lock& lock);
  SpaceWork GrowArea(Monitor::Lock& lock, uint32_t area);
  bool GrowOnce(Monitor::Lock& lock, uint32_t area, bool stock);
  Status AllocateRun(Monitor::Lock& lock, const TrackRun& run);
  bool TrimOnce(Monitor::Lock& lock);
  void StopSpaceTask();

  // store_async.cc
  AsyncOp* TakeAsync(VolumeState& volume, uint64_t offset, uint8_t* buf, size_t len,
                     Completion* done);
  void GiveAsync(AsyncOp* op);
  bool AddPiece(AsyncOp& op, const Place& place, uint8_t* buf, size_t len);
  void SubmitPieces(AsyncOp& op);
  void ContinueRead(AsyncOp& op);
  bool PinPieces(AsyncOp& op);
  void Unpin(AsyncOp& op);
  void EndAsync(AsyncOp& op);

  // store_commit.cc
  uint64_t AppendRecord(const void* record, size_t length);  // state lock held
  void CommitLoop();
  bool CommitNeeded() const;
  bool QueueFlush(FlushWaiter* waiter, Status* answer);  // state lock held
  void AwaitCommit(Monitor::Lock& lock);
  void CommitOnce(Monitor::Lock& lock);
  Status WriteCommit(RecordBatch& batch, JournalPosition* position);
  Status WaitForJournalRoom(uint64_t blocks);
  void MoveDropsToGrace(uint64_t durable_lsn, uint64_t pairs);
  // False: there is more to do at once.
  bool Reclaim(Monitor::Lock& lock);
  uint32_t ReclaimSome(Monitor::Lock& lock, std::vector<Drop>& work);
  void FreeTracks(Monitor::Lock& lock, std::span<const uint64_t> tracks);
  void ReclaimForSpace();
  void Throttle();
  Status SyncData(uint32_t areas);
  void Poison(const Status& status, const char* during);
  Status PoisonedStatus();
  void CheckpointLoop();
  Status CheckpointOnce(bool clean);
  void WaitUntilDurable(uint64_t lsn);
  Status WriteCheckpoint(Capture& capture, CheckpointRef* ref);
  Status WriteNodes(Capture& capture);
  uint64_t JournalUsed() const;
  bool JournalHasRoom(uint64_t blocks) const;

  // store_copy.cc
  // One target := source of a T0. Establish, resync and reverse differ in what must hold before and
  // in the record's type; everything else is one routine, CopyAtT0.
  struct Copy {
    RecordType type;
    uint64_t relationship;
    PairSpec pair;
  };
  struct Held;
  class T0Turn;
  Status CopyAtT0(std::vector<Copy>& copies);
  Status CheckCopies(std::span<const Copy> copies);
  Status CheckCopy(const Copy& copy);
  Status WaitForDrops(size_t pairs);
  Status HoldVolumes(std::span<const Copy> copies, Held* held);
  Status GatesAndFlip(std::vector<Copy>& copies, const Held& held);
  Status Flip(std::vector<Copy>& copies, Monitor::Lock& lock);
  void FlipOne(const Copy& copy, int64_t t0_unix_ms, bool more);
  bool CopyFits(const Copy& copy) const;
  void ApplyFlip(const Copy& copy, int64_t t0_unix_ms, uint64_t lsn);
  Status CloseTargets(const std::vector<VolumeState*>& targets);
  void SetGates(const std::vector<VolumeState*>& volumes, Gate gate);
  Status GrowVolume(uint16_t id, uint64_t new_size_bytes, uint64_t claim);
  Status CopyTrack(OpSlot& slot, VolumeState& target, uint64_t track, bool* copied);
  Status CopyLocked(VolumeState& target, uint64_t track, SpaceTicket* ticket, bool* copied);
  Status AddVolume(uint16_t id, uint64_t size_bytes, std::string_view name,
                   const CreateOptions& options);
  static Status CheckThickness(const std::string& name, const VolumeState& source,
                               const VolumeState& target);

  // store_pools.cc
  class PoolsTurn;
  Status CheckNewPool(AreaSpec* area);
  static Status NoPool(uint32_t number);
  bool Inherited(const VolumeState& volume, uint64_t track);
  bool EndIfComplete(uint64_t relationship_id);
  void EndRelation(uint64_t relationship_id);

  // store_status.cc
  struct Recording {
    std::shared_ptr<VolumeState> now;     // what is compared with T0
    std::shared_ptr<VolumeState> target;  // who has T0
  };
  Recording FindRecording(uint64_t relationship_id, const VolumeState& volume);
  Status Changes(OpSlot& slot, VolumeState& volume, const StatusQuery& query,
                 std::vector<StatusExtent>* extents);

  // store_verify.cc
  struct Scrub;
  // What a scrub found out about a track, from good to bad: what counts for a track of a volume
  // that reads from two physical ones.
  enum class Seen { kVerified, kReadOnly, kSealed, kUnreadable, kMismatched };
  Status BeginScrub(uint16_t volume_id, Scrub& scrub);
  void SaveSeals();
  void ScrubTrack(VolumeState& volume, uint64_t track, Scrub& scrub);
  Seen ScrubPhysical(VolumeState& volume, uint64_t track, const Map::Found& found,
                     uint64_t physical, Scrub& scrub);
  Seen CompareSealed(VolumeState& volume, uint64_t track, uint64_t physical, Scrub& scrub);
  Seen TrySeal(VolumeState& volume, uint64_t track, uint64_t physical, Scrub& scrub);
  Status ReadFromDisk(uint64_t physical, uint8_t* content);
  void ReportMismatch(const VolumeState& volume, uint64_t track, uint64_t physical, Scrub& scrub);
  Status ReadVerified(const VolumeState& volume, uint64_t track, const Entry& entry,
                      uint8_t* content);
  Status CopyContent(VolumeState& target, uint64_t track, const Entry& from, SpaceTicket* ticket,
                     bool* bad);
  Status CheckSeal(const VolumeState& volume, uint64_t track, uint64_t physical,
                   const uint8_t* content);

  VolumeInfo InfoOf(const VolumeState& volume);

  // Constant after Open.
  Io& io_;
  StoreOptions options_;
  std::shared_ptr<void> lock_file_;
  // Of a pool whose metadata has, or gets, a mirror; otherwise null and empty.
  std::unique_ptr<MetaCopies> copies_;
  std::unique_ptr<File> witness_file_;
  Witness witness_;
  std::array<MirroredFile*, 2> mirrored_{};  // meta_ and checkpoint_file_
  size_t chosen_copy_ = 0;                   // the one that the open began with
  bool copies_equal_ = false;
  bool reserve_damaged_ = false;  // the chosen one's previous checkpoint leads nowhere
  bool new_copy_ = false;         // the other one is being made, not repaired
  std::string other_problem_;     // why the other one could not be begun with
  std::unique_ptr<File> meta_;
  // A second descriptor of `meta`: the kernel reports a write-back error once per open file, so the
  // journal's fdatasync and that of checkpoint and superblock, which may run at the same time, must
  // not share one.
  std::unique_ptr<File> checkpoint_file_;
  std::unique_ptr<Checkpoints> checkpoint_;  // the checkpoint task's, after Open
  std::unique_ptr<KillRing> ring_;
  std::unique_ptr<Journal> journal_;
  uint64_t open_epoch_ = 0;
  std::string pool_uuid_;

  Epochs epochs_;
  Freezes freezes_{io_};
  TrackLocks track_locks_;
  Areas areas_;                         // files are added, never taken away
  std::atomic<bool> throttled_{false};  // the kill ring is over its soft limit
  std::atomic<bool> is_poisoned_{false};

  // Below: guarded by state_.
  Monitor state_;
  std::unique_ptr<Map> map_;  // Find and FindEntry without the lock, inside an epoch
  std::map<uint16_t, std::shared_ptr<VolumeState>> volumes_;
  std::map<uint64_t, RelationState> relations_;
  uint64_t next_relation_ = 1;
  uint64_t last_lsn_ = 0;
  uint64_t durable_lsn_ = 0;
  RecordBatch pending_;
  RecordBatch spare_;         // keeps its buffer between commits
  JournalPosition position_;  // behind the last durable group
  // Found at open: the journal does not lead from the previous checkpoint to the current one.
  bool journal_gap_ = false;
  FlushWaiter* waiters_ = nullptr;
  FlushWaiter** waiters_end_ = &waiters_;
  // A commit is made by the commit task or by a thread that flushes, one at a time. None while the
  // commit task reclaims, which is the other half of what a commit begins (pairs_settled_).
  bool commit_running_ = false;
  bool reclaiming_ = false;
  bool commit_requested_ = false;
  bool stopping_ = false;             // the commit task ends
  bool commit_ended_ = false;         // it has: nothing new becomes durable
  bool checkpoint_stopping_ = false;  // the checkpoint task ends
  bool waiting_for_room_ = false;     // the commit task needs a checkpoint before it can go on
  bool opened_ = false;
  struct Grace {
    uint64_t stamp;
    std::vector<Drop> drops;
    uint64_t pairs;  // pairs_flipped_ when the last of these drops was recorded
  };
  uint64_t pairs_flipped_ = 0;  // pairs that had a T0 since the open
  uint64_t pairs_settled_ = 0;  // of those, the first that left no drop that still counts
  std::deque<Grace> grace_;     // durable drops waiting for their epoch
  Superblock superblock_;       // written by the checkpoint task only, after Open
  bool checkpoint_wanted_flag_ = false;
  bool unsaved_seals_ = false;  // made since the end of the last scrub
  std::string poisoned_;
  StoreInfo counters_;
  Condition commit_wanted_;      // the commit task's
  Condition checkpoint_wanted_;  // the checkpoint task's
  Condition progress_;           // a commit, a reclaim or a checkpoint ended
  Condition gates_changed_;

  Monitor sync_monitor_;  // one data flush at a time
  Condition sync_done_;
  bool syncing_ = false;
  Monitor establish_monitor_;
  Condition establish_done_;
  bool establishing_ = false;

  Monitor async_monitor_;
  std::vector<std::unique_ptr<AsyncOp>> async_ops_;  // each with its slot
  std::vector<AsyncOp*> async_free_;
  std::unique_ptr<IoQueue> queue_;  // after async_ops_: its threads work on them to the end

  std::unique_ptr<WriteOut> write_out_;  // null: in direct mode there is nothing to write out

  std::map<uint32_t, AreaSpec> area_specs_;
  std::array<Growth, kMaxAreas> growth_;
  bool space_stopping_ = false;
  bool space_idle_ = false;  // the space task waits for a reason to grow or trim
  Condition space_wanted_;   // the space task's
  Condition space_changed_;  // a growth step ended
  Monitor pools_monitor_;    // one pool is created or enlarged at a time
  Condition pools_done_;
  bool changing_pools_ = false;

  std::unique_ptr<Task> commit_task_, checkpoint_task_, space_task_;
};

// The status of an operation on a stopped pool names the cause once it is known; reads keep
// working. Copies a Status (it is move-only so that the request path cannot copy messages by
// accident).
Status CopyOf(const Status& status);

}  // namespace flashlun
