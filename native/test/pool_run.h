// PoolRun: what the simulation meets too seldom about pools, as fixed sequences on its machine.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "core/store.h"
#include "test/fibers.h"
#include "test/sim_io.h"

namespace flashlun {

class PoolRun {
 public:
  // Empty, or the first thing that is wrong.
  std::string Run();

 private:
  // Runs `body` with an open store on a new machine.
  std::string On(uint64_t first_pool_tracks, const std::function<void()>& body);
  // A copy into another pool, from a source that has left its tracks, needs the source's disk no
  // more.
  void CopyAndLeave();
  // Claims that need growth, beside regions that have been free for long.
  void ClaimsBesideFreeRegions();
  // Thin volumes take all that claims leave them, and a copy if they may.
  void ThinCopyOfThick();
  // Power is lost at each flush of the metadata while a checkpoint is made, and again in the
  // recovery, and what was not durable is torn: some superblock copy is whole.
  void TornSuperblocks();
  void TearAt(const SimIo& machine, int deaths);
  void Write(uint16_t id, uint64_t tracks, uint64_t value);
  bool ReadsWithoutFirstPool(uint16_t id, uint64_t tracks, uint64_t value);
  void Fail(const std::string& what);
  void Need(const Status& status, const char* what);

  SimIo::Rng rng_{1};
  std::unique_ptr<Fibers> fibers_;
  std::unique_ptr<SimIo> io_;
  StoreOptions options_;
  std::unique_ptr<Store> store_;
  std::string failure_;
};

}  // namespace flashlun
