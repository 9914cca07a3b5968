// Freezes: volumes whose host writes wait for a while, so that several volumes, or several
// machines, can be copied at one point in time (shared/reference/ess.md 3.6).
//
// Every host write is bracketed by BeginHostWrite and EndHostWrite. A freeze closes the volumes and
// waits until the writes that had begun have ended; from its return on nothing of the hosts changes
// them. A write that finds its volume closed has not begun: whoever carries it keeps it, without
// waiting here, and hears of the thaw. Reads and flushes are not asked.
//
// A freeze ends by Thaw or by its time limit, whichever comes first. It is state of this process
// only: a pool that is opened is thawed.
//
// Why no write slips through: a writer raises its count (seq_cst) before it looks at `frozen`; a
// freeze sets `frozen` (seq_cst) before it adds up the counts. One of the two sees the other.
//
// Thread safety: all methods from any thread.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <vector>

#include "core/io.h"
#include "core/map.h"
#include "core/status.h"
#include "core/store.h"
#include "core/sync.h"

namespace flashlun {

class Freezes {
 public:
  explicit Freezes(Io& io) : io_(io) {}
  ~Freezes() { Stop(); }
  Freezes(const Freezes&) = delete;
  Freezes& operator=(const Freezes&) = delete;

  // All of them or none. Blocks until the writes in flight have ended, kFreezeDrain at most.
  // kBusy: one is frozen already; kInvalid: the limit is out of range; kTimeout: a write does not
  // end; kClosed.
  Status Freeze(std::span<const std::shared_ptr<VolumeState>> volumes,
                std::chrono::milliseconds limit);
  // Those of the ids that were frozen until now; the others were not, or no longer.
  std::vector<uint16_t> Thaw(std::span<const uint16_t> ids);
  // Thaws all; nothing is frozen any more afterwards.
  void Stop();

  // When the volume thaws by itself, in Unix ms; 0: it is not frozen.
  int64_t ThawsAt(const VolumeState& volume);
  // How many volumes the time limit had to thaw.
  uint64_t expired();

  // False: not frozen, nobody will call. Else waiter->Thawed() runs once, unless forgotten before.
  bool Await(VolumeState& volume, ThawWaiter* waiter);
  // After its return Thawed does not run any more.
  void Forget(VolumeState& volume, ThawWaiter* waiter);

 private:
  struct Frozen {
    std::shared_ptr<VolumeState> volume;
    std::chrono::steady_clock::time_point ends;
    int64_t ends_unix_ms;
  };
  Status Close(std::span<const std::shared_ptr<VolumeState>> volumes,
               std::chrono::milliseconds limit);
  bool AwaitWrites(std::span<const std::shared_ptr<VolumeState>> volumes);
  void Open(Frozen& frozen);
  void TimerLoop();

  Io& io_;

  // State below is protected by monitor_.
  Monitor monitor_;
  Condition changed_;
  std::map<const VolumeState*, Frozen> frozen_;
  uint64_t expired_ = 0;
  bool stopping_ = false;
  std::unique_ptr<Task> timer_;  // from the first freeze on
};

}  // namespace flashlun
