#include "test/exhaustive.h"

#include <algorithm>

#include "core/check.h"

namespace flashlun {
namespace {

constexpr uint16_t kSource = 0x1000;
constexpr uint16_t kTarget = 0x1001;
constexpr uint64_t kVolumeTracks = 2;
// Two volumes, everything twice, and room for what waits for a commit.
constexpr uint64_t kPoolTracks = 12;
constexpr uint32_t kSmallSub = 1;  // where the 4 KiB writes go
constexpr uint32_t kZeroSubs = 4;  // how much a zero covers

// The engine on a quiet machine waits for nobody; it must not take the sequence's fibers for its
// own.
class OutsideFibers {
 public:
  OutsideFibers() : saved_(t_fibers) { t_fibers = nullptr; }
  ~OutsideFibers() { t_fibers = saved_; }
  OutsideFibers(const OutsideFibers&) = delete;
  OutsideFibers& operator=(const OutsideFibers&) = delete;

 private:
  FiberScheduler* const saved_;
};

bool ChangesState(IoKind kind) {
  return kind != IoKind::kRead && kind != IoKind::kSize && kind != IoKind::kOpen &&
         kind != IoKind::kMap;
}

}  // namespace

const char* NameOf(SeqOp op) {
  constexpr const char* kNames[] = {"write4K(s)", "write4K(t)", "write64K(s)", "write64K(t)",
                                    "zero(s)",    "zero(t)",    "trim(s)",     "trim(t)",
                                    "establish",  "resync",     "reverse",     "withdraw",
                                    "flush",      "copy",       "checkpoint"};
  return kNames[static_cast<size_t>(op)];
}

bool Exhaustive::Relations::Allows(const PairList& pairs, bool power_loss) const {
  for (size_t i = power_loss ? power_floor : acked; i < versions.size(); ++i)
    if (versions[i] == pairs) return true;
  return false;
}

Exhaustive::Exhaustive(const ExhaustiveOptions& options) : options_(options) { Prepare(); }

StoreOptions Exhaustive::Options() const {
  StoreOptions options;
  options.dir = "pool";
  options.capacity_bytes = kPoolTracks * kTrackBytes;
  options.journal_blocks = 24;
  options.kill_ring_bytes = 16384;
  return options;
}

Exhaustive::PairList Exhaustive::PairsOf(Store& store) {
  PairList pairs;
  for (const RelationshipInfo& relation : store.ListRelationships())
    pairs.emplace_back(relation.source_id & 7, relation.target_id & 7);
  return pairs;
}

// What the operation does to the relationships, or its refusal. All but establish are about the
// first of them.
Code Exhaustive::Apply(SeqOp op, PairList* pairs) {
  const auto has_target = [&](int volume) {
    return std::any_of(pairs->begin(), pairs->end(),
                       [&](const Pair& pair) { return pair.second == volume; });
  };
  if (op == SeqOp::kEstablish) {
    if (has_target(1)) return Code::kBusy;
    pairs->emplace_back(0, 1);
    return Code::kOk;
  }
  if (pairs->empty()) return Code::kNotFound;
  if (op == SeqOp::kWithdraw) pairs->erase(pairs->begin());
  if (op == SeqOp::kReverse) {
    if (has_target(pairs->front().first)) return Code::kBusy;
    std::swap(pairs->front().first, pairs->front().second);
  }
  return Code::kOk;
}

// The pool that every sequence begins with: the source full, the target in part, all of it durable.
void Exhaustive::Prepare() {
  fibers_ = std::make_unique<Fibers>(rng_);
  io_ = MakePool(Options(), rng_, fibers_.get());
  io_->set_orderly();
  for (const uint16_t id : {kSource, kTarget})
    volumes_.emplace_back(id, kVolumeTracks, std::vector<uint64_t>{0});
  fibers_->Spawn("prepare", [this] {
    store_ = std::move(Store::Open(*io_, Options()).value());
    slot_ = store_->AcquireSlot();
    for (const SimVolume& volume : volumes_) {
      FL_CHECK(store_->CreateVolume(volume.id, volume.tracks * kTrackBytes, "").ok());
      handles_.push_back(store_->Attach(volume.id).value());
    }
    DoWrite(0, 0, kSubsPerTrack);
    DoWrite(1, 0, 3);
    DoFlush();
    handles_.clear();
    store_->ReleaseSlot(slot_);
    FL_CHECK(store_->Close().ok());
  });
  const std::string problem = fibers_->Run([] { return true; });
  FL_CHECK(problem.empty() && failure_.empty());
  store_.reset();
  base_ = io_->Crash(CrashKind::kKill, rng_, nullptr);
  base_volumes_ = volumes_;
}

std::string Exhaustive::Run(const std::vector<SeqOp>& sequence) {
  ++counts_.sequences;
  rng_.seed(1);
  failure_.clear();
  armed_ = false;
  volumes_ = base_volumes_;
  relations_ = Relations();
  fibers_ = std::make_unique<Fibers>(rng_);
  io_ = base_->Crash(CrashKind::kKill, rng_, fibers_.get());
  io_->set_orderly();
  io_->set_hook([this](const IoCall& call) {
    if (armed_ && ChangesState(call.kind)) CrashPoint();
    return Fault::kNone;
  });
  fibers_->Spawn("sequence", [&] { Body(sequence); });
  const std::string deadlock = fibers_->Run([this] { return failure_.empty(); });
  handles_.clear();
  // With tasks that were abandoned where they are, there is nothing to wait for.
  store_.reset();
  std::string problem = failure_.empty() ? deadlock : failure_;
  if (problem.empty()) return {};
  std::string names;
  for (const SeqOp op : sequence) names += std::string(" ") + NameOf(op);
  return "sequence" + names + ": " + problem;
}

void Exhaustive::Body(const std::vector<SeqOp>& sequence) {
  armed_ = sequence.empty();
  Result<std::unique_ptr<Store>> opened = Store::Open(*io_, Options());
  if (!opened.ok()) return Fail("open: " + opened.status().message());
  store_ = std::move(opened.value());
#ifdef FLASHLUN_MUTATIONS
  store_->impl().on_flip = [this](const PairSpec& pair) {
    SimVolume& from = volumes_[pair.source_id & 7];
    SimVolume& to = volumes_[pair.target_id & 7];
    for (uint32_t sub = 0; sub < kSubsPerTrack; ++sub)
      to.locations[0][sub].Flip(from.locations[0][sub].Candidates());
  };
#endif
  slot_ = store_->AcquireSlot();
  for (const SimVolume& volume : volumes_) handles_.push_back(store_->Attach(volume.id).value());
  for (size_t i = 0; i < sequence.size() && failure_.empty(); ++i) {
    armed_ = i + 1 == sequence.size();
    Do(sequence[i]);
  }
  if (!failure_.empty()) return;
  armed_ = true;
  CrashPoint();
  armed_ = options_.settle;
  Settle();
}

void Exhaustive::Settle() {
  DoFlush();
  DoCheckpoint();
  handles_.clear();
  store_->ReleaseSlot(slot_);
  Expect(store_->Close(), Code::kOk, "close");
  CrashPoint();
}

void Exhaustive::Do(SeqOp op) {
  switch (op) {
    case SeqOp::kWrite4kSource:
    case SeqOp::kWrite4kTarget:
      return DoWrite(op == SeqOp::kWrite4kTarget, kSmallSub, 1);
    case SeqOp::kWrite64kSource:
    case SeqOp::kWrite64kTarget:
      return DoWrite(op == SeqOp::kWrite64kTarget, 0, kSubsPerTrack);
    case SeqOp::kZeroSource:
    case SeqOp::kZeroTarget:
      return DoZero(op == SeqOp::kZeroTarget, 0, kZeroSubs, false);
    case SeqOp::kTrimSource:
    case SeqOp::kTrimTarget:
      return DoZero(op == SeqOp::kTrimTarget, 0, kSubsPerTrack, true);
    case SeqOp::kFlush:
      return DoFlush();
    case SeqOp::kCopy:
      return DoCopy();
    case SeqOp::kCheckpoint:
      return DoCheckpoint();
    default:
      return DoControl(op);
  }
}

void Exhaustive::DoWrite(size_t volume, uint32_t first, uint32_t count) {
  std::vector<uint8_t> data(count * kSubBytes);
  for (uint32_t i = 0; i < count; ++i) {
    volumes_[volume].locations[0][first + i].Begin(next_value_, false);
    FillBlock(&data[i * kSubBytes], next_value_++);
  }
  Expect(Handle(volume).Write(*slot_, first * kSubBytes, data.data(), data.size()), Code::kOk,
         "write");
  for (uint32_t i = 0; i < count; ++i) volumes_[volume].locations[0][first + i].Acknowledge();
}

void Exhaustive::DoZero(size_t volume, uint32_t first, uint32_t count, bool trim) {
  for (uint32_t i = 0; i < count; ++i) volumes_[volume].locations[0][first + i].Begin(0, true);
  const uint64_t offset = first * kSubBytes;
  const uint64_t length = count * kSubBytes;
  Expect(trim ? Handle(volume).Trim(*slot_, offset, length)
              : Handle(volume).WriteZeroes(*slot_, offset, length, false),
         Code::kOk, "zero");
  for (uint32_t i = 0; i < count; ++i) volumes_[volume].locations[0][first + i].Acknowledge();
}

void Exhaustive::DoFlush() {
  const size_t relations = relations_.acked;
  Expect(store_->Flush(), Code::kOk, "flush");
  for (SimVolume& volume : volumes_)
    volume.ForEach(
        [](Location& place) { place.power_floor = std::max(place.power_floor, place.acked); });
  relations_.power_floor = std::max(relations_.power_floor, relations);
}

// What the operation must answer follows from the relationships there are.
void Exhaustive::DoControl(SeqOp op) {
  PairList after = relations_.versions.back();
  const Code expected = Apply(op, &after);
  const std::vector<RelationshipInfo> now = store_->ListRelationships();
  relations_.versions.push_back(std::move(after));
  const Status status = Control(op, now.empty() ? 0 : now.front().id);
  Expect(status, expected, NameOf(op));
  if (!status.ok()) return relations_.versions.pop_back();
  relations_.acked = relations_.power_floor = relations_.versions.size() - 1;
  for (SimVolume& volume : volumes_)
    volume.ForEach([](Location& place) { place.FlipDurable(place.last_flip); });
}

Status Exhaustive::Control(SeqOp op, uint64_t id) {
  if (op == SeqOp::kResync) return store_->Resync(id);
  if (op == SeqOp::kReverse) return store_->Reverse(id);
  if (op == SeqOp::kWithdraw) return store_->Withdraw(id);
  const PairSpec pair{kSource, kTarget, kRelNoCopy};
  std::vector<uint64_t> ids;
  return store_->Establish({&pair, 1}, &ids);
}

// One call of the background copy copies all there is, and may end the relationship.
void Exhaustive::DoCopy() {
  const std::vector<RelationshipInfo> now = store_->ListRelationships();
  PairList without = relations_.versions.back();
  if (!without.empty()) without.erase(without.begin());
  if (!now.empty()) relations_.versions.push_back(without);
  Result<CopyBatchResult> result =
      store_->CopyBatch(now.empty() ? 0 : now.front().id, 0, kVolumeTracks + 1);
  const Status status = result.ok() ? Status() : result.TakeStatus();
  Expect(status, now.empty() ? Code::kNotFound : Code::kOk, "copy");
  if (now.empty()) return;
  if (!status.ok() || !result.value().done) return Fail("the copy did not end");
  relations_.acked = relations_.versions.size() - 1;
}

void Exhaustive::DoCheckpoint() {
  const uint64_t before = store_->Info().checkpoints;
  store_->impl().RequestCheckpoint();
  while (store_->Info().checkpoints == before && failure_.empty()) fibers_->Yield();
}

void Exhaustive::Expect(const Status& status, Code code, const char* what) {
  if (status.code() != code)
    Fail(std::string(what) + " answered " + (status.ok() ? "OK" : status.message()));
}

void Exhaustive::Fail(const std::string& what) {
  if (failure_.empty()) failure_ = what;
}

void Exhaustive::CrashPoint() {
  if (!failure_.empty()) return;
  const OutsideFibers outside;
  ++counts_.points;
  CheckState(io_->Crash(CrashKind::kKill, check_rng_, nullptr), false, "kill");
  using enum PowerCut::Keep;
  const std::vector<uint64_t> pending = io_->PendingCalls();
  CheckLost({kNone, 0, false});
  if (pending.empty()) return;
  CheckLost({kAll, 0, false});
  if (pending.size() > 1) {
    CheckLost({kHalf, 0, true});
    for (const uint64_t call : pending) {
      if (!options_.all_cuts) break;
      CheckLost({kOnly, call, false});
      if (pending.size() > 2) CheckLost({kAllBut, call, false});
    }
  } else {
    CheckLost({kNone, 0, true});
  }
}

void Exhaustive::CheckLost(const PowerCut& cut) {
  constexpr const char* kNames[] = {"none of the",        "all",         "one of the",
                                    "all but one of the", "half of the", "most of the"};
  CheckState(
      io_->LosePower(cut, check_rng_, nullptr), true,
      std::string("power loss with ") + kNames[static_cast<int>(cut.keep)] + " un-flushed writes");
}

// Recovered, compared, and recovered again.
void Exhaustive::CheckState(std::unique_ptr<SimIo> machine, bool power_loss,
                            const std::string& how) {
  if (!failure_.empty()) return;
  ++counts_.states;
  if (options_.deaths_every != 0 && counts_.states % options_.deaths_every == 0)
    DieInRecovery(*machine, power_loss, how);
  std::vector<Value> first;
  if (std::string problem = Recover(*machine, power_loss, &first); !problem.empty())
    return Fail(how + ": " + problem);
  if (counts_.states % options_.again_every != 0) return;
  ++counts_.repeated;
  const std::unique_ptr<SimIo> again = machine->Crash(
      check_rng_() % 2 ? CrashKind::kKill : CrashKind::kPowerLoss, check_rng_, nullptr);
  std::vector<Value> second;
  if (std::string problem = Recover(*again, power_loss, &second); !problem.empty())
    return Fail(how + ", second recovery: " + problem);
  if (first != second) Fail(how + ": the second recovery found something else than the first");
}

// The recovery dies, by either death, at each of its own calls.
void Exhaustive::DieInRecovery(const SimIo& machine, bool power_loss, const std::string& how) {
  const std::unique_ptr<SimIo> dying = machine.Crash(CrashKind::kKill, check_rng_, nullptr);
  dying->set_hook([&](const IoCall& call) {
    if (!ChangesState(call.kind) || !failure_.empty()) return Fault::kNone;
    for (const CrashKind kind : {CrashKind::kKill, CrashKind::kPowerLoss}) {
      ++counts_.second_deaths;
      const std::unique_ptr<SimIo> after = dying->Crash(kind, check_rng_, nullptr);
      std::vector<Value> found;
      const std::string problem =
          Recover(*after, power_loss || kind == CrashKind::kPowerLoss, &found);
      if (!problem.empty())
        Fail(how + ", then the recovery died at its call " + std::to_string(call.index) + ": " +
             problem);
    }
    return Fault::kNone;
  });
  (void)Store::Open(*dying, Options());
}

std::string Exhaustive::Recover(SimIo& machine, bool power_loss, std::vector<Value>* found) {
  Result<std::unique_ptr<Store>> opened = Store::Open(machine, Options());
  if (!opened.ok()) return "recovery: " + opened.status().message();
  Store& store = *opened.value();
  OpSlot* slot = store.AcquireSlot();
  std::string problem;
  for (const SimVolume& volume : volumes_)
    if (problem.empty()) problem = VerifyVolume({store, *slot, power_loss, found}, volume);
  store.ReleaseSlot(slot);
  const PairList pairs = PairsOf(store);
  if (problem.empty() && !relations_.Allows(pairs, power_loss))
    problem = "the relationships are not those that were acknowledged";
  for (const Pair& pair : pairs) found->push_back(static_cast<Value>(pair.first * 8 + pair.second));
  return problem;
}

}  // namespace flashlun
