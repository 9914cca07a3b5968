#include "core/recovery_trial.h"

#include <utility>

#include "core/store_impl.h"

namespace flashlun {
namespace {

// What weighs more than anything lighter: the superblock is written anew by every open, what is
// kept in reserve by the next checkpoint.
constexpr unsigned kReserveFlaws = 16;
constexpr unsigned kFallbackFlaws = 64;
// How many groups one copy may be ahead of one that is whole as far as it goes. A group is written
// when the one before it is durable on both, and damage to the last one hides one more. What is
// further apart is of different times.
constexpr uint64_t kMostGroupsAhead = 2;

std::unique_ptr<KillRing> CopyOfRing(Io& io, const std::string& dir, const Superblock& superblock) {
  const size_t size = KillRing::kHeaderBytes + superblock.kill_ring_bytes;
  // A missing or unreadable one counts as empty, as it does for an open.
  Result<std::unique_ptr<SharedMemory>> memory = io.ReadShared(dir + "/ring", size);
  return std::make_unique<KillRing>(memory.ok() ? std::move(memory.value())
                                                : std::make_unique<HeapMemory>(size));
}

unsigned SuperblockFlaws(File& meta, uint64_t generation) {
  unsigned flaws = 0;
  for (uint32_t copy = 0; copy < kSuperblockCopies; ++copy) {
    Result<SuperblockCopy> read = ReadSuperblockCopy(meta, copy);
    flaws +=
        !read.ok() || !read.value().valid || read.value().content.generation != generation ? 1 : 0;
  }
  return flaws;
}

// The group behind the end may have begun: its whole blocks are passed over.
bool BrokenBehind(Journal& journal, uint64_t seq) {
  for (uint64_t read = 0; read < journal.blocks(); ++read, ++seq) {
    Result<Journal::Slot> slot = journal.Inspect(seq % journal.blocks());
    if (!slot.ok() || slot.value().state == Journal::Slot::kBroken) return true;
    if (slot.value().state != Journal::Slot::kBlock || slot.value().seq != seq) return false;
  }
  return false;
}

uint64_t Distance(uint64_t a, uint64_t b) { return a < b ? b - a : a - b; }

}  // namespace

RecoveryTrial::RecoveryTrial() = default;
RecoveryTrial::RecoveryTrial(RecoveryTrial&&) noexcept = default;
RecoveryTrial& RecoveryTrial::operator=(RecoveryTrial&&) noexcept = default;
RecoveryTrial::~RecoveryTrial() = default;

RecoveryTrial RecoveryTrial::Run(Io& io, const std::string& dir, const std::string& meta,
                                 const Superblock& superblock, const CheckpointRef& ref) {
  RecoveryTrial trial;
  trial.store = std::make_unique<StoreImpl>(io, StoreOptions{.dir = dir});
  StoreImpl& store = *trial.store;
  for (std::unique_ptr<File>* file : {&store.meta_, &store.checkpoint_file_}) {
    Result<std::unique_ptr<File>> opened = io.OpenFile(meta, {.read_only = true});
    trial.status = opened.TakeStatus();
    if (!trial.status.ok()) return trial;
    *file = std::move(opened.value());
  }
  store.superblock_ = superblock;
  store.superblock_.current = ref;
  store.pool_uuid_ = superblock.pool_uuid;
  store.journal_ = std::make_unique<Journal>(*store.meta_, kJournalOffset,
                                             superblock.journal_blocks, superblock.pool_uuid);
  store.ring_ = CopyOfRing(io, dir, superblock);
  trial.status = store.LoadCheckpoint(ref);
  trial.loaded = trial.status.ok();
  if (!trial.loaded) return trial;
  trial.status = store.ReplayRecords();
  store.map_->set_replaying(false);
  return trial;
}

CopyTrial CopyTrial::Run(Io& io, const std::string& dir, const std::string& meta,
                         const Superblock& superblock) {
  CopyTrial copy;
  const auto take = [&copy](RecoveryTrial trial) {
    copy.status = std::move(trial.status);
    copy.last_lsn = trial.store->last_lsn_;
    copy.last_group = trial.store->position_.last_group;
    copy.next_seq = trial.store->position_.next_seq;
  };
  {
    // One map in memory at a time.
    RecoveryTrial previous = RecoveryTrial::Run(io, dir, meta, superblock, superblock.previous);
    copy.reserve = previous.status.ok();
    take(std::move(previous));
  }
  copy.flaws = copy.reserve ? 0 : kReserveFlaws;
  RecoveryTrial current = RecoveryTrial::Run(io, dir, meta, superblock, superblock.current);
  // As an open does: the checkpoint before it only when the current one does not load.
  const bool falls_back = !current.loaded && superblock.generation > 1;
  if (falls_back)
    copy.flaws += kFallbackFlaws;
  else
    take(std::move(current));
  Result<std::unique_ptr<File>> file = io.OpenFile(meta, {.read_only = true});
  if (!file.ok()) {
    copy.status = file.TakeStatus();
    return copy;
  }
  copy.flaws += SuperblockFlaws(*file.value(), superblock.generation);
  Journal journal(*file.value(), kJournalOffset, superblock.journal_blocks, superblock.pool_uuid);
  copy.broken_tail = BrokenBehind(journal, copy.next_seq);
  return copy;
}

Status NoCopy(const Status& primary, const Status& mirror) {
  const Code code = primary.code() == Code::kCorrupt ? mirror.code() : primary.code();
  return Status(code,
                "neither copy of the pool's metadata can be used: " + primary.message() + "; " +
                    mirror.message() +
                    "; nothing was changed: bring the copy back that was in use last, or restore "
                    "the pool directory from a backup");
}

Result<ChosenCopy> BetterCopy(Io& io, const std::string& dir,
                              const std::array<std::string, kMetaCopies>& paths,
                              const std::array<Superblock, kMetaCopies>& superblocks) {
  std::array<CopyTrial, kMetaCopies> trials;
  for (size_t copy = 0; copy < kMetaCopies; ++copy)
    trials[copy] = CopyTrial::Run(io, dir, paths[copy], superblocks[copy]);
  const auto& [primary, mirror] = trials;
  if (!primary.status.ok() && !mirror.status.ok()) return NoCopy(primary.status, mirror.status);
  const auto choose = [&trials](size_t copy) { return ChosenCopy{copy, trials[copy].reserve}; };
  if (!primary.status.ok() || !mirror.status.ok()) return choose(primary.status.ok() ? 0 : 1);
  if (primary.last_lsn == mirror.last_lsn) return choose(primary.flaws <= mirror.flaws ? 0 : 1);
  const size_t longer = primary.last_lsn > mirror.last_lsn ? 0 : 1;
  if (Distance(primary.last_group, mirror.last_group) <= kMostGroupsAhead ||
      trials[1 - longer].broken_tail)
    return choose(longer);
  return Status(Code::kCorrupt,
                "the copies of the pool's metadata are of different times: " + paths[0] +
                    " has records up to " + std::to_string(primary.last_lsn) + ", its mirror " +
                    paths[1] + " up to " + std::to_string(mirror.last_lsn) +
                    "; nothing was changed: move the one away that does not belong to the tracks "
                    "(after a restore of the pool directory, the mirror)");
}

}  // namespace flashlun
