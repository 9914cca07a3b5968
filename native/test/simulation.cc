#include "test/simulation.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "core/check.h"
#include "core/mirror.h"
#include "core/mutation.h"
#include "core/pages.h"
#include "core/superblock.h"

namespace flashlun {
namespace {

// Small enough that tracks are re-used all the time, that the journal wraps and the kill ring
// throttles.
constexpr uint64_t kPoolTracks[] = {72, 72, 72, 40, 28};
constexpr uint64_t kJournalBlocks[] = {24, 16};
constexpr uint64_t kRingBytes = 16384;
constexpr const char* kMirror = "mirror";
// One crash state in this many steps.
constexpr uint64_t kStepsPerCrash = 12;
// A run is some thousand steps; one that takes this many waits for something that never comes.
constexpr uint64_t kMostSteps = 100'000;
// A death after which the run goes on, about once in this many steps.
constexpr uint64_t kStepsPerDeath = 1500;

const char* const kDidNames[] = {"writes",           "over two tracks", "below 4 KiB",
                                 "halves at once",   "written through", "zeroes",
                                 "zeroes, no hole",  "trims",           "zeroes < 4 KiB",
                                 "trims < 4 KiB",    "reads",           "flushes",
                                 "establishes",      "groups",          "resyncs",
                                 "resync groups",    "reverses",        "withdraws",
                                 "resizes",          "copy batches",    "checkpoints",
                                 "scrubs",           "deletes",         "across pools",
                                 "thick writes",     "pools",           "pool growths",
                                 "tracks discarded", "full area",       "without the rest",
                                 "no space",         "disk faults",     "refused: stopped",
                                 "deaths",           "copies destroyed"};
static_assert(std::size(kDidNames) == static_cast<size_t>(Did::kCount));

}  // namespace

const char* NameOf(Did did) { return kDidNames[static_cast<size_t>(did)]; }

Simulation::Simulation(uint64_t seed, bool mirrored)
    : rng_(seed),
      direct_(seed % 4 == 3),
      mirrored_(mirrored),
      journal_blocks_(kJournalBlocks[seed % 3 == 1 ? 1 : 0]),
      several_pools_(seed / 4 % 2 == 1),
      thick_(several_pools_ && seed / 8 % 2 == 1) {
  MakeVolumes(seed);
  pool_tracks_ = kPoolTracks[rng_() % std::size(kPoolTracks)];
  if (several_pools_) pool_tracks_ /= 2;
}

void Simulation::MakeVolumes(uint64_t seed) {
  // The last used track of the first volume comes into being when it is resized.
  if (thick_) {
    // Small and written in full, so that the claims of two of them, or of all four, nearly fill a
    // pool and are needed; or twice as large, so that claims wait for growth.
    most_tracks_ = seed / 16 % 3 == 1 ? 8 : 4;
    for (uint16_t id = 0x1000; id <= 0x1003; ++id)
      volumes_.emplace_back(id, id == 0x1000 ? 3 : most_tracks_, std::vector<uint64_t>{0, 1, 2, 3});
  } else {
    volumes_.emplace_back(uint16_t{0x1000}, 513, std::vector<uint64_t>{0, 511, 512, 513});
    for (uint16_t id = 0x1001; id <= 0x1003; ++id)
      volumes_.emplace_back(id, kIndexTracks + 1,
                            std::vector<uint64_t>{0, 511, 512, 513, kIndexTracks});
  }
  const bool all = seed / 16 % 3 == 2;
  for (size_t i = 0; i < volumes_.size(); ++i) {
    volumes_[i].thick = thick_ && (all || i % 2 == 0);
    const bool second = thick_ || (seed / 16 >> i & 1) != 0;
    volumes_[i].pool = several_pools_ && second ? 1 : 0;
  }
}

Simulation::~Simulation() { handles_.clear(); }

StoreOptions Simulation::Options() const {
  StoreOptions options;
  options.dir = "pool";
  options.capacity_bytes = pool_tracks_ * kTrackBytes;
  options.journal_blocks = journal_blocks_;
  options.kill_ring_bytes = kRingBytes;
  options.direct = direct_;
  options.write_out_bytes = 32768;
  if (mirrored_) options.meta_mirror = kMirror;
  return options;
}

// Up to three lives of one machine: a death in the middle, and the next session goes on with what
// was recovered.
std::string Simulation::Run() {
  fibers_ = std::make_unique<Fibers>(rng_);
  ForgetContents();
  io_ = MakePool(Options(), rng_, fibers_.get());
  crashes_left_ = static_cast<int>(rng_() % 3);
  for (;;) {
    crashed_ = false;
    const std::string problem = RunSession();
    if (!problem.empty()) return problem + " (step " + std::to_string(steps_) + ")";
    if (!crashed_) break;
    Count(Did::kDeath);
    if (std::string wrong = AdoptRecoveredState(); !wrong.empty()) return wrong;
  }
  return VerifyAfterCrash(*io_->Crash(CrashKind::kPowerLoss, rng_, nullptr), true, true);
}

std::string Simulation::RunSession() {
  fibers_->Spawn("start", [this] { Start(); });
  const std::string deadlock = fibers_->Run([this] { return AfterStep(); });
  return failure_.empty() ? deadlock : failure_;
}

// The machine died for good: what a recovery finds becomes the one truth of the oracle.
std::string Simulation::AdoptRecoveredState() {
  const bool lost = DataLost();
  const bool power_loss = rng_() % 2 == 0;
  std::unique_ptr<SimIo> after =
      io_->Crash(power_loss ? CrashKind::kPowerLoss : CrashKind::kKill, rng_, nullptr);
  // As in a real death nobody cleans up: what the fibers held is gone with them.
  handles_.clear();
  store_.reset();
  fibers_ = std::make_unique<Fibers>(rng_);
  if (std::string problem = VerifyAfterCrash(*after, power_loss || lost, false); !problem.empty())
    return std::string(power_loss ? "power loss: " : "kill: ") + problem;
  Result<std::unique_ptr<Store>> store = Store::Open(*after, Options());
  if (!store.ok()) return "second recovery: " + store.status().message();
  OpSlot* slot = store.value()->AcquireSlot();
  for (SimVolume& volume : volumes_) {
    volume.tracks = store.value()->GetVolume(volume.id).value().size_bytes / kTrackBytes;
    for (size_t track = 0; track < volume.used.size(); ++track) {
      if (volume.used[track] >= volume.tracks) {
        volume.locations[track] = {};
        continue;
      }
      for (uint32_t sub = 0; sub < kSubsPerTrack; ++sub) {
        const uint64_t offset = volume.used[track] * kTrackBytes + sub * kSubBytes;
        Value value;
        const std::string problem = ReadValue(*store.value(), *slot, volume.id, offset, &value);
        if (!problem.empty()) return "second recovery: " + problem;
        if (value >> 63 && !Known(value)) return "second recovery: a torn block";
        volume.locations[track][sub] = Location();
        volume.locations[track][sub].versions = {Version{{value}, {value}}};
      }
    }
  }
  store.value()->ReleaseSlot(slot);
  store.value().reset();
  io_ = after->Crash(CrashKind::kKill, rng_, fibers_.get());
  hosts_running_ = 0;
  full_until_ = 0;
  // A power loss may have taken back how an establish and its copy ended.
  for (SimVolume& volume : volumes_)
    if (volume.id >= 0x1002 && (power_loss || lost))
      volume.independent = volume.rest_independent = false;
  chain_ready_ = false;
  group_begun_ms_ = 0;
  last_group_ms_ = INT64_MAX;
  faulty_ = sync_failed_ = false;
  return {};
}

// In some sessions the disk fails for a while.
void Simulation::ArmFaults() {
  if (several_pools_) ArmFullArea();
  io_->set_hook([this](const IoCall& call) { return Decide(call); });
  if (rng_() % 6 != 0) return;
  faulty_ = true;
  full_until_ = 0;
  fault_ = rng_() % 2 ? Fault::kEio : Fault::kNoSpace;
  fault_from_ = io_->calls() + rng_() % 400;
  fault_until_ = fault_from_ + 1 + rng_() % (rng_() % 4 == 0 ? 100 : 3);
}

Fault Simulation::Decide(const IoCall& call) {
  if (call.middle) return Fault::kNone;
  if (const Fault full = SpaceOf(call); full != Fault::kNone) return full;
  if (!faulty_ || call.index < fault_from_ || call.index >= fault_until_) return Fault::kNone;
  const bool can_be_full = call.kind == IoKind::kWrite || call.kind == IoKind::kAllocate;
  if (fault_ == Fault::kNoSpace && !can_be_full) return Fault::kNone;
  Count(Did::kFault);
  if (call.kind == IoKind::kSync && call.path.ends_with("tracks")) sync_failed_ = true;
  return fault_;
}

bool Simulation::DataLost() { return sync_failed_; }

bool Simulation::Tolerated(const Status& status) {
  if (status.code() == Code::kNoSpace) {
    Count(Did::kRefusedNoSpace);
    return true;
  }
  if (!faulty_) return false;
  if (status.code() == Code::kPoisoned) Count(Did::kStopped);
  return status.code() == Code::kPoisoned || status.code() == Code::kIo;
}

bool Simulation::Expected(const Status& status, const char* what, const SimVolume* volume) {
  if (volume != nullptr && !MayRefuse(*volume, status, what)) return false;
  if (status.ok() || Tolerated(status)) return true;
  Fail(std::string(what) + ": " + status.message());
  return false;
}

void Simulation::CreateVolumes() {
  for (const SimVolume& volume : volumes_) {
    if (store_->GetVolume(volume.id).ok()) continue;
    const Status status = store_->CreateVolume(volume.id, volume.tracks * kTrackBytes, "",
                                               {.pool = volume.pool, .thick = volume.thick});
    if (!status.ok()) return Fail("create: " + status.message());
  }
}

void Simulation::Start() {
  Result<std::unique_ptr<Store>> store = Store::Open(*io_, Options());
  if (!store.ok()) return Fail("open: " + store.status().message());
  store_ = std::move(store.value());
  if (several_pools_) CreatePools();
  CreateVolumes();
  if (!failure_.empty()) return;
  for (const SimVolume& volume : volumes_) handles_.push_back(store_->Attach(volume.id).value());
#ifdef FLASHLUN_MUTATIONS
  store_->impl().on_flip = [this](const PairSpec& pair) { OnFlip(pair); };
#endif
  ArmFaults();
  SpawnFibers();
}

void Simulation::SpawnFibers() {
  hot_ = rng_() % 2 == 0;
  const int hosts = 2 + static_cast<int>(rng_() % 4);
  hosts_running_ = hosts + 3;
  for (int i = 0; i < hosts; ++i) fibers_->Spawn("host", [this] { HostFiber(24); });
  fibers_->Spawn("flush", [this] { FlushFiber(6); });
  fibers_->Spawn("establish", [this] { EstablishFiber(5); });
  fibers_->Spawn("chain", [this] { ChainFiber(16); });
  if (rng_() % 2 == 0 || several_pools_) fibers_->Spawn("copy", [this] { CopyFiber(); });
  if (rng_() % 2 == 0) fibers_->Spawn("verify", [this] { VerifyFiber(); });
  if (rng_() % 2 == 0) fibers_->Spawn("checkpoint", [this] { CheckpointFiber(2); });
  if (rng_() % 2 == 0) {
    ++hosts_running_;
    fibers_->Spawn("churn", [this] { ChurnFiber(4); });
  }
  if (several_pools_ && rng_() % 4 != 0) {
    ++hosts_running_;
    fibers_->Spawn("pools", [this] { PoolsFiber(4); });
  }
  fibers_->Spawn("end", [this] { EndFiber(); });
}

void Simulation::EndFiber() {
  while (!Idle()) fibers_->Yield();
  // One more round of settling for the tasks that run on their own, then an orderly end.
  for (int i = 0; i < 200; ++i) fibers_->Yield();
  did_[static_cast<size_t>(Did::kTrimmed)] += store_->Info().trimmed_tracks;
  const Status status = store_->Close();
  if (!Expected(status, "close") || status.ok()) return;
  // The pool could not be closed in order: the next life recovers it.
  crashed_ = true;
}

bool Simulation::AfterStep() {
  if (++steps_ > kMostSteps) Fail("somebody waits for ever");
  if (!failure_.empty()) return false;
  if (store_ == nullptr || handles_.size() != volumes_.size()) return true;
  if (crashes_left_ > 0 && rng_() % kStepsPerDeath == 0) {
    --crashes_left_;
    crashed_ = true;
    return false;
  }
  if (copy_ended_ && !DataLost())
    if (std::string problem = CheckIndependence(); !problem.empty()) Fail(problem);
  copy_ended_ = false;
  // And after each checkpoint: what it names must be on the disk, and from the one before it a
  // recovery must get as far.
  const uint64_t checkpoints = store_->Info().checkpoints;
  const bool fresh = std::exchange(checkpoints_, checkpoints) < checkpoints;
  if (!fresh && rng_() % kStepsPerCrash != 0) return true;
  const bool power_loss = rng_() % 2 == 0;
  std::string problem = CheckCrash(power_loss, fresh);
  if (problem.empty() && fresh) problem = CheckCrash(!power_loss, true);
  if (!problem.empty()) Fail(problem);
  return failure_.empty();
}

std::string Simulation::CheckCrash(bool power_loss, bool twice) {
  const bool lost = DataLost();
  // Between the failed flush and the moment the engine knows of it, a kill finds records of data
  // that the disk never got: no design without a checksum for every block can tell.
  if (!power_loss && lost && store_->Info().poisoned.empty()) return {};
  const CrashKind kind = power_loss ? CrashKind::kPowerLoss : CrashKind::kKill;
  if (several_pools_ && kind == CrashKind::kKill && !lost && rng_() % 4 == 0)
    if (std::string problem = CheckIndependence(); !problem.empty()) return problem;
  std::unique_ptr<SimIo> after = io_->Crash(kind, rng_, nullptr);
  // Sometimes the recovery itself dies, by either death, and a second one follows.
  bool lost_power = power_loss || lost;
  const bool dies = rng_() % (mirrored_ ? 3 : 8) == 0;
  if (dies) {
    after->DieAfter(rng_() % 12);
    try {
      (void)Store::Open(*after, Options());
    } catch (const SimulatedDeath&) {
    }
    ++crash_states_;
    const bool again = rng_() % 2 == 0;
    lost_power = lost_power || again;
    after = after->Crash(again ? CrashKind::kPowerLoss : CrashKind::kKill, rng_, nullptr);
  }
  ++crash_states_;
  std::string how = lost_power ? "power loss" : "kill";
  if (faulty_) how += ", disk with faults";
  if (rng_() % 16 == 0) {
    DamageCheckpoint(*after);
    how += ", checkpoint damaged";
  }
  // What died while it made the copies equal must not have spoilt the one that was whole.
  if (mirrored_ && rng_() % (dies ? 2 : 4) == 0) how += DestroyCopy(*after);
  std::string problem = VerifyAfterCrash(*after, lost_power, false);
  if (problem.empty() && (twice || rng_() % 4 == 0)) {
    // A second death right after the recovery, and then the checkpoint is damaged too, or not.
    const bool again = rng_() % 2 == 0;
    after = after->Crash(again ? CrashKind::kPowerLoss : CrashKind::kKill, rng_, nullptr);
    how += again ? ", then power loss" : ", then kill";
    if (rng_() % 2 == 0) {
      DamageCheckpoint(*after);
      how += ", checkpoint damaged";
    }
    if (mirrored_ && rng_() % 2 == 0) how += DestroyCopy(*after);
    ++crash_states_;
    problem = VerifyAfterCrash(*after, lost_power || again, false);
  }
  return problem.empty() ? "" : how + ": " + problem;
}

// The current checkpoint does not verify: the one before it and a longer replay give the same state
// (trap T11). In every copy of the metadata: each has its own.
void Simulation::DamageCheckpoint(SimIo& machine) {
  for (const char* path : {"pool/meta", kMirror}) {
    if (!machine.Exists(path)) continue;
    std::unique_ptr<File> meta = std::move(machine.OpenFile(path, {}).value());
    Result<Superblock> superblock = ReadSuperblock(*meta);
    if (!superblock.ok()) continue;
    const CheckpointRef& current = superblock.value().current;
    if (current.manifest_bytes == 0) continue;
    // Its manifest is never a page of the checkpoint before as well.
    const uint64_t begin =
        PagesOffset(superblock.value().journal_blocks) + current.manifest_page * kPageBytes;
    machine.FlipBit(path, begin + rng_() % current.manifest_bytes);
  }
}

// One of the two copies of the metadata is lost, in whole or in part; says how. Of those that
// count: the other one holds everything.
std::string Simulation::DestroyCopy(SimIo& machine) {
  Result<std::unique_ptr<File>> tracks = machine.OpenFile("pool/tracks", {});
  if (!tracks.ok()) return {};
  const Witness witness = ReadWitness(*tracks.value()).value();
  const size_t copy =
      witness.counts == Counts::kBoth ? rng_() % 2 : witness.counts == Counts::kOnlyPrimary;
  const std::string path = copy == 0 ? "pool/meta" : kMirror;
  if (!witness.attached() || !machine.Exists(path)) return {};
  const uint64_t pages = PagesOffset(journal_blocks_);
  const uint64_t kind = rng_() % 7;
  const char* const kKinds[] = {
      "superblocks", "a journal block", "a page", "identity", "bits all over", "end", "whole file"};
  switch (kind) {
    case 0:
      for (const uint64_t at : kSuperblockOffsets) machine.FlipBit(path, at + rng_() % 248);
      break;
    case 1:
      machine.FlipBit(path, kJournalOffset + rng_() % (journal_blocks_ * kBlockBytes));
      break;
    case 2:
      machine.FlipBit(path, pages + rng_() % (24 * kPageBytes));
      break;
    case 3:
      machine.FlipBit(path, kIdentityOffset + rng_() % 56);
      break;
    case 4:
      for (int i = 0; i < 64; ++i)
        machine.FlipBit(path, kJournalOffset + rng_() % (pages + 16 * kPageBytes - kJournalOffset));
      break;
    case 5:
      (void)machine.OpenFile(path, {}).value()->Truncate(kJournalOffset +
                                                         rng_() % (64 * kPageBytes));
      break;
    default:
      machine.Remove(path);
      break;
  }
  Count(Did::kCopyDestroyed);
  return ", then " + path + " lost its " + kKinds[kind];
}

// After every open there are two copies, and they are equal.
std::string Simulation::CheckMirror(SimIo& machine, const StoreInfo& info) {
  if (!info.mirror_problem.empty()) return "not healed: " + info.mirror_problem;
  if (rng_() % 16 != 0) return {};
  const std::unique_ptr<File> primary = std::move(machine.OpenFile("pool/meta", {}).value());
  const std::unique_ptr<File> mirror = std::move(machine.OpenFile(kMirror, {}).value());
  return SameContent(*primary, *mirror).value() ? "" : "the copies of the metadata differ";
}

std::string Simulation::VerifyAfterCrash(SimIo& io, bool power_loss, bool closed) {
  Result<std::unique_ptr<Store>> opened = Store::Open(io, Options());
  if (!opened.ok()) return "recovery: " + opened.status().message();
  Store& store = *opened.value();
  // With the disk full there is no last checkpoint; the journal has everything.
  if (closed && !faulty_ && store.Info().recovered_records != 0)
    return "records were replayed after an orderly close";
  OpSlot* slot = store.AcquireSlot();
  std::string problem = mirrored_ ? CheckMirror(io, store.Info()) : "";
  // After an orderly close nothing is lost, whatever happens to the machine.
  for (SimVolume& volume : volumes_)
    if (problem.empty()) problem = VerifyVolume({store, *slot, power_loss && !closed}, volume);
  for (const SimVolume& volume : volumes_)
    if (problem.empty() && store.Info().sealed_tracks != 0) problem = Scrub(store, volume.id);
  if (problem.empty() && several_pools_) problem = VerifyPools(store);
  if (problem.empty()) problem = VerifyGroups(store, *slot);
  if (problem.empty() && group_begun_ms_ != 0) {
    int64_t of_group = 0;
    for (const RelationshipInfo& relation : store.ListRelationships())
      of_group += relation.t0_unix_ms > group_begun_ms_ && relation.target_id <= 0x1003;
    if (of_group == 1) problem = "half of a group was established";
  }
  store.ReleaseSlot(slot);
  return problem;
}

void Simulation::Fail(const std::string& message) {
  if (failure_.empty()) failure_ = message;
}

}  // namespace flashlun
