// What the storage administrator does: FlashCopy, resize, volumes that come and go; and the chain
// of dependent writes that shows whether a group is one point in time.
#include <algorithm>
#include <cstring>

#include "core/store_impl.h"
#include "test/simulation.h"

namespace flashlun {
namespace {

// On top of it, the chain's sequence numbers.
constexpr Value kChainBase = Value{1} << 40;

Value ChainSequence(Value value) { return value < kChainBase ? 0 : value - kChainBase; }

}  // namespace

void Simulation::EstablishFiber(int operations) {
  OpSlot* slot = store_->AcquireSlot();
  for (int i = 0; i < operations && failure_.empty(); ++i) {
    for (uint64_t pause = rng_() % 80; pause != 0; --pause) fibers_->Yield();
    rng_() % 3 == 0 ? DoCopyAgain() : DoEstablish();
    CheckChain(*slot);
    if (rng_() % 8 == 0) DoResize();
    if (rng_() % 2 == 0) continue;
    for (const RelationshipInfo& relation : store_->ListRelationships()) {
      if (rng_() % 2 == 0) continue;
      Count(Did::kWithdraw);
      (void)store_->Withdraw(relation.id);  // kNotFound: the copy fiber was first
    }
  }
  store_->ReleaseSlot(slot);
  --hosts_running_;
}

// Half of them record their changes, which thick volumes do not, and stay.
uint32_t Simulation::RandomFlags() {
  uint32_t flags = rng_() % 2 ? uint32_t{kRelNoCopy} : 0;
  if (!thick_ && rng_() % 2) flags |= kRelRecord | kRelPersistent;
  if (rng_() % 8 == 0) flags |= kRelPersistent;
  return flags;
}

void Simulation::DoEstablish() {
  std::vector<PairSpec> pairs;
  const uint64_t kind = rng_() % 10;
  const uint32_t flags = RandomFlags();
  if (kind < 4) {
    pairs = {{0x1000, 0x1002, flags}, {0x1001, 0x1003, flags}};
  } else {
    const auto source = static_cast<uint16_t>(0x1000 + rng_() % 4);
    const auto target = static_cast<uint16_t>(0x1001 + rng_() % 3);
    pairs = {{source, target, flags}};
    // The chain's volumes stay sources, so that nothing else writes their chain place.
    if (source == target || target == 0x1001) return;
  }
  BeginGroup(pairs.size() == 2, flags);
  Count(pairs.size() == 2 ? Did::kEstablishGroup : Did::kEstablish);
  std::vector<uint64_t> ids;
  EndCopies(pairs, store_->Establish(pairs, &ids), "establish");
}

// Before a T0.
void Simulation::BeginGroup(bool group, uint32_t flags) {
  last_group_ms_ = group && chain_ready_ ? io_->UnixMs() : INT64_MAX;
  // Without a background copy nobody ends one of the two while this is under way.
  if (group && (flags & (kRelNoCopy | kRelPersistent)) != 0) group_begun_ms_ = io_->UnixMs();
}

void Simulation::EndCopies(const std::vector<PairSpec>& pairs, const Status& status,
                           const char* what) {
  group_begun_ms_ = 0;
  // The target is in a relationship, or the one meant has ended.
  if (status.code() == Code::kBusy || status.code() == Code::kNotFound) return;
  const bool alike = std::all_of(pairs.begin(), pairs.end(), [this](const PairSpec& pair) {
    // Of a volume that comes and goes nobody keeps what it is.
    const uint32_t source = pair.source_id & 7u;
    const uint32_t target = pair.target_id & 7u;
    return source < volumes_.size() && target < volumes_.size() &&
           volumes_[source].thick == volumes_[target].thick;
  });
  if (status.code() == Code::kInvalid && !alike) return;
  if (!Expected(status, what) || !status.ok()) return;
  for (const PairSpec& pair : pairs) {
    if ((pair.target_id & 7u) >= volumes_.size()) continue;
    volumes_[pair.target_id & 7].ForEach(
        [](Location& location) { location.FlipDurable(location.last_flip); });
  }
}

// Resync of one relationship or of the group; reverse of one.
void Simulation::DoCopyAgain() {
  const std::vector<RelationshipInfo> now = store_->ListRelationships();
  if (now.empty()) return;
  const RelationshipInfo one = now[rng_() % now.size()];
  // The chain's volumes stay sources; and a reverse needs equal sizes.
  if (one.source_id >= 0x1002 && one.target_id <= 0x1003 && rng_() % 2 == 0) {
    BeginGroup(false, 0);
    Count(Did::kReverse);
    return EndCopies({{one.target_id, one.source_id, one.flags}}, store_->Reverse(one.id),
                     "reverse");
  }
  std::vector<uint64_t> ids;
  std::vector<PairSpec> pairs;
  uint32_t flags = kRelNoCopy;
  for (const RelationshipInfo& relation : now) {
    const bool of_group = (relation.source_id == 0x1000 && relation.target_id == 0x1002) ||
                          (relation.source_id == 0x1001 && relation.target_id == 0x1003);
    if (!of_group) continue;
    ids.push_back(relation.id);
    pairs.push_back({relation.source_id, relation.target_id, relation.flags});
    flags &= relation.flags;
  }
  if (ids.size() != 2) {
    ids = {one.id};
    pairs = {{one.source_id, one.target_id, one.flags}};
  }
  BeginGroup(ids.size() == 2, flags);
  Count(ids.size() == 2 ? Did::kResyncGroup : Did::kResync);
  std::optional<uint32_t> replaced;
  if (ids.size() == 1 && rng_() % 3 == 0) replaced = RandomFlags();
  EndCopies(pairs, store_->Resync(ids, replaced), "resync");
}

void Simulation::DoResize() {
  SimVolume& volume = volumes_[0];
  if (volume.tracks >= most_tracks_) return;
  const uint64_t tracks = volume.tracks + 1;
  const Status status = store_->ResizeVolume(volume.id, tracks * kTrackBytes);
  Count(Did::kResize);
  if (Expected(status, "resize") && status.ok()) volume.tracks = tracks;
}

void Simulation::OnFlip(const PairSpec& pair) {
  if ((pair.target_id & 7u) >= volumes_.size()) return;  // the churned volume has no oracle
  Flipped(pair);
  SimVolume& source = volumes_[pair.source_id & 7];
  SimVolume& target = volumes_[pair.target_id & 7];
  // The engine's size: an unanswered resize may be in.
  const uint64_t tracks = Handle(source).size_bytes() / kTrackBytes;
  for (size_t track = 0; track < source.used.size(); ++track) {
    for (uint32_t sub = 0; source.used[track] < tracks && sub < kSubsPerTrack; ++sub) {
      Location& from = source.locations[track][sub];
      target.locations[track][sub].Flip(from.Candidates());
      if (!from.busy || rng_() % 4 != 0) continue;
      ++hosts_running_;
      fibers_->Spawn("watch", [this, span = Span{&target, track, sub, 1}] { WatchFiber(span); });
    }
  }
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
      return faulty_ ? "" : problem;
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
  const uint64_t tracks = thick_ ? most_tracks_ : 600;
  for (int i = 0; i < operations && failure_.empty(); ++i) {
    for (const RelationshipInfo& relation : store_->ListRelationships())
      if (relation.target_id == kId) (void)store_->Withdraw(relation.id);
    const auto allowed = [this](const Status& status, Code also, const char* what) {
      return status.code() == also || status.code() == Code::kBusy ||
             status.code() == Code::kNotFound || Expected(status, what);
    };
    const Status deleted = store_->DeleteVolume(kId);
    if (deleted.ok()) Count(Did::kDelete);
    std::vector<uint64_t> ids;
    const PairSpec pair{0x1000, kId, 0};
    CreateOptions with;
    if (several_pools_) {
      with.pool = static_cast<uint32_t>(rng_() % store_->ListPools().size());
      with.thick = volumes_[0].thick && rng_() % 4 != 0;
    }
    const Code mixed = several_pools_ ? Code::kInvalid : Code::kBusy;  // thin and thick
    if (!allowed(deleted, Code::kNotFound, "delete") ||
        !allowed(store_->CreateVolume(kId, tracks * kTrackBytes, "churn", with), Code::kExists,
                 "create") ||
        !allowed(store_->Establish({&pair, 1}, &ids), mixed, "churn"))
      break;
    for (uint64_t pause = rng_() % 60; pause != 0; --pause) fibers_->Yield();
  }
  --hosts_running_;
}

void Simulation::CopyFiber() {
  while (!Idle() && failure_.empty()) {
    for (const RelationshipInfo& relation : store_->ListRelationships()) {
      if (relation.flags & kRelNoCopy) continue;
      const uint64_t flips = flips_;
      Result<CopyBatchResult> result = store_->CopyBatch(
          relation.id, 0, static_cast<uint32_t>(1 + rng_() % (several_pools_ ? 8 : 4)));
      Count(Did::kCopy);
      const bool known = (relation.target_id & 7u) < volumes_.size();
      const SimVolume* target = known ? &volumes_[relation.target_id & 7] : nullptr;
      if (!result.ok() && result.status().code() == Code::kClosed && Idle()) return;
      if (result.ok()) {
        if (known && result.value().done) CopyEnded(relation.target_id, flips);
      } else if (result.status().code() != Code::kNotFound &&
                 !Expected(result.status(), "copy", target)) {
        return;
      }
    }
    for (uint64_t pause = 1 + rng_() % 20; pause != 0; --pause) fibers_->Yield();
  }
}

void Simulation::CheckpointFiber(int operations) {
  for (int i = 0; i < operations; ++i) {
    for (uint64_t pause = rng_() % 200; pause != 0; --pause) fibers_->Yield();
    if (Idle()) continue;
    Count(Did::kCheckpoint);
    store_->impl().RequestCheckpoint();
  }
}

void Simulation::VerifyFiber() {
  while (!Idle() && failure_.empty()) {
    const auto id = static_cast<uint16_t>(0x1000 + rng_() % 5);
    const uint64_t from = rng_() % 2 == 0 ? 0 : 511;
    const auto tracks = static_cast<uint32_t>(1 + rng_() % 6);
    Count(Did::kVerify);
    Result<VerifyBatchResult> result = store_->VerifyBatch(id, from, tracks);
    if (result.ok()) {
      if (std::string problem = MismatchOf(result.value()); !problem.empty())
        return Fail("live: " + problem);
    } else if (result.status().code() != Code::kNotFound && !Expected(result.status(), "scrub")) {
      return;
    }
    for (uint64_t pause = 1 + rng_() % 30; pause != 0; --pause) fibers_->Yield();
  }
}

}  // namespace flashlun
