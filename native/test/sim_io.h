// SimIo: a simulated machine for the engine: files with a page cache over a disk with a volatile
// cache, shared memory, and fibers for threads.
//
//   pwrite      changes the page cache, block by block, other fibers run in between; survives a
//   kill, not a power loss fdatasync   what was written before it began is on the disk when it
//   returns Crash(kKill)       what the next process finds: the page cache and the shared memory as
//   they are at this moment Crash(kPowerLoss)  the disk: every write since the last sync applied,
//   dropped or torn, block by block at random;
//                      another boot id; the shared memory file with whatever was there
//
// Blocks of the tracks file are torn at 4 KiB (what a host disk promises for data), all other files
// at 512 bytes.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "core/io.h"
#include "test/fibers.h"

namespace flashlun {

enum class CrashKind { kKill, kPowerLoss };

// Thrown by a SimIo that was told to die after so many writes.
struct SimulatedDeath {};

class SimIo final : public Io {
 public:
  using Rng = Fibers::Rng;
  // fibers == nullptr: a quiet machine: no switches, spawned tasks never run. For looking at a
  // crash state.
  SimIo(Rng& rng, Fibers* fibers);
  ~SimIo() override;

  std::unique_ptr<SimIo> Crash(CrashKind kind, Rng& rng, Fibers* fibers) const;
  // The n-th write or sync from now on throws SimulatedDeath.
  void DieAfter(uint64_t writes) { die_after_ = writes; }
  // Flips one random bit of a file's durable and cached content at `offset`.
  void FlipBit(const std::string& path, uint64_t offset);

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
  std::unique_ptr<Task> Spawn(const char* name, std::function<void()> body) override;

 private:
  friend class SimFile;
  static constexpr size_t kBlock = 4096;
  using Block = std::shared_ptr<const std::array<uint8_t, kBlock>>;
  using Image = std::vector<Block>;  // null: zeroes
  struct Pending {
    uint64_t number;  // in write order, per file
    uint64_t block;
    Block content;
  };
  struct FileState {
    Image cache;
    Image durable;
    std::vector<Pending> pending;  // since the last sync, in order
    uint64_t writes = 0;
    bool torn_at_4k = false;
  };
  void Step();  // lets other fibers run
  void MaybeSlow();
  void Count();  // DieAfter
  static Block& At(Image& image, uint64_t block);
  static Block Mix(const Block& old, const Block& next, Rng& rng);

  Rng& rng_;
  Fibers* fibers_;
  std::map<std::string, std::shared_ptr<FileState>> files_;
  std::map<std::string, std::shared_ptr<std::vector<uint8_t>>> memories_;
  std::map<std::string, std::weak_ptr<void>> locks_;
  std::string boot_id_ = "boot-1";
  int64_t clock_ms_ = 1'000'000;
  uint64_t die_after_ = UINT64_MAX;
};

}  // namespace flashlun
