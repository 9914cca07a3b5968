// Simulation: the real engine over SimIo, driven by random operations on fibers, with crash states
// looked at after random steps. One seed is one run, exactly repeatable.
#pragma once

#include <array>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "core/store.h"
#include "core/store_impl.h"
#include "test/fibers.h"
#include "test/simulation_pool.h"

namespace flashlun {

// What a run did, by kind, so that "every kind of operation" can be seen.
enum class Did {
  kWrite,
  kWriteTracks,
  kWritePart,
  kWriteHalves,
  kWriteThrough,
  kZero,
  kNoHole,
  kTrim,
  kZeroPart,
  kTrimPart,
  kRead,
  kFlush,
  kEstablish,
  kEstablishGroup,
  kResync,
  kResyncGroup,
  kReverse,
  kWithdraw,
  kResize,
  kCopy,
  kCheckpoint,
  kVerify,
  kDelete,
  kCrossPools,
  kThickWrite,
  kPoolCreate,
  kPoolGrow,
  kTrimmed,
  kFullArea,
  kIndependent,
  kRefusedNoSpace,
  kFault,
  kStopped,
  kDeath,
  kCopyDestroyed,
  kCount
};
const char* NameOf(Did did);
using DidCounts = std::array<uint64_t, static_cast<size_t>(Did::kCount)>;

class Simulation {
 public:
  // A third of the seeds have a mirror of the metadata.
  explicit Simulation(uint64_t seed) : Simulation(seed, seed / 2 % 3 == 1) {}
  Simulation(uint64_t seed, bool mirrored);
  ~Simulation();

  // Empty, or the first violation.
  std::string Run();
  uint64_t crash_states() const { return crash_states_; }
  const DidCounts& did() const { return did_; }

 private:
  using Rng = Fibers::Rng;
  struct Span {  // sub-blocks of one used track
    SimVolume* volume;
    size_t track;
    uint32_t first, count;
  };
  struct Part {  // bytes of one sub-block
    SimVolume* volume;
    size_t track;
    uint32_t sub;
    Patch patch;
    uint64_t offset() const {
      return volume->used[track] * kTrackBytes + sub * kSubBytes + patch.first;
    }
  };

  void MakeVolumes(uint64_t seed);
  std::string RunSession();
  std::string AdoptRecoveredState();
  void Start();
  void SpawnFibers();
  void CreateVolumes();
  void ArmFaults();
  Fault Decide(const IoCall& call);
  void HostFiber(int operations);
  void FlushFiber(int operations);
  void EstablishFiber(int operations);
  void CopyFiber();
  void CheckpointFiber(int operations);
  void VerifyFiber();
  void ChainFiber(int operations);
  void ChurnFiber(int operations);
  void EndFiber();

  void DoWrite(OpSlot& slot);
  void DoZero(OpSlot& slot);
  void DoRead(OpSlot& slot);
  void ReadSpan(OpSlot& slot, const Span& span);
  void WatchFiber(const Span& span);
  bool PickPart(Part* part);
  void DoWritePart(OpSlot& slot);
  void DoWriteHalves(OpSlot& slot);
  void DoZeroPart(OpSlot& slot);
  void DoFlush();
  uint32_t RandomFlags();
  void DoEstablish();
  void DoCopyAgain();
  void DoResize();
  void BeginGroup(bool group, uint32_t flags);
  void EndCopies(const std::vector<PairSpec>& pairs, const Status& status, const char* what);
  void Answered(const std::vector<Span>& spans, const Status& status, const char* what);
  // False after noting a failure: an error is allowed when the disk has faults or the pool is full.
  // `volume`: the one whose tracks it was about.
  bool Expected(const Status& status, const char* what, const SimVolume* volume = nullptr);
  bool Tolerated(const Status& status);
  void Count(Did did) { ++did_[static_cast<size_t>(did)]; }
  void CheckChain(OpSlot& slot);
  bool PickSpans(std::vector<Span>* spans);
  Location& At(const Span& span, uint32_t sub) {
    return span.volume->locations[span.track][span.first + sub];
  }
  bool Busy(const Span& span);
  void OnFlip(const PairSpec& pair);

  // simulation_pools.cc
  void CreatePools();
  void PoolsFiber(int operations);
  void DoCreatePool();
  void DoGrowPool();
  void ArmFullArea();
  Fault SpaceOf(const IoCall& call);
  bool MayRefuse(const SimVolume& volume, const Status& status, const char* what);
  void Flipped(const PairSpec& pair);
  void CopyEnded(uint16_t target_id, uint64_t flips_before);
  std::string CheckIndependence();
  std::string VerifyPools(Store& store);

  bool AfterStep();
  std::string CheckCrash(bool power_loss, bool twice);
  std::string VerifyAfterCrash(SimIo& io, bool power_loss, bool closed);
  std::string VerifyGroups(Store& store, OpSlot& slot);
  void DamageCheckpoint(SimIo& machine);
  std::string DestroyCopy(SimIo& machine);
  std::string CheckMirror(SimIo& machine, const StoreInfo& info);
  bool DataLost();

  void Fail(const std::string& message);
  // Dependent writes alternate between this place on volumes 0 and 1; nobody else writes there.
  static constexpr size_t kChainTrack = 2;
  static constexpr uint32_t kChainSub = 15;
  bool IsChain(const SimVolume& volume, size_t track, uint32_t sub) const;
  StoreOptions Options() const;
  Volume& Handle(const SimVolume& volume);
  bool ChainWrite(OpSlot& slot);
  bool Idle() const { return hosts_running_ == 0; }

  Rng rng_;
  const bool direct_;    // cache mode none
  const bool mirrored_;  // the metadata has a second copy
  const uint64_t journal_blocks_;
  const bool several_pools_;  // volumes in two data areas, and a third one later
  const bool thick_;          // some of the volumes
  std::unique_ptr<Fibers> fibers_;
  std::unique_ptr<SimIo> io_;
  std::unique_ptr<Store> store_;
  std::vector<SimVolume> volumes_;
  std::vector<Volume> handles_;
  Value next_value_ = 1;
  bool hot_ = false;  // most operations meet on one track of volumes 0 and 2
  int hosts_running_ = 0;
  int64_t last_group_ms_ = 0;   // just before T0 of the last establish, if that was a group
  int64_t group_begun_ms_ = 0;  // while a group without background copy is being established
  Value last_chain_ = 0;
  bool chain_ready_ = false;  // both of its places hold values of this session
  int crashes_left_ = 0;      // machine deaths after which this run goes on
  bool crashed_ = false;
  uint64_t pool_tracks_ = 0;
  uint64_t most_tracks_ = 520;               // that volume 0 is resized to
  std::map<std::string, uint64_t> pools_;    // by name: tracks that were answered OK
  std::string full_area_;                    // the file whose file system is full for a while
  uint64_t full_from_ = 0, full_until_ = 0;  // in calls, as below
  uint64_t flips_ = 0;
  bool copy_ended_ = false;  // in the last step, of a copy into another pool perhaps
  bool faulty_ = false;      // this session's disk has faults
  uint64_t fault_from_ = 0;  // the window, in calls of this session's SimIo
  uint64_t fault_until_ = 0;
  Fault fault_ = Fault::kNone;
  bool sync_failed_ = false;  // of the tracks: what was not flushed may be gone
  DidCounts did_{};
  uint64_t crash_states_ = 0;
  uint64_t checkpoints_ = 0;  // of this session, when last looked at
  uint64_t steps_ = 0;
  std::string failure_;
};

}  // namespace flashlun
