// Which copy of the metadata an open begins with, and how the other one is made equal to it
// (mirror.h).
//
//   1 the witness says which copies count; each must carry its number, the pool's uuid, and be of
//     the last session or the one before it
//   2 equal copies: the pool's own. Different ones: both are tried, and the one that leads further
//     is taken, then the one with less damage. What only one of them has was never acknowledged,
//     or was lost by the other
//   3 recovery from that copy (store_open.cc); nothing has been written so far
//   4 witness: only this copy counts. The other is made equal. Witness: both count
//
// From 4 on every session begins with two equal copies or with one that counts: two different ends
// of the log never live on side by side. A pool without a mirror does none of this.
#include <algorithm>
#include <utility>

#include "core/mutation.h"
#include "core/recovery_trial.h"
#include "core/store_impl.h"

namespace flashlun {
namespace {

constexpr const char* kDetach = "none";

std::string DirectoryOf(const std::string& path) {
  const size_t slash = path.rfind('/');
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

// Whether a file may be overwritten with a copy: whatever is damaged in it, it is not another
// pool's.
Status CheckOurs(File& file, const std::string& pool_uuid, size_t copy) {
  Result<Identity> identity = ReadIdentity(file, pool_uuid, copy);
  if (identity.ok() && identity.value() == Identity::kMatches) return Status::Ok();
  if (Result<Superblock> superblock = ReadSuperblock(file); superblock.ok()) {
    if (superblock.value().pool_uuid == pool_uuid) return Status::Ok();
    return Status(Code::kExists, file.path() + " is of another pool; move it away");
  }
  return copy == 0 ? Status::Ok() : CheckMirrorUnused(file, pool_uuid);
}

}  // namespace

std::string StoreImpl::PathOfCopy(size_t copy) const {
  return copy == 0 ? PathOf("meta") : witness_.mirror_path;
}

// The files of a pool without a mirror, or the decision between the copies.
Status StoreImpl::OpenMetadata() {
  Status status;
  if (!io_.Exists(PathOf("meta"))) {
    status = RefuseRemains();
    if (status.ok()) {
      if (status = CreateStore(); !status.ok()) return status;
      counters_.created = true;
    }
  }
  if (status.ok()) status = OpenPrimary();
  const bool asks = !options_.meta_mirror.empty() && options_.meta_mirror != kDetach;
  if (status.ok() && !(superblock_.incompat_features & kFeatureMirror) && !asks) return status;
  if (Status found = FindWitness(); !found.ok())
    return status.ok() ? std::move(found) : std::move(status);
  if (status.ok() && !(superblock_.incompat_features & kFeatureMirror)) {
    witness_.mirror_path.clear();  // an attach that did not get so far, or a finished detach
    MakeCopies(0);
    return status;
  }
  if (witness_.attached()) return ChooseCopy();
  if (!status.ok()) return status;
  if (witness_.sequence == 0)
    return Status(Code::kCorrupt,
                  PathOf("tracks") +
                      ": damaged: the pool has a mirror of its metadata, and both records of which "
                      "copy counts are unreadable; nothing was changed: restore the pool directory "
                      "from a backup");
  superblock_.incompat_features &= ~kFeatureMirror;  // a detach that did not get so far
  if (asks) MakeCopies(0);
  return status;
}

// The pool's own copy, as if there were no other.
Status StoreImpl::OpenPrimary() {
  if (Status status = OpenFiles(); !status.ok()) return status;
  Result<Superblock> superblock = ReadSuperblock(*meta_);
  if (superblock.ok()) superblock_ = std::move(superblock.value());
  return superblock.TakeStatus();
}

Status StoreImpl::FindWitness() {
  Result<std::unique_ptr<File>> tracks = io_.OpenFile(PathOf("tracks"), {});
  if (!tracks.ok()) return tracks.TakeStatus();
  witness_file_ = std::move(tracks.value());
  Result<Witness> witness = ReadWitness(*witness_file_);
  if (!witness.ok()) return witness.TakeStatus();
  witness_ = std::move(witness.value());
  return Status::Ok();
}

void StoreImpl::MakeCopies(size_t chosen) {
  chosen_copy_ = chosen;
  copies_ = std::make_unique<MetaCopies>([this](Counts counts) { return RecordCounts(counts); });
  copies_->SetLive(chosen, true);
  for (size_t i = 0; i < mirrored_.size(); ++i) {
    auto file = std::make_unique<MirroredFile>(PathOfCopy(chosen), *copies_);
    mirrored_[i] = file.get();
    std::unique_ptr<File>& place = i == 0 ? meta_ : checkpoint_file_;
    if (place) file->SetCopy(0, std::move(place));
    place = std::move(file);
  }
}

// Two descriptors of a copy. What a killed process left in the page cache is durable, and what is
// cached is what the disk has.
Status StoreImpl::OpenCopy(const std::string& path, bool create, CopyFiles* files) {
  for (std::unique_ptr<File>& file : *files) {
    Result<std::unique_ptr<File>> opened = io_.OpenFile(path, {.create = create});
    if (!opened.ok()) return opened.TakeStatus();
    file = std::move(opened.value());
    if (Status status = file->Fdatasync(); !status.ok()) return status;
    file->DropCache();
  }
  return Status::Ok();
}

bool StoreImpl::Identified(File& file, size_t copy) const {
  Result<Identity> identity = ReadIdentity(file, witness_.pool_uuid, copy);
  return identity.ok() && identity.value() == Identity::kMatches;
}

Status StoreImpl::ChooseCopy() {
  meta_.reset();
  checkpoint_file_.reset();
  std::array<CopyFiles, kMetaCopies> files;
  std::array<Superblock, kMetaCopies> superblocks;
  std::array<Status, kMetaCopies> problems;
  for (size_t copy = 0; copy < kMetaCopies; ++copy) {
    problems[copy] = OpenCopy(PathOfCopy(copy), false, &files[copy]);
    if (problems[copy].ok())
      problems[copy] =
          CheckMetaCopy(witness_, copy, *files[copy][0], Access::kWrite, &superblocks[copy]);
    else
      files[copy] = {};
  }
  if (!problems[0].ok() && !problems[1].ok()) return NoCopy(problems[0], problems[1]);
  size_t chosen = problems[0].ok() ? 0 : 1;
  if (problems[0].ok() && problems[1].ok()) {
    Result<bool> same = SameContent(*files[0][0], *files[1][0]);
    copies_equal_ =
        same.ok() && same.value() && Identified(*files[0][0], 0) && Identified(*files[1][0], 1);
    if (!copies_equal_) {
      Result<ChosenCopy> better =
          BetterCopy(io_, options_.dir, {PathOfCopy(0), PathOfCopy(1)}, superblocks);
      if (!better.ok()) return better.TakeStatus();
      chosen = better.value().copy;
      reserve_damaged_ = !better.value().reserve;
    }
  }
  superblock_ = superblocks[chosen];
  MakeCopies(chosen);
  // Nothing is written before SettleCopies: reads may use both.
  if (copies_equal_) copies_->SetLive(1 - chosen, true);
  if (!problems[1 - chosen].ok()) other_problem_ = problems[1 - chosen].message();
  for (size_t copy = 0; copy < kMetaCopies; ++copy)
    for (size_t i = 0; i < mirrored_.size(); ++i)
      mirrored_[i]->SetCopy(copy, std::move(files[copy][i]));
  return Status::Ok();
}

// A new record of the witness. One flush of `tracks` at a time, as in SyncData.
Status StoreImpl::RecordCounts(Counts counts) {
  Witness next = witness_;
  next.sequence = ++witness_.sequence;
  next.counts = counts;
  auto lock = sync_monitor_.Acquire();
  while (syncing_) sync_done_.Wait(lock);
  syncing_ = true;
  lock.unlock();
  bool lost = false;
  Status status =
      is_poisoned_.load() ? PoisonedStatus() : WriteWitness(*witness_file_, next, &lost);
  if (lost) {
    auto state = state_.Acquire();
    ring_->Invalidate();
    state.unlock();
    Poison(status, "the data flush");
  }
  if (status.ok()) witness_.counts = counts;
  lock.lock();
  syncing_ = false;
  sync_done_.NotifyAll();
  return status;
}

// Step 4. Before the session begins; the map is there, and so is the ring.
Status StoreImpl::SettleCopies() {
  if (!copies_) return Status::Ok();
  witness_.pool_uuid = pool_uuid_;
  witness_.open_epoch = superblock_.open_epoch + 1;
  const std::string& wish = options_.meta_mirror;
  const bool stays = wish.empty() || wish == witness_.mirror_path;
  if (stays) return HealCopies();
  CopyFiles files;
  if (wish != kDetach)
    if (Status status = OpenNewMirror(wish, &files); !status.ok()) return status;
  if (chosen_copy_ == 1) {
    // What the mirror has must not be in the mirror alone when it goes.
    if (Status status = HealCopies(); !status.ok()) return status;
    if (!copies_->live(0)) return Status(Code::kIo, copies_->problem() + "; the mirror cannot go");
  }
  copies_->SetLive(0, true);
  copies_->SetLive(1, false);
  copies_->SetProblem({});
  chosen_copy_ = 0;
  if (wish == kDetach) {
    witness_.mirror_path.clear();
    superblock_.incompat_features &= ~kFeatureMirror;
    return RecordCounts(Counts::kOnlyPrimary);
  }
  return AttachMirror(wish, std::move(files));
}

// The file of a mirror that the pool does not have yet. Refused, nothing of the pool has changed.
Status StoreImpl::OpenNewMirror(const std::string& path, CopyFiles* files) {
  if (path.size() >= kMaxPoolPathBytes)
    return Status(Code::kInvalid, "the path of the mirror of the metadata has at most 511 bytes");
  // A creation that was cut off may not have made the pool's own names durable: a mirror must not
  // outlive its pool.
  Status status = io_.SyncDir(options_.dir);
  if (status.ok()) status = io_.SyncDir(options_.dir + "/..");
  if (status.ok()) status = OpenCopy(path, true, files);
  if (status.ok()) status = CheckMirrorUnused(*(*files)[1], pool_uuid_);
  if (status.ok()) status = WriteIdentity(*(*files)[1], pool_uuid_, 1);
  if (status.ok()) status = (*files)[1]->Fdatasync();
  if (status.ok()) status = io_.SyncDir(DirectoryOf(path));
  return status;
}

// Only the pool's own copy counts, and a flashlun that knows no mirrors must not open it, before
// the mirror may count.
Status StoreImpl::AttachMirror(const std::string& path, CopyFiles files) {
  witness_.mirror_path = path;
  copies_equal_ = false;
  if (Status status = RecordCounts(Counts::kOnlyPrimary); !status.ok()) return status;
  superblock_.incompat_features |= kFeatureMirror;
  ++superblock_.generation;
  if (Status status = WriteSuperblock(*checkpoint_file_, superblock_); !status.ok()) return status;
  for (size_t i = 0; i < mirrored_.size(); ++i) mirrored_[i]->SetCopy(1, std::move(files[i]));
  other_problem_ = "new";
  new_copy_ = true;
  if (Status status = HealCopies(); !status.ok()) return status;
  if (copies_->live(1)) return Status::Ok();
  return Status(Code::kIo, copies_->problem() + "; name another file for the mirror");
}

// The copy that was not chosen is made equal, or declared out of date.
Status StoreImpl::HealCopies() {
  const size_t other = 1 - chosen_copy_;
  if (copies_equal_) {
    if (Status status = RecordCounts(Counts::kBoth); !status.ok()) return status;
    copies_->SetLive(other, true);
    return Status::Ok();
  }
  if (Status status = RecordCounts(OnlyCopy(chosen_copy_)); !status.ok()) return status;
  Status made = Mutated(Mutation::kNoHeal) ? Status::Ok() : MakeOther(other);
  if (!made.ok()) {
    copies_->SetProblem(std::string(kMetaCopyNames[other]) + " copy, " + PathOfCopy(other) +
                        ", could not be made equal: " + made.message());
    return Status::Ok();
  }
  if (Status status = RecordCounts(Counts::kBoth); !status.ok()) return status;
  counters_.healed_copy = PathOfCopy(other) + (other_problem_.empty() ? "" : ": " + other_problem_);
  copies_equal_ = true;
  copies_->SetLive(other, true);
  copies_->SetProblem({});
  return Status::Ok();
}

// A mirror that is not there may be on a disk that is not mounted: it is made anew only where
// somebody asks for it.
Status StoreImpl::MakeOther(size_t other) {
  if (mirrored_[0]->copy(other) == nullptr) {
    if (other == 1 && options_.meta_mirror.empty())
      return Status(Code::kIo, other_problem_ + "; --meta-mirror " + PathOfCopy(1) +
                                   " makes it anew, --meta-mirror none gives it up");
    CopyFiles files;
    if (other == 0) {
      if (Status status = OpenCopy(PathOfCopy(0), true, &files); !status.ok()) return status;
    } else if (Status status = OpenNewMirror(PathOfCopy(1), &files); !status.ok()) {
      return status;
    }
    for (size_t i = 0; i < mirrored_.size(); ++i) mirrored_[i]->SetCopy(other, std::move(files[i]));
    new_copy_ = true;
  }
  File& from = *mirrored_[1]->copy(chosen_copy_);
  File& to = *mirrored_[1]->copy(other);
  if (Status status = CheckOurs(to, pool_uuid_, other); !status.ok()) return status;
  for (const size_t copy : {other, chosen_copy_}) {
    File& file = *mirrored_[1]->copy(copy);
    if (Identified(file, copy)) continue;
    if (Status status = WriteIdentity(file, pool_uuid_, copy); !status.ok()) return status;
    if (Status status = file.Fdatasync(); !status.ok()) return status;
  }
  if (Status status = MakeEqual(from, to, new_copy_, PagesOffset(superblock_.journal_blocks));
      !status.ok())
    return status;
  if (Status status = to.Fdatasync(); !status.ok()) return status;
  return new_copy_ ? io_.SyncDir(DirectoryOf(PathOfCopy(other))) : Status::Ok();
}

}  // namespace flashlun
