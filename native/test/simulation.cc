#include "test/simulation.h"

#include <algorithm>
#include <cstring>

#include "core/check.h"
#include "core/mutation.h"
#include "test/awaited.h"

namespace flashlun {
namespace {

// Small enough that tracks are re-used all the time, that the journal wraps and the kill ring
// throttles.
constexpr uint64_t kPoolTracks = 72;
constexpr uint64_t kJournalBlocks = 24;
constexpr uint64_t kRingBytes = 16384;
// One crash state in this many steps.
constexpr uint64_t kStepsPerCrash = 12;
// A death after which the run goes on, about once in this many steps.
constexpr uint64_t kStepsPerDeath = 1500;
// Dependent writes alternate between this place on volumes 0 and 1; nobody else writes there.
constexpr size_t kChainTrack = 2;
constexpr uint32_t kChainSub = 15;
constexpr Value kChainBase = Value{1} << 40;
// What recycled and never written tracks hold: no host ever wrote it.
constexpr Value kForeign = 0xbadbadbadbadbad;

void FillBlock(uint8_t* block, Value value) {
  for (size_t at = 0; at < kSubBytes; at += sizeof value)
    std::memcpy(block + at, &value, sizeof value);
}

// The value of a block, or an error when it is a mixture.
bool ValueOf(const uint8_t* block, Value* value) {
  std::memcpy(value, block, sizeof *value);
  return std::memcmp(block, block + sizeof *value, kSubBytes - sizeof *value) == 0;
}

Value ChainSequence(Value value) { return value < kChainBase ? 0 : value - kChainBase; }

}  // namespace

Simulation::Simulation(uint64_t seed) : rng_(seed), direct_(seed % 4 == 3) {
  volumes_.emplace_back(uint16_t{0x1000}, 513, std::vector<uint64_t>{0, 511, 512});
  for (uint16_t id = 0x1001; id <= 0x1003; ++id)
    volumes_.emplace_back(id, kIndexTracks + 1, std::vector<uint64_t>{0, 511, 512, kIndexTracks});
}

Simulation::~Simulation() { handles_.clear(); }

StoreOptions Simulation::Options() const {
  StoreOptions options;
  options.dir = "pool";
  options.capacity_bytes = kPoolTracks * kTrackBytes;
  options.journal_blocks = kJournalBlocks;
  options.kill_ring_bytes = kRingBytes;
  options.direct = direct_;
  options.write_out_bytes = 32768;
  return options;
}

// A machine with an empty pool whose tracks hold foreign bytes.
std::unique_ptr<SimIo> Simulation::FreshPool() {
  SimIo quiet(rng_, nullptr);
  Result<std::unique_ptr<Store>> store = Store::Open(quiet, Options());
  FL_CHECK(store.ok());
  store.value().reset();
  std::unique_ptr<File> tracks = std::move(quiet.OpenFile("pool/tracks", {}).value());
  uint8_t block[kSubBytes];
  FillBlock(block, kForeign);
  for (uint64_t at = 0; at < kPoolTracks * kSubsPerTrack; ++at)
    FL_CHECK(tracks->Pwrite((1 << 20) + at * kSubBytes, block, kSubBytes).ok());
  FL_CHECK(tracks->Fdatasync().ok());
  return quiet.Crash(CrashKind::kKill, rng_, fibers_.get());
}

// Up to three lives of one machine: a death in the middle, and the next session goes on with what
// was recovered.
std::string Simulation::Run() {
  fibers_ = std::make_unique<Fibers>(rng_);
  io_ = FreshPool();
  crashes_left_ = static_cast<int>(rng_() % 3);
  for (;;) {
    crashed_ = false;
    const std::string problem = RunSession();
    if (!problem.empty()) return problem + " (step " + std::to_string(steps_) + ")";
    if (!crashed_) break;
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
  const bool power_loss = rng_() % 2 == 0;
  std::unique_ptr<SimIo> after =
      io_->Crash(power_loss ? CrashKind::kPowerLoss : CrashKind::kKill, rng_, nullptr);
  // As in a real death nobody cleans up: what the fibers held is gone with them.
  handles_.clear();
  store_.reset();
  fibers_ = std::make_unique<Fibers>(rng_);
  if (std::string problem = VerifyAfterCrash(*after, power_loss, false); !problem.empty())
    return std::string(power_loss ? "power loss: " : "kill: ") + problem;
  Result<std::unique_ptr<Store>> store = Store::Open(*after, Options());
  if (!store.ok()) return "second recovery: " + store.status().message();
  OpSlot* slot = store.value()->AcquireSlot();
  for (SimVolume& volume : volumes_) {
    for (size_t track = 0; track < volume.used.size(); ++track) {
      for (uint32_t sub = 0; sub < kSubsPerTrack; ++sub) {
        const uint64_t offset = volume.used[track] * kTrackBytes + sub * kSubBytes;
        Value value;
        std::string problem = ReadValue(*store.value(), *slot, volume.id, offset, &value);
        if (!problem.empty()) return "second recovery: " + problem;
        volume.locations[track][sub] = Location();
        volume.locations[track][sub].versions = {Version{{value}, {value}}};
      }
    }
  }
  store.value()->ReleaseSlot(slot);
  store.value().reset();
  io_ = after->Crash(CrashKind::kKill, rng_, fibers_.get());
  hosts_running_ = 0;
  chain_ready_ = false;
  group_begun_ms_ = 0;
  last_group_ms_ = INT64_MAX;
  return {};
}

void Simulation::CreateVolumes() {
  for (const SimVolume& volume : volumes_) {
    const Status status = store_->CreateVolume(volume.id, volume.tracks * kTrackBytes, "");
    if (!status.ok() && status.code() != Code::kExists) return Fail("create: " + status.message());
  }
}

void Simulation::Start() {
  Result<std::unique_ptr<Store>> store = Store::Open(*io_, Options());
  if (!store.ok()) return Fail("open: " + store.status().message());
  store_ = std::move(store.value());
  CreateVolumes();
  for (const SimVolume& volume : volumes_) handles_.push_back(store_->Attach(volume.id).value());
#ifdef FLASHLUN_MUTATIONS
  store_->impl().on_flip = [this](const PairSpec& pair) { OnFlip(pair); };
#endif
  hot_ = rng_() % 2 == 0;
  const int hosts = 2 + static_cast<int>(rng_() % 4);
  hosts_running_ = hosts + 3;
  for (int i = 0; i < hosts; ++i) fibers_->Spawn("host", [this] { HostFiber(24); });
  fibers_->Spawn("flush", [this] { FlushFiber(6); });
  fibers_->Spawn("establish", [this] { EstablishFiber(5); });
  fibers_->Spawn("chain", [this] { ChainFiber(16); });
  if (rng_() % 2 == 0) fibers_->Spawn("copy", [this] { CopyFiber(); });
  if (rng_() % 2 == 0) fibers_->Spawn("checkpoint", [this] { CheckpointFiber(2); });
  if (rng_() % 2 == 0) {
    ++hosts_running_;
    fibers_->Spawn("churn", [this] { ChurnFiber(4); });
  }
  fibers_->Spawn("end", [this] { EndFiber(); });
}

void Simulation::EndFiber() {
  while (!Idle()) fibers_->Yield();
  // One more round of settling for the tasks that run on their own, then an orderly end.
  for (int i = 0; i < 200; ++i) fibers_->Yield();
  const Status status = store_->Close();
  if (!status.ok()) Fail("close: " + status.message());
}

Volume& Simulation::Handle(const SimVolume& volume) { return handles_[volume.id - volumes_[0].id]; }

bool Simulation::IsChain(const SimVolume& volume, size_t track, uint32_t sub) const {
  return &volume <= &volumes_[1] && track == kChainTrack && sub == kChainSub;
}

bool Simulation::Busy(const Span& span) {
  for (uint32_t i = 0; i < span.count; ++i)
    if (At(span, i).busy || IsChain(*span.volume, span.track, span.first + i)) return true;
  return false;
}

// One span, or two that meet at the border of a leaf.
bool Simulation::PickSpans(std::vector<Span>* spans) {
  const bool hot = hot_ && rng_() % 4 != 0;
  SimVolume& volume = volumes_[hot ? rng_() % 2 * 2 : rng_() % volumes_.size()];
  if (!hot && rng_() % 6 == 0) {
    const auto before = static_cast<uint32_t>(1 + rng_() % kSubsPerTrack);
    const auto after = static_cast<uint32_t>(1 + rng_() % (kSubsPerTrack - 1));
    *spans = {{&volume, 1, kSubsPerTrack - before, before}, {&volume, 2, 0, after}};
  } else {
    const size_t track = hot ? 0 : rng_() % volume.used.size();
    const bool whole = rng_() % 4 == 0;
    const auto first = whole ? 0 : static_cast<uint32_t>(rng_() % kSubsPerTrack);
    const auto count =
        whole ? kSubsPerTrack
              : static_cast<uint32_t>(1 + rng_() % std::min(4u, kSubsPerTrack - first));
    *spans = {{&volume, track, first, count}};
  }
  return std::none_of(spans->begin(), spans->end(),
                      [this](const Span& span) { return Busy(span); });
}

void Simulation::HostFiber(int operations) {
  OpSlot* slot = store_->AcquireSlot();
  for (int i = 0; i < operations && failure_.empty(); ++i) {
    const uint64_t kind = rng_() % 10;
    if (kind < 6)
      DoWrite(*slot);
    else if (kind < 7)
      DoZero(*slot);
    else
      DoRead(*slot);
  }
  store_->ReleaseSlot(slot);
  --hosts_running_;
}

void Simulation::DoWrite(OpSlot& slot) {
  std::vector<Span> spans;
  if (!PickSpans(&spans)) return fibers_->Yield();
  std::vector<uint8_t> data;
  for (const Span& span : spans) {
    for (uint32_t i = 0; i < span.count; ++i) {
      const Value value = next_value_++;
      At(span, i).Begin(value, spans.size() > 1);
      data.resize(data.size() + kSubBytes);
      FillBlock(data.data() + data.size() - kSubBytes, value);
    }
  }
  const Span& head = spans.front();
  const uint64_t offset = head.volume->used[head.track] * kTrackBytes + head.first * kSubBytes;
  Volume& handle = Handle(*head.volume);
  const auto settle = [&](const Status& status) {
    for (const Span& span : spans)
      for (uint32_t i = 0; i < span.count; ++i)
        status.ok() ? At(span, i).Acknowledge() : At(span, i).Fail();
  };
  // Settled inside the completion: until the engine has called it an establish waits for the write,
  // from then on it does not, as after a blocking write.
  Status status;
  const bool async = rng_() % 2 == 0 && data.size() <= kMaxAsyncWriteBytes &&
                     Awaited(&status, settle, [&](Completion* done) {
                       return handle.WriteAsync(offset, data.data(), data.size(), done);
                     });
  if (!async) {
    status = handle.Write(slot, offset, data.data(), data.size());
    settle(status);
  }
  if (!status.ok() && status.code() != Code::kNoSpace) Fail("write: " + status.message());
}

void Simulation::DoZero(OpSlot& slot) {
  std::vector<Span> spans;
  if (!PickSpans(&spans)) return fibers_->Yield();
  uint64_t length = 0;
  for (const Span& span : spans) {
    for (uint32_t i = 0; i < span.count; ++i) At(span, i).Begin(0, true);
    length += uint64_t{span.count} * kSubBytes;
  }
  const Span& head = spans.front();
  const uint64_t offset = head.volume->used[head.track] * kTrackBytes + head.first * kSubBytes;
  Volume& handle = Handle(*head.volume);
  const Status status = rng_() % 2 ? handle.Trim(slot, offset, length)
                                   : handle.WriteZeroes(slot, offset, length, rng_() % 4 == 0);
  if (!status.ok() && status.code() != Code::kNoSpace) return Fail("zero: " + status.message());
  for (const Span& span : spans)
    for (uint32_t i = 0; i < span.count; ++i)
      status.ok() ? At(span, i).Acknowledge() : At(span, i).Fail();
}

// Reads race with writes: any value from the newest acknowledged at the begin on is right.
void Simulation::DoRead(OpSlot& slot) {
  std::vector<Span> spans;
  (void)PickSpans(&spans);
  const Span span = spans.front();
  std::vector<uint8_t> data(span.count * kSubBytes);
  const uint64_t offset = span.volume->used[span.track] * kTrackBytes + span.first * kSubBytes;
  std::vector<Location> before;
  for (uint32_t i = 0; i < span.count; ++i) before.push_back(At(span, i));
  Volume& handle = Handle(*span.volume);
  Status status = handle.Read(slot, offset, data.data(), data.size(), ReadMode::kNoWait);
  if (status.code() == Code::kWouldBlock) {
    const bool async = rng_() % 2 == 0 && Awaited(&status, [&](Completion* done) {
                         return handle.ReadAsync(offset, data.data(), data.size(), done);
                       });
    if (!async) status = handle.Read(slot, offset, data.data(), data.size(), ReadMode::kBlocking);
  }
  if (!status.ok()) return Fail("read: " + status.message());
  for (uint32_t i = 0; i < span.count; ++i) {
    Location& location = At(span, i);
    Value value;
    if (!ValueOf(data.data() + i * kSubBytes, &value)) {
      // A write to the same block was under way: like any disk, that read may be a mixture.
      if (location.busy || location.versions.size() != before[i].versions.size()) continue;
      return Fail("live read of a torn block");
    }
    if (!location.LiveAllowsFrom(before[i].live_floor, value))
      return Fail("live read: volume " + std::to_string(span.volume->id & 7) + " track " +
                  std::to_string(span.track) + " sub " + std::to_string(span.first + i) +
                  " reads " + std::to_string(value) + ", " + location.Describe(false));
    if (!before[i].busy && location.versions.size() == before[i].versions.size())
      location.Observed(value);
  }
}

void Simulation::FlushFiber(int operations) {
  for (int i = 0; i < operations && failure_.empty(); ++i) {
    for (uint64_t pause = rng_() % 60; pause != 0; --pause) fibers_->Yield();
    DoFlush();
  }
  --hosts_running_;
}

void Simulation::DoFlush() {
  std::vector<size_t> covered;
  for (SimVolume& volume : volumes_)
    volume.ForEach([&](Location& location) { covered.push_back(location.acked); });
  const Status status = store_->Flush();
  if (!status.ok()) return Fail("flush: " + status.message());
  size_t next = 0;
  for (SimVolume& volume : volumes_)
    volume.ForEach([&](Location& location) {
      location.power_floor = std::max(location.power_floor, covered[next++]);
    });
}

void Simulation::EstablishFiber(int operations) {
  OpSlot* slot = store_->AcquireSlot();
  for (int i = 0; i < operations && failure_.empty(); ++i) {
    for (uint64_t pause = rng_() % 80; pause != 0; --pause) fibers_->Yield();
    DoEstablish();
    CheckChain(*slot);
    if (rng_() % 2 == 0) continue;
    for (const RelationshipInfo& relation : store_->ListRelationships())
      if (rng_() % 2 == 0)
        (void)store_->Withdraw(relation.id);  // kNotFound: the copy fiber was first
  }
  store_->ReleaseSlot(slot);
  --hosts_running_;
}

void Simulation::DoEstablish() {
  std::vector<PairSpec> pairs;
  const uint64_t kind = rng_() % 10;
  const uint32_t flags = rng_() % 2 ? uint32_t{kRelNoCopy} : 0;
  if (kind < 4) {
    pairs = {{0x1000, 0x1002, flags}, {0x1001, 0x1003, flags}};
  } else {
    const auto source = static_cast<uint16_t>(0x1000 + rng_() % 4);
    const auto target = static_cast<uint16_t>(0x1001 + rng_() % 3);
    pairs = {{source, target, flags}};
    // The chain's volumes stay sources, so that nothing else writes their chain place.
    if (source == target || target == 0x1001) return;
  }
  last_group_ms_ = pairs.size() == 2 && chain_ready_ ? io_->UnixMs() : INT64_MAX;
  // Without a background copy nobody ends one of the two while this is under way.
  if (pairs.size() == 2 && flags == kRelNoCopy) group_begun_ms_ = io_->UnixMs();
  std::vector<uint64_t> ids;
  const Status status = store_->Establish(pairs, &ids);
  group_begun_ms_ = 0;
  if (status.code() == Code::kBusy) return;  // the target is in a relationship
  if (!status.ok()) return Fail("establish: " + status.message());
  for (const PairSpec& pair : pairs) {
    const SimVolume& source = volumes_[pair.source_id & 7];
    SimVolume& target = volumes_[pair.target_id & 7];
    for (size_t track = 0; track < source.used.size(); ++track)
      for (Location& location : target.locations[track]) location.FlipDurable(location.last_flip);
  }
}

void Simulation::OnFlip(const PairSpec& pair) {
  if ((pair.target_id & 7u) >= volumes_.size()) return;  // the churned volume has no oracle
  SimVolume& source = volumes_[pair.source_id & 7];
  SimVolume& target = volumes_[pair.target_id & 7];
  for (size_t track = 0; track < source.used.size(); ++track)
    for (uint32_t sub = 0; sub < kSubsPerTrack; ++sub)
      target.locations[track][sub].Flip(source.locations[track][sub].Candidates());
}

// The group 0:2, 1:3 is one point in time: of a chain of dependent writes it holds a prefix.
void Simulation::CheckChain(OpSlot& slot) {
  if (std::string problem = VerifyGroups(*store_, slot); !problem.empty()) Fail("live: " + problem);
}

std::string Simulation::VerifyGroups(Store& store, OpSlot& slot) {
  const std::vector<RelationshipInfo> relations = store.ListRelationships();
  const auto find = [&](uint16_t source, uint16_t target) {
    return std::find_if(relations.begin(), relations.end(), [&](const RelationshipInfo& relation) {
      return relation.source_id == source && relation.target_id == target;
    });
  };
  const auto first = find(0x1000, 0x1002);
  const auto second = find(0x1001, 0x1003);
  if (first == relations.end() || second == relations.end() ||
      first->t0_unix_ms != second->t0_unix_ms)
    return {};
  // An older group, brought back by a power loss: its targets may have been written or copied over
  // since.
  if (first->t0_unix_ms <= last_group_ms_) return {};
  Value a;
  Value b;
  for (const auto& [id, value] :
       {std::pair{uint16_t{0x1002}, &a}, std::pair{uint16_t{0x1003}, &b}}) {
    const uint64_t offset = volumes_[0].used[kChainTrack] * kTrackBytes + kChainSub * kSubBytes;
    if (std::string problem = ReadValue(store, slot, id, offset, value); !problem.empty())
      return problem;
  }
  // A host may have written the copy's chain place, also while it was being read: then it says
  // nothing about T0.
  for (const size_t target : {size_t{2}, size_t{3}}) {
    const Location& place = volumes_[target].locations[kChainTrack][kChainSub];
    if (place.last_flip + 1 != place.versions.size()) return {};
  }
  const Value x = ChainSequence(a);
  const Value y = ChainSequence(b);
  const Value apart = x > y ? x - y : y - x;
  if (apart > 1)
    return "the group is not one point in time: write " + std::to_string(std::max(x, y)) +
           " is in, write " + std::to_string(std::max(x, y) - 1) + " is not (" +
           std::to_string(std::min(x, y)) + ")";
  return {};
}

void Simulation::ChainFiber(int operations) {
  OpSlot* slot = store_->AcquireSlot();
  for (int i = 0; i < operations && failure_.empty(); ++i) {
    if (!ChainWrite(*slot)) break;
    if (i == 1) chain_ready_ = true;
    for (uint64_t pause = rng_() % 8; pause != 0; --pause) fibers_->Yield();
  }
  store_->ReleaseSlot(slot);
  --hosts_running_;
}

// One write of the chain, on the other volume than the one before. False when the pool is full.
bool Simulation::ChainWrite(OpSlot& slot) {
  const Value sequence = ++last_chain_;
  SimVolume& volume = volumes_[sequence % 2];
  Location& location = volume.locations[kChainTrack][kChainSub];
  location.Begin(kChainBase + sequence, false);
  std::vector<uint8_t> data(kSubBytes);
  FillBlock(data.data(), kChainBase + sequence);
  const uint64_t offset = volume.used[kChainTrack] * kTrackBytes + kChainSub * kSubBytes;
  const Status status = Handle(volume).Write(slot, offset, data.data(), data.size());
  if (status.ok())
    location.Acknowledge();
  else
    location.Fail();
  return status.ok();
}

// Volumes come and go while others are copied: nothing of a dead one may stay in the map.
void Simulation::ChurnFiber(int operations) {
  constexpr uint16_t kId = 0x1004;
  for (int i = 0; i < operations && failure_.empty(); ++i) {
    for (const RelationshipInfo& relation : store_->ListRelationships())
      if (relation.target_id == kId) (void)store_->Withdraw(relation.id);
    Status status = store_->DeleteVolume(kId);
    if (!status.ok() && status.code() != Code::kNotFound && status.code() != Code::kBusy)
      return Fail("delete: " + status.message());
    status = store_->CreateVolume(kId, 600 * kTrackBytes, "churn");
    if (!status.ok() && status.code() != Code::kExists) return Fail("create: " + status.message());
    std::vector<uint64_t> ids;
    const PairSpec pair{0x1000, kId, 0};
    status = store_->Establish({&pair, 1}, &ids);
    if (!status.ok() && status.code() != Code::kBusy) return Fail("churn: " + status.message());
    for (uint64_t pause = rng_() % 60; pause != 0; --pause) fibers_->Yield();
  }
  --hosts_running_;
}

void Simulation::CopyFiber() {
  while (!Idle() && failure_.empty()) {
    for (const RelationshipInfo& relation : store_->ListRelationships()) {
      if (relation.flags & kRelNoCopy) continue;
      Result<CopyBatchResult> result =
          store_->CopyBatch(relation.id, 0, static_cast<uint32_t>(1 + rng_() % 4));
      if (!result.ok() && result.status().code() != Code::kNotFound &&
          result.status().code() != Code::kNoSpace)
        return Fail("copy: " + result.status().message());
    }
    for (uint64_t pause = 1 + rng_() % 20; pause != 0; --pause) fibers_->Yield();
  }
}

void Simulation::CheckpointFiber(int operations) {
  for (int i = 0; i < operations; ++i) {
    for (uint64_t pause = rng_() % 200; pause != 0; --pause) fibers_->Yield();
    if (!Idle()) store_->impl().RequestCheckpoint();
  }
}

bool Simulation::AfterStep() {
  ++steps_;
  if (!failure_.empty()) return false;
  if (store_ == nullptr || handles_.size() != volumes_.size()) return true;
  if (crashes_left_ > 0 && rng_() % kStepsPerDeath == 0) {
    --crashes_left_;
    crashed_ = true;
    return false;
  }
  if (rng_() % kStepsPerCrash != 0) return true;
  if (std::string problem = CheckCrash(); !problem.empty()) Fail(problem);
  return failure_.empty();
}

std::string Simulation::CheckCrash() {
  const bool power_loss = rng_() % 2 == 0;
  const CrashKind kind = power_loss ? CrashKind::kPowerLoss : CrashKind::kKill;
  std::unique_ptr<SimIo> after = io_->Crash(kind, rng_, nullptr);
  // Sometimes the recovery itself dies, by either death, and a second one follows.
  bool lost_power = power_loss;
  if (rng_() % 8 == 0) {
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
  std::string problem = VerifyAfterCrash(*after, lost_power, false);
  if (problem.empty()) return {};
  return std::string(lost_power ? "power loss: " : "kill: ") + problem;
}

std::string Simulation::VerifyAfterCrash(SimIo& io, bool power_loss, bool closed) {
  Result<std::unique_ptr<Store>> opened = Store::Open(io, Options());
  if (!opened.ok()) return "recovery: " + opened.status().message();
  Store& store = *opened.value();
  if (closed && store.Info().recovered_records != 0)
    return "records were replayed after an orderly close";
  OpSlot* slot = store.AcquireSlot();
  std::string problem;
  // After an orderly close nothing is lost, whatever happens to the machine.
  for (SimVolume& volume : volumes_)
    if (problem.empty()) problem = VerifyVolume(store, *slot, volume, power_loss && !closed);
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

std::string Simulation::VerifyVolume(Store& store, OpSlot& slot, SimVolume& volume,
                                     bool power_loss) {
  Result<Volume> handle = store.Attach(volume.id);
  if (!handle.ok()) return "volume " + std::to_string(volume.id & 7) + " is gone";
  std::vector<uint8_t> data(kTrackBytes);
  for (size_t track = 0; track < volume.used.size(); ++track) {
    const Status status = handle.value().Read(slot, volume.used[track] * kTrackBytes, data.data(),
                                              kTrackBytes, ReadMode::kBlocking);
    if (!status.ok()) return "read: " + status.message();
    for (uint32_t sub = 0; sub < kSubsPerTrack; ++sub) {
      Value value;
      const bool whole = ValueOf(data.data() + sub * kSubBytes, &value);
      const Location& location = volume.locations[track][sub];
      if (whole && location.CrashAllows(value, power_loss)) continue;
      return "volume " + std::to_string(volume.id & 7) + " track " + std::to_string(track) +
             " sub " + std::to_string(sub) +
             (whole ? " reads " + std::to_string(value) : std::string(" is torn")) + ", " +
             location.Describe(power_loss);
    }
  }
  return {};
}

std::string Simulation::ReadValue(Store& store, OpSlot& slot, uint16_t id, uint64_t offset,
                                  Value* value) {
  Result<Volume> handle = store.Attach(id);
  if (!handle.ok()) return "a volume is gone";
  std::vector<uint8_t> data(kSubBytes);
  const Status status =
      handle.value().Read(slot, offset, data.data(), data.size(), ReadMode::kBlocking);
  if (!status.ok()) return "read: " + status.message();
  return ValueOf(data.data(), value) ? "" : "a torn block";
}

void Simulation::Fail(const std::string& message) {
  if (failure_.empty()) failure_ = message;
}

}  // namespace flashlun
