#include "test/fault.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "core/check.h"

namespace flashlun {
namespace {

// Sources 0 and 2, targets 1 and 3, and one that is deleted again.
constexpr uint16_t kFirstId = 0x1000;
constexpr size_t kVolumes = 4;
constexpr uint16_t kShortLived = 0x1007;
constexpr uint64_t kVolumeTracks = 4;
constexpr uint64_t kPoolTracks = 40;
// A run is some thousand steps; who takes this many waits for something that never comes.
constexpr uint64_t kStepLimit = 200'000;
constexpr int kCheckpointPatience = 400;
constexpr const char* kMirrorDir = "otherpool";
constexpr const char* kMirror = "otherpool/meta";

bool CanRunOutOfSpace(IoKind kind) {
  return kind == IoKind::kWrite || kind == IoKind::kAllocate || kind == IoKind::kOpen ||
         kind == IoKind::kRename || kind == IoKind::kMakeDir || kind == IoKind::kMap;
}

const char* NameOf(IoKind kind) {
  constexpr const char* kNames[] = {"read", "write", "sync",   "allocate", "discard",  "truncate",
                                    "size", "open",  "rename", "sync dir", "make dir", "map"};
  return kNames[static_cast<size_t>(kind)];
}

}  // namespace

FaultRun::FaultRun(const FaultPlan& plan) : plan_(plan), exists_(kVolumes, false) {
  for (size_t i = 0; i < kVolumes; ++i)
    volumes_.emplace_back(static_cast<uint16_t>(kFirstId + i), kVolumeTracks,
                          std::vector<uint64_t>{0, 1, 2});
}

StoreOptions FaultRun::Options() const {
  StoreOptions options;
  options.dir = "pool";
  options.capacity_bytes = kPoolTracks * kTrackBytes;
  options.journal_blocks = 24;
  options.kill_ring_bytes = 16384;
  if (plan_.mirror) options.meta_mirror = kMirror;
  return options;
}

bool FaultRun::OnlyOneCopy() const {
  return protected_ && plan_.fault == Fault::kEio && plan_.reach != FaultPlan::Reach::kMachine &&
         (hit_path_ == "pool/meta" || hit_path_ == kMirror);
}

void FaultRun::Fail(const std::string& what) {
  if (failure_.empty()) failure_ = what;
}

Fault FaultRun::Decide(const IoCall& call) {
  if (call.middle || call.index < plan_.index || done_) return Fault::kNone;
  if (plan_.fault == Fault::kNoSpace && !CanRunOutOfSpace(call.kind)) return Fault::kNone;
  if (call.index == plan_.index) {
    hit_ = std::string(NameOf(call.kind)) + " of " + call.path;
    // Before there were two copies it met the only one.
    if (protected_ || !plan_.mirror) hit_path_ = call.path;
    hit_offset_ = call.offset;
    hit_track_ = call.kind == IoKind::kWrite && call.path.ends_with("/tracks") &&
                 plan_.fault == Fault::kEio && plan_.reach <= FaultPlan::Reach::kTrack;
    copy_dropped_ = store_ != nullptr && OnlyOneCopy() && call.kind != IoKind::kRead;
    return plan_.fault;
  }
  if (hit_.empty() || plan_.reach == FaultPlan::Reach::kOnce) return Fault::kNone;
  if (plan_.reach == FaultPlan::Reach::kTrack &&
      (call.kind != IoKind::kWrite || !hit_.ends_with(" of " + call.path) ||
       call.offset / kTrackBytes != hit_offset_ / kTrackBytes))
    return Fault::kNone;
  if (plan_.reach == FaultPlan::Reach::kFile && !hit_.ends_with(" of " + call.path))
    return Fault::kNone;
  return plan_.fault;
}

std::string FaultRun::Run() {
  fibers_ = std::make_unique<Fibers>(rng_);
  io_ = std::make_unique<SimIo>(rng_, fibers_.get());
  io_->set_orderly();
  if (plan_.mirror) {
    (void)io_->MakeDir(kMirrorDir);
    (void)io_->SyncDir(".");
  }
  io_->set_hook([this](const IoCall& call) { return Decide(call); });
  fibers_->Spawn("workload", [this] { Body(); });
  uint64_t steps = 0;
  const std::string deadlock = fibers_->Run([&] { return ++steps < kStepLimit; });
  if (!deadlock.empty()) Fail(deadlock);
  if (steps >= kStepLimit) Fail("somebody waits for ever");
  calls_ = io_->calls();
  done_ = true;
  if (failure_.empty()) CheckCrashes();
  if (failure_.empty()) CheckReopen();
  handles_.clear();
  store_.reset();
  return failure_;
}

void FaultRun::Body() {
  if (Open()) FirstLife();
  if (failure_.empty()) {
    FiberScheduler* const here = std::exchange(t_fibers, nullptr);
    CheckCrashes();
    t_fibers = here;
  }
  handles_.clear();
  if (slot_ != nullptr) store_->ReleaseSlot(slot_);
  store_.reset();  // with a last commit, if it can
  done_ = true;
}

bool FaultRun::Open() {
  Result<std::unique_ptr<Store>> opened = Store::Open(*io_, Options());
  if (!opened.ok()) {
    CheckText(opened.status(), "open");
    return false;
  }
  store_ = std::move(opened.value());
  protected_ = plan_.mirror && store_->Info().mirror_problem.empty();
  slot_ = store_->AcquireSlot();
  Hook();
  handles_.assign(kVolumes, Volume());
  for (size_t i = 0; i < kVolumes; ++i) {
    if (!exists_[i])
      exists_[i] =
          Ok(store_->CreateVolume(volumes_[i].id, kVolumeTracks * kTrackBytes, ""), "create");
    Result<Volume> handle = store_->Attach(volumes_[i].id);
    if (handle.ok()) handles_[i] = handle.value();
    if (!handle.ok() || !exists_[i]) return false;
  }
  return true;
}

void FaultRun::Hook() {
#ifdef FLASHLUN_MUTATIONS
  store_->impl().on_flip = [this](const PairSpec& pair) {
    SimVolume& from = volumes_[pair.source_id & 7];
    SimVolume& to = volumes_[pair.target_id & 7];
    for (size_t track = 0; track < from.used.size(); ++track)
      for (uint32_t sub = 0; sub < kSubsPerTrack; ++sub)
        to.locations[track][sub].Flip(from.locations[track][sub].Candidates());
  };
#endif
}

// Every kind of operation, each in a state in which it does I/O.
void FaultRun::FirstLife() {
  WritesOfEveryPath();
  ReadAll();
  CopyServices();
  ReadAll();
  LastChanges();
  ReadAll();
  Close();
  if (!durable_all_) return;
  if (!Open()) return;
  ReadAll();
  Write(0, 0, 4, 1, Path::kInPlace);
  Flush();
  Close();
}

void FaultRun::WritesOfEveryPath() {
  Write(0, 0, 0, 2, Path::kElsewhere);              // C: unmapped
  Write(0, 0, 2, 3, Path::kElsewhere);              // B: extend
  Write(0, 0, 1, 2, Path::kInPlace);                // A
  Write(0, 1, 0, kSubsPerTrack, Path::kElsewhere);  // C: a whole track
  Flush();
  Write(0, 1, 3, 4, Path::kInPlace);     // A: no record, only data to flush
  WritePart(0, 0, 7, Path::kElsewhere);  // B: with a ragged end
  WritePart(0, 1, 5, Path::kInPlace);
  Write(2, 0, 0, 3, Path::kElsewhere);
  Write(2, 1, 0, kSubsPerTrack, Path::kElsewhere);
  Write(3, 0, 5, 2, Path::kElsewhere);
  Flush();
}

void FaultRun::CopyServices() {
  Establish();
  Write(0, 1, 0, 1, Path::kElsewhere);   // C: shared and full
  Write(2, 0, 4, 1, Path::kElsewhere);   // C': shared and partial
  WritePart(1, 1, 2, Path::kElsewhere);  // C: on the target, with a read of the source's track
  Zero(2, 1, 4, 4, false);
  Zero(0, 0, 0, kSubsPerTrack, true);
  Flush();
  Copy();
  Checkpoint();
  Write(0, 2, 0, 4, Path::kElsewhere);
  Write(0, 2, 8, 1, Path::kElsewhere);
  Flush();
}

void FaultRun::LastChanges() {
  CopyAgain(false);
  // Volume 0, which the resync has just shared. Not volume 2: its copy has ended, and whether its
  // tracks are its own again depends on whether the drops have been applied yet.
  Write(0, 1, 0, 2, Path::kElsewhere);
  Checkpoint();
  CopyAgain(true);
  if (Ok(store_->CreateVolume(kShortLived, kVolumeTracks * kTrackBytes, "short"), "create"))
    (void)Ok(store_->DeleteVolume(kShortLived), "delete");
  (void)Ok(store_->ResizeVolume(volumes_[0].id, (kVolumeTracks + 1) * kTrackBytes), "resize");
  for (const RelationshipInfo& relation : store_->ListRelationships())
    (void)Ok(store_->Withdraw(relation.id), "withdraw");
  Write(0, 1, 6, 1, Path::kElsewhere);
  Flush();
  Write(0, 1, 6, 1, Path::kInPlace);
  Checkpoint();
}

void FaultRun::Write(size_t volume, size_t track, uint32_t first, uint32_t count, Path path) {
  std::vector<uint8_t> data(count * kSubBytes);
  for (uint32_t i = 0; i < count; ++i) {
    volumes_[volume].locations[track][first + i].Begin(next_value_, false);
    FillBlock(&data[i * kSubBytes], next_value_++);
  }
  const uint64_t offset = volumes_[volume].used[track] * kTrackBytes + first * kSubBytes;
  const Status status = handles_[volume].Write(*slot_, offset, data.data(), data.size());
  (void)Ok(status, "write");
  Answered(volume, track, first, count, path, status);
}

// The second half of a sub-block whose content is known.
void FaultRun::WritePart(size_t volume, size_t track, uint32_t sub, Path path) {
  Location& place = volumes_[volume].locations[track][sub];
  std::vector<uint8_t> half(kSubBytes / 2);
  for (size_t at = 0; at < half.size(); at += sizeof next_value_)
    std::memcpy(&half[at], &next_value_, sizeof next_value_);
  Version next;
  for (const Value value : place.Candidates().live) {
    std::vector<uint8_t> block(kSubBytes);
    if (value >> 63) return;  // a half was written here before
    FillBlock(block.data(), value);
    std::copy(half.begin(), half.end(), block.begin() + kSubBytes / 2);
    next.live.insert(ValueOf(block.data()));
  }
  next.crash = next.live;
  ++next_value_;
  place.Begin(0, false);
  place.versions.back() = next;
  const uint64_t offset =
      volumes_[volume].used[track] * kTrackBytes + sub * kSubBytes + kSubBytes / 2;
  Answered(volume, track, sub, 1, path,
           handles_[volume].Write(*slot_, offset, half.data(), half.size()));
}

void FaultRun::Zero(size_t volume, size_t track, uint32_t first, uint32_t count, bool trim) {
  for (uint32_t i = 0; i < count; ++i) volumes_[volume].locations[track][first + i].Begin(0, true);
  const uint64_t offset = volumes_[volume].used[track] * kTrackBytes + first * kSubBytes;
  const uint64_t length = count * kSubBytes;
  const Status status = trim ? handles_[volume].Trim(*slot_, offset, length)
                             : handles_[volume].WriteZeroes(*slot_, offset, length, false);
  Answered(volume, track, first, count, Path::kElsewhere, status);
}

void FaultRun::Answered(size_t volume, size_t track, uint32_t first, uint32_t count, Path path,
                        const Status& status) {
  // A zero of what is zero already needs no pool that takes writes.
  const bool ok = status.ok() || Ok(status, "write");
  if (!ok && hit_track_ && path == Path::kElsewhere)
    Fail("a write was refused although another track would have taken it (T13)");
  for (uint32_t i = 0; i < count; ++i) {
    Location& place = volumes_[volume].locations[track][first + i];
    if (ok)
      place.Acknowledge();
    else if (path == Path::kInPlace)
      place.Fail();
    else
      place.Refuse();
  }
}

bool FaultRun::Ok(const Status& status, const char* what) {
  if (status.ok()) {
    if (poisoned_) Fail(std::string(what) + " answered OK on a pool that had stopped");
    return true;
  }
  CheckText(status, what);
  return false;
}

void FaultRun::CheckText(const Status& status, const char* what) {
  const std::string text = status.message();
  const Code code = status.code();
  if (OnlyOneCopy())
    return Fail(std::string(what) + " failed with one of two copies of the metadata: " + text);
  if (code != Code::kIo && code != Code::kNoSpace && code != Code::kPoisoned)
    // Of operations on what an earlier refusal kept from coming into being.
    if (code != Code::kNotFound && code != Code::kBusy && code != Code::kExists)
      return Fail(std::string(what) + " answered " + text);
  if (hit_.empty()) return Fail(std::string(what) + " failed without a fault: " + text);
  if (code == Code::kIo || code == Code::kNoSpace || code == Code::kPoisoned)
    if (text.find("pool") == std::string::npos)
      return Fail(std::string(what) + ": the message names no file: " + text);
  if (code != Code::kPoisoned) return;
  poisoned_ = true;
  if (text.find("the data flush") != std::string::npos) data_lost_ = true;
  if (text.find("restart flashlun") == std::string::npos || text.find("pool/") == std::string::npos)
    Fail("the message does not say which file and what to do: " + text);
}

void FaultRun::Flush() {
  std::vector<size_t> covered;
  for (SimVolume& volume : volumes_)
    volume.ForEach([&](Location& place) { covered.push_back(place.acked); });
  if (!Ok(store_->Flush(), "flush")) return;
  size_t at = 0;
  for (SimVolume& volume : volumes_)
    volume.ForEach(
        [&](Location& place) { place.power_floor = std::max(place.power_floor, covered[at++]); });
}

void FaultRun::FlipsDurable(const Status& status) {
  if (!status.ok()) return;
  for (SimVolume& volume : volumes_)
    volume.ForEach([](Location& place) { place.FlipDurable(place.last_flip); });
}

void FaultRun::Establish() {
  const PairSpec pairs[] = {{volumes_[0].id, volumes_[1].id, kRelNoCopy},
                            {volumes_[2].id, volumes_[3].id, 0}};
  std::vector<uint64_t> ids;
  const Status status = store_->Establish(pairs, &ids);
  (void)Ok(status, "establish");
  FlipsDurable(status);
}

void FaultRun::CopyAgain(bool reverse) {
  const std::vector<RelationshipInfo> now = store_->ListRelationships();
  if (now.empty()) return;
  const Status status = reverse ? store_->Reverse(now.front().id) : store_->Resync(now.front().id);
  (void)Ok(status, reverse ? "reverse" : "resync");
  FlipsDurable(status);
}

void FaultRun::Copy() {
  for (const RelationshipInfo& relation : store_->ListRelationships()) {
    if (relation.flags & kRelNoCopy) continue;
    for (int batch = 0; batch < 3; ++batch) {
      Result<CopyBatchResult> result = store_->CopyBatch(relation.id, 0, 2);
      if (!Ok(result.TakeStatus(), "copy") || (result.ok() && result.value().done)) break;
    }
  }
}

// Patient, not stubborn: with the file system full for ever there is no checkpoint.
void FaultRun::Checkpoint() {
  const uint64_t before = store_->Info().checkpoints;
  store_->impl().RequestCheckpoint();
  for (int i = 0; i < kCheckpointPatience; ++i) {
    const StoreInfo info = store_->Info();
    if (info.checkpoints != before) return;
    if (!info.poisoned.empty())
      return CheckText(Status(Code::kPoisoned, info.poisoned), "checkpoint");
    fibers_->Yield();
  }
  if (plan_.fault != Fault::kNoSpace) Fail("the checkpoint does not come");
}

// A copy that failed is told, and its failure stays.
void FaultRun::CheckDegraded() {
  if (copy_dropped_ && store_->Info().mirror_problem.empty())
    Fail("a copy of the metadata failed, and nothing says so");
  copy_dropped_ = false;
}

void FaultRun::Close() {
  CheckDegraded();
  handles_.clear();
  store_->ReleaseSlot(slot_);
  slot_ = nullptr;
  durable_all_ = Ok(store_->Close(), "close");
  store_.reset();
  copy_dropped_ = false;  // the next open heals it
  if (!durable_all_) return;
  for (SimVolume& volume : volumes_)
    volume.ForEach([&](Location& place) { place.power_floor = place.acked; });
}

// What is answered OK is right, also after a fault.
void FaultRun::ReadAll() {
  std::vector<uint8_t> data(kTrackBytes);
  for (size_t i = 0; i < kVolumes; ++i) {
    for (size_t track = 0; track < volumes_[i].used.size(); ++track) {
      const Status status = handles_[i].Read(*slot_, volumes_[i].used[track] * kTrackBytes,
                                             data.data(), kTrackBytes, ReadMode::kBlocking);
      if (!status.ok()) {
        CheckText(status, "read");
        continue;
      }
      for (uint32_t sub = 0; sub < kSubsPerTrack; ++sub) {
        Location& place = volumes_[i].locations[track][sub];
        const Value value = ValueOf(&data[sub * kSubBytes]);
        if (!place.LiveAllowsFrom(place.live_floor, value))
          return Fail("live: volume " + std::to_string(i) + " track " + std::to_string(track) +
                      " sub " + std::to_string(sub) + " reads " + std::to_string(value) + ", " +
                      place.Describe(false));
      }
    }
  }
}

void FaultRun::CheckCrashes() {
  using enum PowerCut::Keep;
  std::vector<Value> found;
  const auto check = [&](std::unique_ptr<SimIo> machine, bool power_loss, const char* how) {
    ++states_;
    const std::string problem = Recover(*machine, power_loss, &found);
    if (!problem.empty()) Fail(std::string(how) + ": " + problem);
  };
  check(io_->Crash(CrashKind::kKill, check_rng_, nullptr), data_lost_, "kill");
  for (const PowerCut& cut : {PowerCut{kNone, 0, false}, PowerCut{kAll, 0, false},
                              PowerCut{kHalf, 0, true}, PowerCut{kMost, 0, true}})
    check(io_->LosePower(cut, check_rng_, nullptr), true, "power loss");
}

std::string FaultRun::Recover(SimIo& machine, bool power_loss, std::vector<Value>* found) {
  Result<std::unique_ptr<Store>> opened = Store::Open(machine, Options());
  if (!opened.ok()) return "recovery: " + opened.status().message();
  Store& store = *opened.value();
  OpSlot* slot = store.AcquireSlot();
  std::string problem;
  found->clear();
  for (size_t i = 0; i < kVolumes && problem.empty(); ++i) {
    if (!exists_[i] && !store.GetVolume(volumes_[i].id).ok()) continue;
    problem = VerifyVolume({store, *slot, power_loss, found}, volumes_[i]);
  }
  store.ReleaseSlot(slot);
  return problem;
}

// The disk is well again: the pool opens, and what it then shows survives a power loss after the
// next flush (a page cache that holds what the disk never got would not).
void FaultRun::CheckReopen() {
  handles_.clear();
  store_.reset();
  fibers_ = std::make_unique<Fibers>(rng_);
  const std::unique_ptr<SimIo> machine = io_->Crash(CrashKind::kKill, rng_, fibers_.get());
  machine->set_orderly();
  fibers_->Spawn("reopened", [&] { Reopened(*machine); });
  const std::string deadlock = fibers_->Run([] { return true; });
  if (!deadlock.empty()) Fail("reopened: " + deadlock);
}

void FaultRun::Reopened(SimIo& machine) {
  Result<std::unique_ptr<Store>> opened = Store::Open(machine, Options());
  if (!opened.ok()) return Fail("reopen: " + opened.status().message());
  std::unique_ptr<Store> store = std::move(opened.value());
  if (const std::string problem = store->Info().mirror_problem; !problem.empty())
    return Fail("reopen: not healed: " + problem);
  OpSlot* slot = store->AcquireSlot();
  std::vector<Value> shown;
  for (size_t i = 0; i < kVolumes; ++i) {
    if (!store->GetVolume(volumes_[i].id).ok()) continue;
    if (std::string problem = VerifyVolume({*store, *slot, data_lost_, &shown}, volumes_[i]);
        !problem.empty())
      return Fail("reopen: " + problem);
  }
  if (Status status = store->Flush(); !status.ok()) return Fail("reopened: " + status.message());
  store->ReleaseSlot(slot);
  FiberScheduler* const here = std::exchange(t_fibers, nullptr);
  std::vector<Value> found;
  const std::unique_ptr<SimIo> after =
      machine.LosePower({PowerCut::Keep::kNone, 0, false}, check_rng_, nullptr);
  const std::string problem = Recover(*after, true, &found);
  t_fibers = here;
  if (!problem.empty()) return Fail("power loss after the reopen: " + problem);
  if (found != shown) return Fail("power loss after the reopen: something flushed is lost");
  if (Status status = store->Close(); !status.ok())
    return Fail("close after the reopen: " + status.message());
}

}  // namespace flashlun
