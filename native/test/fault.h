// FaultRun: one fixed workload over SimIo in which one I/O call, or all from one on, fail.
//
// What must hold (track-store.md traps T12, T13, T18): an error is answered with an error that
// names the file; nothing that was answered OK is lost by a crash at the end, by kill or power
// loss; a refused write that was not in place has changed nothing; reads that are answered OK are
// right; nobody waits for ever; and when the disk is well again, an open recovers, and what it
// shows stays.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/store.h"
#include "core/store_impl.h"
#include "test/fibers.h"
#include "test/simulation_pool.h"

namespace flashlun {

struct FaultPlan {
  // This call; later writes to the same track of its file; later calls of its file; all later ones.
  enum class Reach { kOnce, kTrack, kFile, kMachine };
  uint64_t index = UINT64_MAX;
  Fault fault = Fault::kNone;
  Reach reach = Reach::kOnce;
  bool mirror = false;  // the metadata has a second copy: the failure of one is nobody's failure
};

class FaultRun {
 public:
  explicit FaultRun(const FaultPlan& plan);
  // Empty, or what is wrong.
  std::string Run();
  uint64_t calls() const { return calls_; }
  // The call that failed first: kind and file. Empty: the plan's index was never reached, or that
  // call cannot fail so.
  const std::string& hit() const { return hit_; }
  uint64_t states() const { return states_; }
  bool poisoned() const { return poisoned_; }

 private:
  enum class Path { kInPlace, kElsewhere };  // what a refused write may leave behind

  Fault Decide(const IoCall& call);
  void Body();
  bool Open();
  void FirstLife();
  void WritesOfEveryPath();
  void CopyServices();
  void LastChanges();
  void Write(size_t volume, size_t track, uint32_t first, uint32_t count, Path path);
  void WritePart(size_t volume, size_t track, uint32_t sub, Path path);
  void Zero(size_t volume, size_t track, uint32_t first, uint32_t count, bool trim);
  void Answered(size_t volume, size_t track, uint32_t first, uint32_t count, Path path,
                const Status& status);
  void Flush();
  void Establish();
  void CopyAgain(bool reverse);
  void Copy();
  void Checkpoint();
  void Close();
  void ReadAll();
  void FlipsDurable(const Status& status);
  // Notes an answer; true when it is OK.
  bool Ok(const Status& status, const char* what);
  void CheckText(const Status& status, const char* what);
  void Hook();

  void CheckCrashes();
  std::string Recover(SimIo& machine, bool power_loss, std::vector<Value>* found);
  void CheckReopen();
  void Reopened(SimIo& machine);
  void Fail(const std::string& what);
  StoreOptions Options() const;
  // The fault met one of two copies of the metadata and nothing else.
  bool OnlyOneCopy() const;
  void CheckDegraded();

  const FaultPlan plan_;
  SimIo::Rng rng_{1};
  SimIo::Rng check_rng_{1};
  std::unique_ptr<Fibers> fibers_;
  std::unique_ptr<SimIo> io_;
  std::unique_ptr<Store> store_;
  OpSlot* slot_ = nullptr;
  std::vector<SimVolume> volumes_;
  std::vector<bool> exists_;  // parallel: its creation was answered OK
  std::vector<Volume> handles_;
  Value next_value_ = 1;
  std::string hit_, hit_path_;
  bool protected_ = false;  // there are two copies of the metadata
  bool copy_dropped_ = false;
  uint64_t hit_offset_ = 0;
  bool hit_track_ = false;  // one write to a track, or one track: others are well (trap T13)
  bool done_ = false;       // the workload has ended, or cannot go on
  bool poisoned_ = false;   // an answer said so
  bool data_lost_ = false;  // the data flush failed: what was not flushed is gone also after a kill
  bool durable_all_ = false;  // closed in order
  uint64_t calls_ = 0;
  uint64_t states_ = 0;
  std::string failure_;
};

}  // namespace flashlun
