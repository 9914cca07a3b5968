// RecoveryTrial: what a recovery finds that begins with one checkpoint of one copy of the metadata.
// The steps of StoreImpl::Recover up to the tracks, on files opened for reading only.
//
// Thread safety: none needed; nobody else has the pool.
#pragma once

#include <array>
#include <memory>
#include <string>

#include "core/mirror.h"
#include "core/status.h"
#include "core/superblock.h"

namespace flashlun {

class Io;
class StoreImpl;

struct RecoveryTrial {
  RecoveryTrial();
  RecoveryTrial(RecoveryTrial&&) noexcept;
  RecoveryTrial& operator=(RecoveryTrial&&) noexcept;
  ~RecoveryTrial();

  // `meta`: path of the copy; `superblock`: its own.
  static RecoveryTrial Run(Io& io, const std::string& dir, const std::string& meta,
                           const Superblock& superblock, const CheckpointRef& ref);

  Status status;        // of the first step that failed
  bool loaded = false;  // the checkpoint did
  std::unique_ptr<StoreImpl> store;
};

// All that is known of one copy when it is compared with another one.
struct CopyTrial {
  Status status;  // OK: an open with this copy gets to its end
  uint64_t last_lsn = 0;
  uint64_t last_group = 0;
  uint64_t next_seq = 1;
  unsigned flaws = 0;        // what is damaged and not needed; the fewer the better
  bool reserve = false;      // the checkpoint before the current one leads to the same state
  bool broken_tail = false;  // behind the last group is a block that does not check

  static CopyTrial Run(Io& io, const std::string& dir, const std::string& meta,
                       const Superblock& superblock);
};

// Of two different copies that both count, by their superblocks: the one that leads further, then
// the one with less damage. kCorrupt, kIo: neither recovers, or they are of different times.
struct ChosenCopy {
  size_t copy = 0;
  bool reserve = true;
};
Result<ChosenCopy> BetterCopy(Io& io, const std::string& dir,
                              const std::array<std::string, kMetaCopies>& paths,
                              const std::array<Superblock, kMetaCopies>& superblocks);
// The refusal when neither can be used.
Status NoCopy(const Status& primary, const Status& mirror);

}  // namespace flashlun
