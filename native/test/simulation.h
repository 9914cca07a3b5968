// Simulation: the real engine over SimIo, driven by random operations on fibers, with crash states
// looked at after random steps. One seed is one run, exactly repeatable.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "core/store.h"
#include "core/store_impl.h"
#include "test/fibers.h"
#include "test/oracle.h"
#include "test/sim_io.h"

namespace flashlun {

class Simulation {
 public:
  explicit Simulation(uint64_t seed);
  ~Simulation();

  // Empty, or the first violation.
  std::string Run();
  uint64_t crash_states() const { return crash_states_; }

 private:
  using Rng = Fibers::Rng;
  struct Span {  // sub-blocks of one used track
    SimVolume* volume;
    size_t track;
    uint32_t first, count;
  };

  std::unique_ptr<SimIo> FreshPool();
  std::string RunSession();
  std::string AdoptRecoveredState();
  void Start();
  void CreateVolumes();
  void HostFiber(int operations);
  void FlushFiber(int operations);
  void EstablishFiber(int operations);
  void CopyFiber();
  void CheckpointFiber(int operations);
  void ChainFiber(int operations);
  void ChurnFiber(int operations);
  void EndFiber();

  void DoWrite(OpSlot& slot);
  void DoZero(OpSlot& slot);
  void DoRead(OpSlot& slot);
  void DoFlush();
  void DoEstablish();
  void CheckChain(OpSlot& slot);
  bool PickSpans(std::vector<Span>* spans);
  Location& At(const Span& span, uint32_t sub) {
    return span.volume->locations[span.track][span.first + sub];
  }
  bool Busy(const Span& span);
  void OnFlip(const PairSpec& pair);

  bool AfterStep();
  std::string CheckCrash();
  std::string VerifyAfterCrash(SimIo& io, bool power_loss, bool closed);
  std::string VerifyVolume(Store& store, OpSlot& slot, SimVolume& volume, bool power_loss);
  std::string VerifyGroups(Store& store, OpSlot& slot);
  static std::string ReadValue(Store& store, OpSlot& slot, uint16_t id, uint64_t offset,
                               Value* value);

  void Fail(const std::string& message);
  bool IsChain(const SimVolume& volume, size_t track, uint32_t sub) const;
  StoreOptions Options() const;
  Volume& Handle(const SimVolume& volume);
  bool ChainWrite(OpSlot& slot);
  bool Idle() const { return hosts_running_ == 0; }

  Rng rng_;
  const bool direct_;  // cache mode none
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
  uint64_t crash_states_ = 0;
  uint64_t steps_ = 0;
  std::string failure_;
};

}  // namespace flashlun
