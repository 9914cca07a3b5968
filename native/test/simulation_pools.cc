// Several data areas: volumes in two pools, thick ones among them, pools that come and grow while
// hosts write, and a file system that is full under one of them.
//
// What must hold besides the contents: a thick volume is never refused for space; a refusal names
// the pool of the volume; no write goes to space that was not allocated (trap T18); a pool that was
// created or enlarged stays so; a copy that has ended does not need the source's pool any more.
#include <algorithm>

#include "core/areas.h"
#include "test/simulation.h"

namespace flashlun {
namespace {

constexpr const char* kFirst = "pool/tracks";
constexpr const char* kSecond = "/second.tracks";
constexpr const char* kThird = "/third.tracks";
// So small that they are full now and then.
constexpr uint64_t kSecondTracks[] = {20, 24, 28};
constexpr uint64_t kThickSecondTracks[] = {10, 12, 20};
constexpr uint64_t kMostPoolTracks = 64;

const char* AreaPath(uint32_t pool) {
  constexpr const char* kPaths[] = {kFirst, kSecond, kThird};
  return kPaths[pool];
}

}  // namespace

// In the first session: the second pool, on a disk full of somebody else's data.
void Simulation::CreatePools() {
  const size_t which = rng_() % std::size(kSecondTracks);
  const bool small = thick_ && most_tracks_ == 4;
  uint64_t tracks = small ? kThickSecondTracks[which] : kSecondTracks[which] * (thick_ ? 2 : 1);
  // All volumes at their largest, when all are thick.
  if (volumes_[1].thick) tracks = volumes_.size() * most_tracks_;
  const Status status = store_->CreatePool("second", kSecond, tracks * kTrackBytes);
  if (status.code() == Code::kExists && pools_.contains("second")) return;
  if (!status.ok()) return Fail("pool: " + status.message());
  FillForeign(*io_, kSecond, tracks);
  pools_ = {{"default", pool_tracks_}, {"second", tracks}};
  Count(Did::kPoolCreate);
}

void Simulation::PoolsFiber(int operations) {
  for (int i = 0; i < operations && failure_.empty(); ++i) {
    for (uint64_t pause = rng_() % 120; pause != 0; --pause) fibers_->Yield();
    rng_() % 3 == 0 ? DoCreatePool() : DoGrowPool();
  }
  --hosts_running_;
}

void Simulation::DoCreatePool() {
  if (pools_.contains("third")) return;
  const uint64_t tracks = 20 + rng_() % 30;
  const Status status = store_->CreatePool("third", kThird, tracks * kTrackBytes);
  // It came into being although its creation was not answered OK: a flush failed, or a death.
  const std::vector<PoolInfo> now = store_->ListPools();
  if (status.code() == Code::kExists && now.size() == 3) {
    pools_["third"] = now[2].capacity_tracks;
    return;
  }
  if (!Expected(status, "create a pool") || !status.ok()) return;
  pools_["third"] = tracks;
  Count(Did::kPoolCreate);
}

void Simulation::DoGrowPool() {
  const std::vector<PoolInfo> now = store_->ListPools();
  const PoolInfo& pool = now[rng_() % now.size()];
  // Also by less than a region.
  const uint64_t tracks = pool.capacity_tracks + 1 + rng_() % (rng_() % 4 != 0 ? 2 : 20);
  if (tracks > kMostPoolTracks) return;
  const Status status = store_->GrowPool(pool.number, tracks * kTrackBytes);
  if (!Expected(status, "grow a pool") || !status.ok()) return;
  pools_[pool.name] = tracks;
  Count(Did::kPoolGrow);
}

void Simulation::ArmFullArea() {
  full_until_ = 0;
  if (rng_() % 2 != 0) return;
  full_area_ = AreaPath(static_cast<uint32_t>(rng_() % 2));
  full_from_ = io_->calls() + rng_() % (rng_() % 2 ? 400 : 20);
  full_until_ = full_from_ + 200 + rng_() % 4000;
}

// Of every call: the file system under an area, and the rule that nothing is written to an area
// where there is no space for it.
Fault Simulation::SpaceOf(const IoCall& call) {
  if (call.has_space || (call.kind != IoKind::kWrite && call.kind != IoKind::kAllocate))
    return Fault::kNone;
  if (!call.path.ends_with("tracks")) return Fault::kNone;
  // In front of the tracks: the label, and the witness of the metadata's mirror (mirror.h). No
  // space is prepared for these; a witness that cannot be written stops the pool.
  if (call.kind == IoKind::kWrite && call.offset < Areas::kTracksOffset) return Fault::kNone;
  if (call.kind == IoKind::kWrite && store_ != nullptr && handles_.size() == volumes_.size() &&
      std::any_of(pools_.begin(), pools_.end(), [&](const auto& pool) {
        return call.path == (pool.first == "default"  ? kFirst
                             : pool.first == "second" ? kSecond
                                                      : kThird);
      }))
    Fail("a write to " + call.path + " where no space was allocated");
  if (call.path != full_area_ || call.index < full_from_ || call.index >= full_until_)
    return Fault::kNone;
  Count(Did::kFullArea);
  return Fault::kNoSpace;
}

// False after noting a failure.
bool Simulation::MayRefuse(const SimVolume& volume, const Status& status, const char* what) {
  if (!several_pools_ || status.code() != Code::kNoSpace || faulty_) return true;
  const std::string text = status.message();
  if (volume.thick)
    Fail(std::string(what) + ": a thick volume was refused: " + text);
  else if (text.find(AreaPath(volume.pool)) == std::string::npos)
    Fail(std::string(what) + ": refused for another pool's space: " + text);
  return failure_.empty();
}

// At T0, under the state lock.
void Simulation::Flipped(const PairSpec& pair) {
  ++flips_;
  SimVolume& source = volumes_[pair.source_id & 7];
  SimVolume& target = volumes_[pair.target_id & 7];
  if (source.pool != target.pool) Count(Did::kCrossPools);
  const bool whole = Handle(source).size_bytes() >= Handle(target).size_bytes();
  target.rest_independent = whole || (target.independent && target.rest_independent);
  target.independent = false;
}

// No T0 came since the copy of this relationship began its last batch.
void Simulation::CopyEnded(uint16_t target_id, uint64_t flips_before) {
  SimVolume& target = volumes_[target_id & 7];
  if (flips_ != flips_before || !target.rest_independent) return;
  target.independent = copy_ended_ = true;
}

// A killed machine comes back, but the disk of every other pool gives nothing: what is independent
// of them is read all the same.
std::string Simulation::CheckIndependence() {
  for (const SimVolume& volume : volumes_) {
    if (!volume.independent || (rng_() % 4 != 0 && !copy_ended_)) continue;
    std::unique_ptr<SimIo> after = io_->Crash(CrashKind::kKill, rng_, nullptr);
    Result<std::unique_ptr<Store>> opened = Store::Open(*after, Options());
    if (!opened.ok()) return "kill: recovery: " + opened.status().message();
    after->set_hook([&volume](const IoCall& call) {
      const bool other = call.path.ends_with("tracks") && call.path != AreaPath(volume.pool);
      return call.kind == IoKind::kRead && other ? Fault::kEio : Fault::kNone;
    });
    OpSlot* slot = opened.value()->AcquireSlot();
    const std::string problem = VerifyVolume({*opened.value(), *slot, false}, volume);
    opened.value()->ReleaseSlot(slot);
    Count(Did::kIndependent);
    if (!problem.empty()) return "kill, without the other pools' disks: " + problem;
  }
  return {};
}

// After a recovery.
std::string Simulation::VerifyPools(Store& store) {
  std::map<uint32_t, uint64_t> claims;
  for (const VolumeInfo& info : store.ListVolumes())
    if (info.thick) claims[info.pool] += info.size_bytes / kTrackBytes;
  std::map<std::string, uint64_t> found;
  for (const PoolInfo& pool : store.ListPools()) {
    found[pool.name] = pool.capacity_tracks;
    if (pool.claimed_tracks != claims[pool.number])
      return "pool " + pool.name + " keeps " + std::to_string(pool.claimed_tracks) +
             " tracks for thick volumes of " + std::to_string(claims[pool.number]);
  }
  for (const auto& [name, tracks] : pools_)
    if (found[name] < tracks)
      return "pool " + name + " has " + std::to_string(found[name]) + " of " +
             std::to_string(tracks) + " tracks";
  for (const SimVolume& volume : volumes_) {
    const VolumeInfo info = store.GetVolume(volume.id).value();
    if (info.pool != volume.pool || info.thick != volume.thick)
      return "volume " + std::to_string(volume.id & 7) + " has changed its pool or its kind";
  }
  return {};
}

}  // namespace flashlun
