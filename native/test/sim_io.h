// SimIo: a simulated machine for the engine: files with a page cache over a disk with a volatile
// cache, directories, shared memory, and fibers for threads.
//
//   Pwrite         changes the page cache, block by block, other fibers run in between; survives a
//                  kill, not a power loss
//   Fdatasync      what was written before it began is on the disk when it returns. When it fails,
//                  the kernel forgets which pages were dirty (trap T12): the cache keeps the new
//                  content, the disk has it or not, and the next Fdatasync says OK; that of another
//                  descriptor of the file fails once more first
//   created files, new directories, Rename   survive a power loss only after SyncDir
//   Crash(kKill)   what the next process finds: page cache and shared memory as they are now
//   Crash(kPowerLoss)   the disk: every write since the last sync applied, dropped, torn or turned
//                  into garbage; another boot id; the shared memory file with whatever was there
//
//   Allocate       remembered by the MiB until Discard, also over deaths (a file system may take it
//                  back at a power loss; a pool whose disk fills up at that moment is not modelled)
//
// Blocks of tracks are torn at 4 KiB (what a host disk promises for data), everything else, also
// what is in front of them in their file, at 512 bytes.
//
// Every call has an index. A hook sees each call before it happens and may make it fail.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "core/io.h"
#include "test/fibers.h"
#include "test/sim_image.h"

namespace flashlun {

enum class CrashKind { kKill, kPowerLoss };

// Which of the writes since the last sync are on the disk.
struct PowerCut {
  enum class Keep { kNone, kAll, kOnly, kAllBut, kHalf, kMost };
  Keep keep = Keep::kNone;
  uint64_t call = 0;    // kOnly, kAllBut: of this call (SimIo::PendingCalls)
  bool damage = false;  // sectors that were not applied may be torn or garbage
};

// Thrown by a SimIo that was told to die after so many writes.
struct SimulatedDeath {};

enum class IoKind {
  kRead,
  kWrite,
  kSync,
  kAllocate,
  kDiscard,
  kTruncate,
  kSize,
  kOpen,
  kRename,
  kSyncDir,
  kMakeDir,
  kMap
};

enum class Fault { kNone, kEio, kNoSpace };

struct IoCall {
  uint64_t index;  // counts the calls of this SimIo, from 0
  IoKind kind;
  bool middle;  // between two blocks of one write: a crash point, no call of its own; cannot fail
  const std::string& path;
  bool has_space = true;  // of a write or an allocation: the whole range was allocated before
  uint64_t offset = 0;    // of a write
};

class SimIo final : public Io {
 public:
  using Rng = Fibers::Rng;
  using Hook = std::function<Fault(const IoCall&)>;
  // fibers == nullptr: a quiet machine: no switches, spawned tasks never run. For looking at a
  // crash state.
  SimIo(Rng& rng, Fibers* fibers);
  ~SimIo() override;

  std::unique_ptr<SimIo> Crash(CrashKind kind, Rng& rng, Fibers* fibers) const;
  std::unique_ptr<SimIo> LosePower(const PowerCut& cut, Rng& rng, Fibers* fibers) const;
  // The calls whose effect a power loss may take back, each once.
  std::vector<uint64_t> PendingCalls() const;
  // The n-th write or sync from now on throws SimulatedDeath. Quiet machines only.
  void DieAfter(uint64_t writes) { die_after_ = writes; }
  void set_hook(Hook hook) { hook_ = std::move(hook); }
  // Fibers switch only where the engine waits, not inside calls: one order of events.
  void set_orderly() { orderly_ = true; }
  uint64_t calls() const { return calls_; }
  // Flips one random bit of a file's durable and cached content at `offset`.
  void FlipBit(const std::string& path, uint64_t offset);
  // The file is gone, durably.
  void Remove(const std::string& path);

  Status MakeDir(const std::string& path) override;
  bool Exists(const std::string& path) override;
  Result<std::unique_ptr<File>> OpenFile(const std::string& path,
                                         const OpenOptions& options) override;
  Status Rename(const std::string& from, const std::string& to) override;
  Status SyncDir(const std::string& path) override;
  Result<std::shared_ptr<void>> Lock(const std::string& path) override;
  Result<std::unique_ptr<SharedMemory>> MapShared(const std::string& path, size_t size) override;
  Result<std::unique_ptr<SharedMemory>> ReadShared(const std::string& path, size_t size) override;
  std::string BootId() override { return boot_id_; }
  std::string NewUuid() override;
  int64_t UnixMs() override { return ++clock_ms_; }
  Result<std::unique_ptr<IoQueue>> MakeQueue(IoBackend backend) override;
  std::unique_ptr<Task> Spawn(const char* name, std::function<void()> body) override;

 private:
  friend class SimFile;
  struct Pending {
    uint64_t number;  // of the call, in order
    uint64_t block;
    SimBlock content;
  };
  struct FileState {
    SimImage cache;
    SimImage durable;
    std::vector<Pending> pending;  // since the last sync, in order
    bool torn_at_4k = false;
    std::vector<bool> space;  // allocated MiBs
    uint64_t failed_syncs = 0;
  };
  using FilePtr = std::shared_ptr<FileState>;
  struct NameChange {
    uint64_t number;
    std::string from;  // renamed away, or empty
    std::string path;
    FilePtr file;  // null: a directory
  };
  struct Names {
    std::map<std::string, FilePtr> files;
    std::set<std::string> dirs;
    void Apply(const NameChange& change);
  };

  bool Interleaves() const { return fibers_ != nullptr && t_fibers != nullptr && !orderly_; }
  bool Chance(uint64_t one_in) { return Interleaves() && rng_() % one_in == 0; }
  // The beginning of every call: counts it, lets others run, and asks the hook.
  Status Begin(IoKind kind, const std::string& path, const char* what, bool has_space = true,
               uint64_t offset = 0);
  void Middle(const std::string& path);
  void Step();
  void MaybeSlow();
  static void CutFile(const FileState& from, const PowerCut& cut, Rng& rng, FileState* to);
  void CutMemories(Rng& rng, SimIo* after) const;
  static bool Keeps(const PowerCut& cut, uint64_t number, Rng& rng);
  static SimBlock Damaged(const SimBlock& old, const SimBlock& next, Rng& rng);

  Rng& rng_;
  Fibers* fibers_;
  Names names_;
  Names durable_names_;
  std::vector<NameChange> pending_names_;
  std::map<std::string, std::shared_ptr<std::vector<uint8_t>>> memories_;
  std::map<std::string, std::weak_ptr<void>> locks_;
  std::string boot_id_ = "boot-1";
  int64_t clock_ms_ = 1'000'000;
  uint64_t die_after_ = UINT64_MAX;
  uint64_t calls_ = 0;
  uint64_t numbers_ = 0;
  bool orderly_ = false;
  Hook hook_;
};

}  // namespace flashlun
