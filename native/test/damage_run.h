// DamageRun: a small pool whose metadata is damaged in every place that a checksum guards, one at a
// time: bits that flip, and blocks that look right but are of another pool, session or pass.
//
// What must hold: an open refuses and names the file, or shows what it showed without the damage.
// Only what a power loss may take may be missing, and only where the damage looks like one: in the
// last group of the journal, in the last records of the kill ring.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "core/journal.h"
#include "core/store.h"
#include "core/superblock.h"
#include "test/fibers.h"
#include "test/simulation_pool.h"

namespace flashlun {

class DamageRun {
 public:
  DamageRun();
  ~DamageRun();
  // Empty, or the first thing that is wrong.
  std::string Run();
  uint64_t opens() const { return opens_; }

 private:
  using Machine = std::unique_ptr<SimIo>;
  // What the open of a damaged pool may do.
  enum class May { kShow, kShowOrRefuse, kRefuse };

  void Prepare();
  void FirstSession();
  void LastSession();
  void Write(size_t volume, size_t track, uint32_t first, uint32_t count);
  void Flush();
  // As a kill leaves it, and the same without the kill ring.
  Machine Killed();
  Machine Rebooted();

  std::string Superblocks();
  std::string Pages();
  std::string JournalBits();
  std::string JournalBlocks();
  std::string Ring();
  std::string Labels();

  // Flips each of these bits in turn.
  std::string Flips(bool killed, const std::string& path, const std::vector<uint64_t>& bytes,
                    May may, bool tail);
  std::string Check(Machine machine, const std::string& what, May may, bool tail);
  std::string Content(Store& store, bool tail);

  // A group of one record that enlarges volume 0, at the end of the journal. What is wrong with it:
  struct Plant {
    const char* what;
    std::string uuid;
    int64_t epoch = 0;  // plus that of the last group
    int64_t seq = 0;    // plus what would be next
    int64_t group = 0;  // the same
    bool chained = true;
    bool torn = false;
    May may = May::kShow;
    bool believed = false;
  };
  std::string Try(const Plant& plant);
  // Where the journal ends, and its last record.
  static JournalPosition EndOf(File& meta, const Superblock& superblock, uint64_t* lsn);

  static StoreOptions Options();
  static std::vector<uint8_t> BytesOf(SimIo& machine, const std::string& path, uint64_t offset,
                                      size_t length);
  // Offsets of the bytes in the range that are not zero, at most `most` of them.
  static std::vector<uint64_t> Used(SimIo& machine, const std::string& path, uint64_t offset,
                                    size_t length, size_t most);

  SimIo::Rng rng_{1};
  std::unique_ptr<Fibers> fibers_;
  std::unique_ptr<SimIo> io_;
  std::unique_ptr<Store> store_;
  OpSlot* slot_ = nullptr;
  std::vector<SimVolume> volumes_;
  std::vector<Volume> handles_;
  Value next_value_ = 1;
  uint64_t last_lsn_ = 0;
  uint64_t opens_ = 0;
};

}  // namespace flashlun
