#include "test/pool_run.h"

#include <utility>
#include <vector>

#include "test/simulation_pool.h"

namespace flashlun {
namespace {

constexpr uint16_t kSource = 0x1000;
constexpr uint16_t kTarget = 0x1001;
constexpr uint16_t kThird = 0x1002;
// A run is some hundred steps; who takes this many waits for something that never comes.
constexpr uint64_t kStepLimit = 20'000;
// Turns in which tasks that run on their own get things done.
constexpr int kPatience = 2000;

}  // namespace

void PoolRun::Fail(const std::string& what) {
  if (failure_.empty()) failure_ = what;
}

void PoolRun::Need(const Status& status, const char* what) {
  if (!status.ok()) Fail(std::string(what) + ": " + status.message());
}

std::string PoolRun::Run() {
  std::string problem = On(40, [this] { CopyAndLeave(); });
  if (problem.empty()) problem = On(40, [this] { ClaimsBesideFreeRegions(); });
  if (problem.empty()) problem = On(20, [this] { ThinCopyOfThick(); });
  if (problem.empty()) problem = On(40, [this] { TornSuperblocks(); });
  return problem;
}

std::string PoolRun::On(uint64_t first_pool_tracks, const std::function<void()>& body) {
  options_ = {};
  options_.dir = "pool";
  options_.capacity_bytes = first_pool_tracks * kTrackBytes;
  options_.journal_blocks = 24;
  options_.kill_ring_bytes = 16384;
  fibers_ = std::make_unique<Fibers>(rng_);
  io_ = MakePool(options_, rng_, fibers_.get());
  io_->set_orderly();
  fibers_->Spawn("sequence", [this, &body] {
    Result<std::unique_ptr<Store>> opened = Store::Open(*io_, options_);
    if (!opened.ok()) return Fail("open: " + opened.status().message());
    store_ = std::move(opened.value());
    body();
    if (failure_.empty()) Need(store_->Close(), "close");
  });
  uint64_t steps = 0;
  const std::string deadlock =
      fibers_->Run([&] { return ++steps < kStepLimit && failure_.empty(); });
  if (!deadlock.empty()) Fail(deadlock);
  if (steps >= kStepLimit) Fail("somebody waits for ever");
  store_.reset();
  return std::exchange(failure_, {});
}

void PoolRun::Write(uint16_t id, uint64_t tracks, uint64_t value) {
  std::vector<uint8_t> data(tracks * kTrackBytes);
  for (size_t at = 0; at < data.size(); at += kSubBytes) FillBlock(&data[at], value);
  OpSlot* slot = store_->AcquireSlot();
  Need(store_->Attach(id).value().Write(*slot, 0, data.data(), data.size()), "write");
  store_->ReleaseSlot(slot);
}

void PoolRun::CopyAndLeave() {
  constexpr uint64_t kTracks = 4;
  constexpr Value kOld = 7;
  Need(store_->CreatePool("other", "/other.tracks", 40 * kTrackBytes), "create a pool");
  Need(store_->CreateVolume(kSource, kTracks * kTrackBytes, ""), "create");
  Need(store_->CreateVolume(kTarget, kTracks * kTrackBytes, "", {.pool = 1}), "create");
  if (!failure_.empty()) return;
  Write(kSource, kTracks, kOld);
  const PairSpec pair{kSource, kTarget, 0};
  std::vector<uint64_t> ids;
  Need(store_->Establish({&pair, 1}, &ids), "establish");
  if (!failure_.empty()) return;
  // The source leaves what it shared, and its references have been given up: the target is alone
  // on tracks that are still in the source's pool.
  Write(kSource, kTracks, kOld + 1);
  Need(store_->Flush(), "flush");
  for (int i = 0; i < kPatience; ++i) fibers_->Yield();
  for (bool done = false; !done && failure_.empty();) {
    Result<CopyBatchResult> batch = store_->CopyBatch(ids.front(), 0, 8);
    if (!batch.ok()) return Fail("copy: " + batch.status().message());
    done = batch.value().done;
  }
  FiberScheduler* const here = std::exchange(t_fibers, nullptr);
  if (!ReadsWithoutFirstPool(kTarget, kTracks, kOld))
    Fail("a finished copy needs the disk of its source's pool");
  t_fibers = here;
}

bool PoolRun::ReadsWithoutFirstPool(uint16_t id, uint64_t tracks, uint64_t value) {
  const std::unique_ptr<SimIo> after = io_->Crash(CrashKind::kKill, rng_, nullptr);
  Result<std::unique_ptr<Store>> opened = Store::Open(*after, options_);
  if (!opened.ok()) return false;
  after->set_hook([](const IoCall& call) {
    return call.kind == IoKind::kRead && call.path == "pool/tracks" ? Fault::kEio : Fault::kNone;
  });
  OpSlot* slot = opened.value()->AcquireSlot();
  bool good = true;
  for (uint64_t track = 0; track < tracks && good; ++track) {
    Value found = 0;
    good = ReadValue(*opened.value(), *slot, id, track * kTrackBytes, &found).empty() &&
           found == value;
  }
  opened.value()->ReleaseSlot(slot);
  return good;
}

void PoolRun::ClaimsBesideFreeRegions() {
  // Two regions are used and given up again; one of them is trimmed, the other stays as a stock.
  constexpr uint64_t kUsed = 20;
  Need(store_->CreateVolume(kSource, kUsed * kTrackBytes, ""), "create");
  if (!failure_.empty()) return;
  Write(kSource, kUsed, 1);
  Need(store_->DeleteVolume(kSource), "delete");
  for (int i = 0; i < kPatience && store_->Info().trimmed_tracks == 0; ++i) fibers_->Yield();
  if (store_->Info().trimmed_tracks == 0) return Fail("nothing is trimmed");
  // The second claim does not fit what is left of the stock.
  Need(store_->CreateVolume(kTarget, 11 * kTrackBytes, "", {.thick = true}), "create, thick");
  Need(store_->CreateVolume(kThird, 8 * kTrackBytes, "", {.thick = true}), "create, thick");
}

void PoolRun::ThinCopyOfThick() {
  constexpr uint64_t kTracks = 8;
  Need(store_->CreateVolume(kSource, kTracks * kTrackBytes, "", {.thick = true}), "create, thick");
  Need(store_->CreateVolume(kTarget, kTracks * kTrackBytes, ""), "create");
  Need(store_->CreateVolume(kThird, 40 * kTrackBytes, ""), "create");
  if (!failure_.empty()) return;
  Write(kSource, kTracks, 1);
  const PairSpec pair{kSource, kTarget, kRelNoCopy};
  std::vector<uint64_t> ids;
  const Status refused = store_->Establish({&pair, 1}, &ids);
  if (!refused.ok() && refused.code() != Code::kInvalid) Need(refused, "establish");
  OpSlot* slot = store_->AcquireSlot();
  Volume thin = store_->Attach(kThird).value();
  const std::vector<uint8_t> data(kTrackBytes);
  for (uint64_t track = 0; track < 40; ++track)
    if (!thin.Write(*slot, track * kTrackBytes, data.data(), data.size()).ok()) break;
  thin = Volume();
  store_->ReleaseSlot(slot);
  Write(kSource, kTracks, 2);
}

void PoolRun::TornSuperblocks() {
  Need(store_->CreateVolume(kSource, kTrackBytes, ""), "create");
  if (!failure_.empty()) return;
  io_->set_hook([this](const IoCall& call) {
    if (call.kind == IoKind::kSync && call.path == "pool/meta") TearAt(*io_, 2);
    return Fault::kNone;
  });
  // The close, which follows, makes the checkpoint.
}

// Power is lost now, some of what is not durable is torn, and the recovery opens the pool; it may
// itself die like that, `deaths` times in all.
void PoolRun::TearAt(const SimIo& machine, int deaths) {
  // All of two copies get lost about once in three times, of four once in twenty.
  constexpr int kPowerCuts = 30;
  FiberScheduler* const here = std::exchange(t_fibers, nullptr);
  for (int i = 0; i < kPowerCuts && failure_.empty(); ++i) {
    const PowerCut cut{PowerCut::Keep::kNone, 0, true};
    const std::unique_ptr<SimIo> after = machine.LosePower(cut, rng_, nullptr);
    if (deaths > 1)
      after->set_hook([&](const IoCall& call) {
        if (call.kind == IoKind::kSync && call.path == "pool/meta") TearAt(*after, deaths - 1);
        return Fault::kNone;
      });
    const Result<std::unique_ptr<Store>> opened = Store::Open(*after, options_);
    if (!opened.ok()) Fail("power loss in a checkpoint: " + opened.status().message());
    after->set_hook({});
  }
  t_fibers = here;
}

}  // namespace flashlun
