// CheckPool: a closed pool's files, verified completely and changed by not one byte.
//
// An open stops at the first thing it cannot get over. A check goes on and lists everything, each
// with what it means. It takes the steps of a recovery (store_open.cc) one by one, with the same
// decoders, on files opened for reading only, and stops where an open would begin to write.
//
// Memory: as an open needs. Time: it reads the checkpoint pages of both checkpoints and the
// journal, not the tracks.
//
// Thread safety: none needed; the pool's lock keeps servers and other checks away. Blocks.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/status.h"

namespace flashlun {

class Io;

enum class Severity : uint8_t {
  kNote,        // worth knowing, nothing is wrong
  kHarmless,    // damaged, but whole elsewhere, or not needed
  kRepairable,  // an open gets over it
  kLoss,        // an open refuses the pool, or content is gone
};
inline constexpr size_t kSeverities = 4;

enum class Verdict : uint8_t {
  kClean,        // notes at most
  kRecoverable,  // an open succeeds and repairs
  kDamaged,
};

const char* SeverityName(Severity severity);
const char* VerdictName(Verdict verdict);

struct Finding {
  Severity severity = Severity::kNote;
  std::string file;   // of the pool directory
  std::string place;  // in the file; may be empty
  std::string text;
};

struct PoolReport {
  // A damaged page each would be a line; who needs more than this many restores a backup.
  static constexpr size_t kMaxFindings = 1000;

  Verdict verdict = Verdict::kClean;
  std::vector<Finding> findings;     // at most kMaxFindings
  uint64_t found[kSeverities] = {};  // all of them, by severity

  std::string pool_uuid;
  std::string mirror_path;  // of the metadata; empty: it has no mirror
  bool closed_in_order = false;
  uint64_t generation = 0;
  uint64_t superblock_copies = 0;  // valid and of that generation
  uint64_t current_lsn = 0;        // of the checkpoints
  uint64_t previous_lsn = 0;
  uint64_t used_pages = 0;  // of both checkpoints
  uint64_t area_pages = 0;  // that the file has
  uint64_t journal_blocks = 0;
  uint64_t groups = 0;  // to replay
  uint64_t records = 0;
  uint64_t ring_records = 0;  // behind those of the journal
  uint64_t last_lsn = 0;
  uint64_t volumes = 0;
  uint64_t relationships = 0;
  uint64_t mapped_tracks = 0;  // of all volumes; shared ones count for each
  uint64_t used_tracks = 0;
  uint64_t capacity_tracks = 0;
  uint64_t tracks_bytes = 0;  // size of the tracks file
  uint64_t needed_bytes = 0;
};

// kNotFound: no pool there. kLocked: a server has it. kCorrupt: made by a newer version. Damage is
// not an error but a report.
Result<PoolReport> CheckPool(Io& io, const std::string& dir);

}  // namespace flashlun
