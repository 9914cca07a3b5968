// Group commit, deferred drops, poison, checkpoints (track-store.md 3.5).
//
// One commit:
//   1 cut := last LSN; take the waiting flushes and the records      (before 2: what completes
//   later is not covered, T4) 2 fdatasync the tracks, if any write completed since the last (before
//   3: a durable record must not point at data
//                                                                      that can still be lost, T3)
//   3 write the records as one journal group, fdatasync the journal
//   4 answer the flushes; the drops of records <= cut may take effect once the operations of
//   today's epoch have ended
//
// With no records, step 3 is nothing: a flush of in-place writes costs one fdatasync.
#include <algorithm>
#include <chrono>
#include <utility>

#include "core/check.h"
#include "core/mutation.h"
#include "core/store_impl.h"

namespace flashlun {
namespace {

// A commit starts early when this many records wait: 16,384 records are 512 KiB of journal, about a
// millisecond. Each commit flushes the tracks, so fewer ones disturb a burst of first writes less.
constexpr uint64_t kAutocommitRecords = 16384;
// How often a waiting grace period is looked at. Readers end in microseconds; a slow disk read in
// milliseconds.
constexpr std::chrono::milliseconds kGracePoll{5};
// How soon what is ready but was left for the next round is gone on with.
constexpr std::chrono::milliseconds kReclaimPause{1};
// Leaves and index nodes given up in one round: at up to 40 microseconds each, 1.3 ms by which a
// commit may be late.
constexpr uint32_t kNodesPerReclaim = 32;
// Drops and freed tracks under one hold of the state lock: at most some microseconds.
constexpr size_t kDropsPerHold = 64;
// Images that a checkpoint takes in one hold of the state lock: about a microsecond each.
constexpr size_t kNodesPerHold = 16;
// How long a checkpoint that found the file system full waits before it tries again.
constexpr std::chrono::milliseconds kCheckpointRetry{1000};

}  // namespace

Status CopyOf(const Status& status) {
  return status.ok() ? Status::Ok() : Status(status.code(), status.message());
}

uint64_t StoreImpl::AppendRecord(const void* record, size_t length) {
  const uint64_t lsn = ++last_lsn_;
  pending_.Append(lsn, record, length);
  if (!Mutated(Mutation::kLateKillRing)) ring_->Append(lsn, record, length);
  if (pending_.count == 1 || pending_.count == kAutocommitRecords) commit_wanted_.NotifyAll();
  // Soft limit at half the ring: operations that are past Throttle add one small record each, and
  // the other half is far more than kMaxOpSlots of them need.
  if (ring_->used_bytes() > ring_->capacity_bytes() / 2 && !throttled_.load() &&
      poisoned_.empty()) {
    throttled_.store(true);
    commit_wanted_.NotifyAll();
  }
  return lsn;
}

void StoreImpl::Throttle() {
  if (!throttled_.load(std::memory_order_relaxed)) [[likely]]
    return;
  auto lock = state_.Acquire();
  while (throttled_.load() && poisoned_.empty() && !commit_ended_) progress_.Wait(lock);
}

// Puts the waiter into the queue of the next commit. False: the answer is known already.
bool StoreImpl::QueueFlush(FlushWaiter* waiter, Status* answer) {
  if (!poisoned_.empty()) {
    *answer = Status(Code::kPoisoned, poisoned_);
    return false;
  }
  if (commit_ended_) {
    *answer = Status(Code::kClosed, "the pool is closing");
    return false;
  }
  ++counters_.flushes;
  if (Mutated(Mutation::kFlushTooEarly)) {
    commit_requested_ = true;
    commit_wanted_.NotifyAll();
    return false;
  }
  if (!commit_running_ && pending_.empty() && !areas_.dirty()) return false;
  waiter->next = nullptr;
  *waiters_end_ = waiter;
  waiters_end_ = &waiter->next;
  return true;
}

void StoreImpl::FlushAsync(FlushWaiter* waiter) {
  auto lock = state_.Acquire();
  Status answer;
  if (QueueFlush(waiter, &answer)) return commit_wanted_.NotifyAll();
  lock.unlock();
  waiter->Done(answer);
}

namespace {

class BlockingFlush final : public FlushWaiter {
 public:
  void Done(const Status& status) override {
    auto lock = monitor_.Acquire();
    status_ = CopyOf(status);
    done_ = true;
    // Under the lock: once it is released, Wait may return and this object be gone.
    ended_.NotifyAll();
  }
  Status Wait() {
    auto lock = monitor_.Acquire();
    while (!done_) ended_.Wait(lock);
    return std::move(status_);
  }

