// Exhaustive: every sequence of a few operations on a tiny pool, times every crash point, times
// kill and the ways a power loss can treat the un-flushed writes; every state is recovered and
// compared with the oracle.
//
// One sequence is one order of events (SimIo::set_orderly), and sequences with the same beginning
// begin with the same events; so a sequence looks only at the crash points from its last operation
// on, and all sequences together at all.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "core/store.h"
#include "core/store_impl.h"
#include "test/fibers.h"
#include "test/simulation_pool.h"

namespace flashlun {

struct ExhaustiveOptions {
  bool settle = true;        // also the crash points of flush, checkpoint and close after the last
  bool all_cuts = true;      // each un-flushed write alone, and each one missing
  uint64_t again_every = 1;  // recoveries repeated: one in so many
  uint64_t deaths_every = 64;  // recoveries killed at each of their own calls: one in so many
};

struct ExhaustiveCounts {
  uint64_t sequences = 0, points = 0, states = 0, repeated = 0, second_deaths = 0;
};

enum class SeqOp {
  kWrite4kSource,
  kWrite4kTarget,
  kWrite64kSource,
  kWrite64kTarget,
  kZeroSource,
  kZeroTarget,
  kTrimSource,
  kTrimTarget,
  kEstablish,
  kResync,
  kReverse,
  kWithdraw,
  kFlush,
  kCopy,
  kCheckpoint,
  kCount
};

const char* NameOf(SeqOp op);

class Exhaustive {
 public:
  explicit Exhaustive(const ExhaustiveOptions& options);
  // Empty, or the first violation.
  std::string Run(const std::vector<SeqOp>& sequence);
  const ExhaustiveCounts& counts() const { return counts_; }

 private:
  using Rng = SimIo::Rng;
  using Pair = std::pair<int, int>;    // source, target
  using PairList = std::vector<Pair>;  // in the order of their ids
  // The relationships in the order in which they changed.
  struct Relations {
    std::vector<PairList> versions{{}};
    size_t acked = 0, power_floor = 0;
    bool Allows(const PairList& pairs, bool power_loss) const;
  };

  void Prepare();
  void Body(const std::vector<SeqOp>& sequence);
  void Do(SeqOp op);
  void Settle();
  void DoWrite(size_t volume, uint32_t first, uint32_t count);
  void DoZero(size_t volume, uint32_t first, uint32_t count, bool trim);
  void DoControl(SeqOp op);
  void DoFlush();
  void DoCopy();
  void DoCheckpoint();
  Status Control(SeqOp op, uint64_t id);
  Volume& Handle(size_t volume) { return handles_[volume]; }
  void CrashPoint();
  void CheckKilled();
  void CheckLost(const PowerCut& cut);
  void CheckState(std::unique_ptr<SimIo> machine, bool power_loss, const std::string& how);
  void DieInRecovery(const SimIo& machine, bool power_loss, const std::string& how);
  std::string Recover(SimIo& machine, bool power_loss, std::vector<Value>* found);
  void Fail(const std::string& what);
  void Expect(const Status& status, Code code, const char* what);
  StoreOptions Options() const;
  static PairList PairsOf(Store& store);
  static Code Apply(SeqOp op, PairList* pairs);

  const ExhaustiveOptions options_;
  ExhaustiveCounts counts_;
  Rng rng_{1};        // of the sequence's machine: reset for each
  Rng check_rng_{1};  // of the crash states
  std::unique_ptr<Fibers> fibers_;
  std::unique_ptr<SimIo> base_;
  std::vector<SimVolume> base_volumes_;
  std::unique_ptr<SimIo> io_;
  std::unique_ptr<Store> store_;
  OpSlot* slot_ = nullptr;
  std::vector<Volume> handles_;
  std::vector<SimVolume> volumes_;
  Relations relations_;
  Value next_value_ = 1;
  bool armed_ = false;
  std::string failure_;
};

}  // namespace flashlun