 private:
  Monitor monitor_;
  Condition ended_;
  bool done_ = false;
  Status status_;
};

}  // namespace

// Commits on the caller's thread when nobody else does: handing it to the commit task and hearing
// of its end are two switches of threads, which take as long as the fdatasync of a fast disk.
Status StoreImpl::Flush() {
  BlockingFlush flush;
  auto lock = state_.Acquire();
  Status answer;
  if (!QueueFlush(&flush, &answer)) return answer;
  if (commit_running_ || reclaiming_ || stopping_) {
    commit_wanted_.NotifyAll();
  } else {
    CommitOnce(lock);
    // What the commit made durable gives up references: the commit task goes on with those.
    if (!grace_.empty()) commit_wanted_.NotifyAll();
  }
  lock.unlock();
  return flush.Wait();
}

bool StoreImpl::CommitNeeded() const {
  return waiters_ != nullptr || pending_.count >= kAutocommitRecords || throttled_.load() ||
         commit_requested_;
}

void StoreImpl::CommitLoop() {
  auto lock = state_.Acquire();
  const std::chrono::milliseconds autocommit(options_.autocommit_ms);
  std::chrono::steady_clock::duration waited{0};  // since records began to wait
  bool reclaimed = true;
  while (!stopping_) {
    if (!CommitNeeded()) {
      if (pending_.empty() && grace_.empty()) {
        commit_wanted_.Wait(lock);
        waited = {};
      } else {
        const auto poll = reclaimed ? kGracePoll : kReclaimPause;
        const auto pause = grace_.empty() ? autocommit : std::min(autocommit, poll);
        waited += commit_wanted_.WaitFor(lock, pause);
      }
    }
    AwaitCommit(lock);
    if (CommitNeeded() || (!pending_.empty() && waited >= autocommit)) {
      CommitOnce(lock);
      waited = {};
    }
    reclaiming_ = true;
    reclaimed = Reclaim(lock);
    reclaiming_ = false;
  }
  // Closing: whatever was acknowledged becomes durable; nobody is left waiting.
  AwaitCommit(lock);
  do {
    CommitOnce(lock);
  } while (!pending_.empty() && poisoned_.empty());
  while (waiters_ != nullptr) CommitOnce(lock);
  commit_ended_ = true;  // under the same hold of the lock in which nobody waits
  progress_.NotifyAll();
}

// The end of a commit that somebody else makes: one at a time, in the order of the journal.
void StoreImpl::AwaitCommit(Monitor::Lock& lock) {
  while (commit_running_) progress_.Wait(lock);
}

// Precondition: no commit is running.
void StoreImpl::CommitOnce(Monitor::Lock& lock) {
  FL_CHECK(!commit_running_);
  uint64_t cut = last_lsn_;
  FlushWaiter* flushes = std::exchange(waiters_, nullptr);
  waiters_end_ = &waiters_;
  std::swap(pending_, spare_);
  uint64_t ring_head = ring_->head();
  const uint64_t pairs = pairs_flipped_;  // their drops are at or before the cut
  JournalPosition position = position_;
  commit_running_ = true;
  commit_requested_ = false;
  if (Mutated(Mutation::kRingTailEarly)) ring_->SetTail(ring_head);
  lock.unlock();

  Status status = is_poisoned_.load() ? PoisonedStatus() : Status::Ok();
  // Taken before the flush: a write that completes from here on marks its area again for the next
  // one.
  const uint32_t dirty = status.ok() ? areas_.TakeDirty() : 0;
  if (dirty != 0 && !Mutated(Mutation::kNoDataFlush)) status = SyncData(dirty);
  if (Mutated(Mutation::kLateCut)) {
    lock.lock();
    spare_.bytes.insert(spare_.bytes.end(), pending_.bytes.begin(), pending_.bytes.end());
    if (spare_.count == 0) spare_.first_lsn = pending_.first_lsn;
    spare_.count += pending_.count;
    pending_.Clear();
    cut = last_lsn_;
    ring_head = ring_->head();
    lock.unlock();
  }
  if (status.ok()) status = WriteCommit(spare_, &position);

  lock.lock();
  if (status.ok()) {
    position_ = position;
    if (spare_.count != 0) ++counters_.commits;
    durable_lsn_ = cut;
    ring_->SetTail(ring_head);
    if (ring_->used_bytes() <= ring_->capacity_bytes() / 2) throttled_.store(false);
    MoveDropsToGrace(cut, pairs);
    if (JournalUsed() > journal_->blocks() / 4) {
      checkpoint_wanted_flag_ = true;
      checkpoint_wanted_.NotifyAll();
    }
  }
  spare_.Clear();
  commit_running_ = false;
  progress_.NotifyAll();
  lock.unlock();
  while (flushes != nullptr) {
    FlushWaiter* next = flushes->next;  // the waiter may be gone after Done
    flushes->Done(status);
    flushes = next;
  }
  lock.lock();
}

Status StoreImpl::WriteCommit(RecordBatch& batch, JournalPosition* position) {
  if (batch.empty()) return Status::Ok();
  if (Status status = WaitForJournalRoom(Journal::BlocksFor(batch)); !status.ok()) return status;
  Result<JournalPosition> next = journal_->WriteGroup(*position, open_epoch_, batch);
  if (!next.ok()) {
    Poison(next.status(), "the journal write");
    return PoisonedStatus();
  }
  *position = next.value();
  return Status::Ok();
}

// Blocks since the current checkpoint: what an open replays.
uint64_t StoreImpl::JournalUsed() const {
  return position_.next_seq - superblock_.current.replay.next_seq;
}

// Whether `blocks` more leave alone what a recovery may need. The previous checkpoint counts: it is
// what an open falls back to (trap T11).
bool StoreImpl::JournalHasRoom(uint64_t blocks) const {
  const CheckpointRef& oldest =
      Mutated(Mutation::kJournalOverrun) ? superblock_.current : superblock_.previous;
  const uint64_t kept = position_.next_seq - oldest.replay.next_seq;
  return kept + blocks <= journal_->blocks();
}

Status StoreImpl::WaitForJournalRoom(uint64_t blocks) {
  auto lock = state_.Acquire();
  while (!JournalHasRoom(blocks) && poisoned_.empty()) {
    // Up to two checkpoints move both the current and the previous one forward.
    waiting_for_room_ = true;
    checkpoint_wanted_flag_ = true;
    checkpoint_wanted_.NotifyAll();
    progress_.NotifyAll();
    progress_.Wait(lock);
  }
  waiting_for_room_ = false;
  return poisoned_.empty() ? Status::Ok() : Status(Code::kPoisoned, poisoned_);
}

void StoreImpl::MoveDropsToGrace(uint64_t durable_lsn, uint64_t pairs) {
  std::vector<Drop>& drops = map_->drops();
  const auto end =
      std::partition_point(drops.begin(), drops.end(), [durable_lsn](const Drop& drop) {
        return drop.lsn <= durable_lsn;  // they are in LSN order
      });
  if (end == drops.begin()) {
    (grace_.empty() ? pairs_settled_ : grace_.back().pairs) = pairs;
    return;
  }
  // The ready ones are many, those of the commit's duration few: the few are copied.
  std::vector<Drop> later(end, drops.end());
  drops.erase(end, drops.end());
  // The epoch that begins now: every operation that may still hold what these drops name began in
  // an earlier one.
  grace_.push_back(Grace{epochs_.Advance(), std::move(drops), pairs});
  drops = std::move(later);
}

bool StoreImpl::Reclaim(Monitor::Lock& lock) {
  uint32_t nodes = 0;
  while (!grace_.empty() && (Mutated(Mutation::kNoGrace) || epochs_.Passed(grace_.front().stamp))) {
    std::vector<Drop> work = std::move(grace_.front().drops);
    const uint64_t pairs = grace_.front().pairs;
    grace_.pop_front();
    // The lock for short holds only, and a bounded number of nodes a round: the end of a terabyte
    // volume must stall neither writers nor the commits behind this.
    while (!work.empty() && nodes < kNodesPerReclaim) nodes += ReclaimSome(lock, work);
    if (!work.empty()) {
      grace_.push_front(Grace{0, std::move(work), pairs});
      progress_.NotifyAll();
      return false;
    }
    pairs_settled_ = pairs;
    progress_.NotifyAll();
    if (space_idle_) space_wanted_.NotifyAll();  // there may be something to trim
  }
  return true;
}

// Some drops of `work`, up to the first that ends a node. Returns the number of nodes that ended.
uint32_t StoreImpl::ReclaimSome(Monitor::Lock& lock, std::vector<Drop>& work) {
  DeadNode dead;
  for (size_t i = 0; i < kDropsPerHold && !work.empty(); ++i) {
    const Drop drop = work.back();
    work.pop_back();
    dead = map_->Apply(drop);
    if (dead.leaf != nullptr || dead.index != nullptr) break;
  }
  lock.unlock();
  std::vector<uint64_t> unreferenced;
  map_->Dismantle(dead, &work, &unreferenced);
  lock.lock();
  FreeTracks(lock, unreferenced);
  return dead.leaf != nullptr || dead.index != nullptr ? 1 : 0;
}

void StoreImpl::FreeTracks(Monitor::Lock& lock, std::span<const uint64_t> tracks) {
  for (size_t i = 0; i < tracks.size(); ++i) {
    if (i != 0 && i % kDropsPerHold == 0) {
      lock.unlock();
      lock.lock();
    }
    map_->FreeTrack(tracks[i]);
  }
}

void StoreImpl::ReclaimForSpace() {
  auto lock = state_.Acquire();
  // Two full commits: the first may have been under way before our drops were recorded.
  for (int round = 0; round < 2 && poisoned_.empty(); ++round) {
    commit_requested_ = true;
    commit_wanted_.NotifyAll();
    while ((commit_requested_ || commit_running_) && poisoned_.empty() && !stopping_)
      progress_.Wait(lock);
  }
  for (unsigned pause = 0; pause < 200 && !grace_.empty(); ++pause) {
    commit_wanted_.NotifyAll();
    lock.unlock();
    PollPause(pause);
    lock.lock();
  }
}

// One at a time: the kernel reports a write-back error to one fdatasync only, so a second one
// running beside it could return success over the same loss. Here the second comes after, and finds
// the pool poisoned.
Status StoreImpl::SyncData(uint32_t areas) {
  auto lock = sync_monitor_.Acquire();
  while (syncing_) sync_done_.Wait(lock);
  syncing_ = true;
  lock.unlock();
  Status status;
  if (is_poisoned_.load()) {
    status = PoisonedStatus();
  } else if (status = areas_.Fdatasync(areas);
             !status.ok() &&
             !(Mutated(Mutation::kRetrySync) && (status = areas_.Fdatasync(areas)).ok())) {
    // The records in the kill ring may point at data that the kernel has just lost, also when
    // something else stopped the pool meanwhile.
    auto state = state_.Acquire();
    if (!Mutated(Mutation::kKeepRingAfterLoss)) ring_->Invalidate();
    state.unlock();
    Poison(status, "the data flush");
  }
  lock.lock();
  syncing_ = false;
  sync_done_.NotifyAll();
  return status;
}

// Trap T12: after a failed flush the kernel has forgotten which pages were dirty. Nothing may be
// acknowledged any more; the state on disk is that of the last commit, and an open recovers it.
void StoreImpl::Poison(const Status& status, const char* during) {
  auto lock = state_.Acquire();
  if (poisoned_.empty()) {
    poisoned_ = std::string(during) + " failed (" + status.message() +
                "); the pool stopped taking writes: fix the disk, then restart flashlun, which "
                "recovers the last "
                "flushed state";
  }
  is_poisoned_.store(true);
  throttled_.store(false);
  progress_.NotifyAll();
  space_changed_.NotifyAll();
}

Status StoreImpl::PoisonedStatus() {
  auto lock = state_.Acquire();
  return Status(Code::kPoisoned, poisoned_);
}

void StoreImpl::RequestCheckpoint() {
  auto lock = state_.Acquire();
  checkpoint_wanted_flag_ = true;
  checkpoint_wanted_.NotifyAll();
}

void StoreImpl::CheckpointLoop() {
  auto lock = state_.Acquire();
  while (!checkpoint_stopping_) {
    if (!checkpoint_wanted_flag_) {
      checkpoint_wanted_.Wait(lock);
      continue;
    }
    checkpoint_wanted_flag_ = false;
    lock.unlock();
    Status status = is_poisoned_.load() ? Status::Ok() : CheckpointOnce(false);
    lock.lock();
    if (status.code() == Code::kNoSpace && !waiting_for_room_) {
      // Nothing is lost: the checkpoints before it and the journal are whole. Later, then.
      checkpoint_wanted_flag_ = true;
      checkpoint_wanted_.WaitFor(lock, kCheckpointRetry);
    } else if (!status.ok()) {
      lock.unlock();
      Poison(status, "the checkpoint");
      lock.lock();
    } else if (!waiting_for_room_ && JournalUsed() <= journal_->blocks() / 4) {
      checkpoint_wanted_flag_ = false;  // asked for meanwhile, and already done
    }
    progress_.NotifyAll();
  }
}

// A checkpoint should not be ahead of the journal: after a power loss the next session's records
// begin behind it, and a fallback to the checkpoint before would find a gap. Unless the commit
// itself waits for this checkpoint's journal room: then the superblock's reach_lsn says so, and an
// open closes the gap before anything else (CommitRecovered).
void StoreImpl::WaitUntilDurable(uint64_t lsn) {
  auto lock = state_.Acquire();
  while (commit_task_ && durable_lsn_ < lsn && poisoned_.empty() && !waiting_for_room_ &&
         !commit_ended_) {
    commit_requested_ = true;
    commit_wanted_.NotifyAll();
    progress_.Wait(lock);
  }
}

Status StoreImpl::CheckpointOnce(bool clean) {
  CheckpointRef ref;
  Capture capture;
  {
    auto lock = state_.Acquire();
    std::vector<RelationState> relations;
    for (const auto& [id, relation] : relations_) relations.push_back(relation);
    std::vector<AreaSpec> areas;
    for (const auto& [number, area] : area_specs_) areas.push_back(area);
    capture.Begin(*map_, VolumePointers(), relations, areas, last_lsn_, next_relation_);
    if (Mutated(Mutation::kCheckpointInexact)) {
      lock.unlock();
      for (unsigned pause = 0; pause < 8; ++pause) PollPause(0);
      lock.lock();
    }
    ref.lsn = last_lsn_;
    // A group that is being written right now begins at position_: replaying it again from here is
    // harmless, because records up to `lsn` are skipped.
    ref.replay = position_;
  }
  if (Status status = WriteCheckpoint(capture, &ref); !status.ok()) {
    checkpoint_->Abort();
    return status;
  }
  Superblock next = superblock_;
  next.previous = next.current;
  next.current = ref;
  next.clean = clean;
  ++next.generation;
  {
    auto lock = state_.Acquire();
    next.reach_lsn = durable_lsn_;
  }
  // Whatever the reason, a superblock that was written in part may name the new tree: nothing may
  // be put into its pages any more.
  if (Status status = WriteSuperblock(*checkpoint_file_, next); !status.ok())
    return Status(Code::kIo, status.message());
  checkpoint_->Commit();
  auto lock = state_.Acquire();
  superblock_ = next;
  ++counters_.checkpoints;
  progress_.NotifyAll();
  return Status::Ok();
}

// Everything up to the superblock.
Status StoreImpl::WriteCheckpoint(Capture& capture, CheckpointRef* ref) {
  checkpoint_->Begin();
  Status status = WriteNodes(capture);
  if (status.ok()) status = checkpoint_->Finish(capture, ref);
  {
    auto lock = state_.Acquire();
    capture.End(*map_, status.ok());
  }
  // The checkpoint names tracks whose records may not have been committed: their data first (trap
  // T3).
  if (status.ok() && !Mutated(Mutation::kCheckpointNoFlush)) status = SyncData(areas_.All());
  if (status.ok()) WaitUntilDurable(ref->lsn);
  return status;
}

Status StoreImpl::WriteNodes(Capture& capture) {
  std::vector<NodeImage> images;
  const std::vector<uint32_t>& ids = capture.ids();
  for (size_t i = 0; i < ids.size();) {
    const size_t end = std::min(ids.size(), i + kNodesPerHold);
    images.clear();
    {
      auto lock = state_.Acquire();
      for (size_t at = i; at < end; ++at) images.push_back(capture.TakeOut(*map_, ids[at]));
    }
    for (const NodeImage& image : images)
      if (Status status = checkpoint_->AddNode(ids[i++], image); !status.ok()) return status;
  }
  return Status::Ok();
}

}  // namespace flashlun
