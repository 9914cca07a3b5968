// Superblock: four copies of one 4 KiB record at fixed places of the pool's `meta` file, two at its
// beginning and two a mebibyte further, so that a damaged spot does not take all of them.
//
// Write rule: copies 0 and 1, flush, copies 2 and 3, flush. A crash at any point leaves two whole
// copies of the old or of the new generation. Open rule: the highest generation whose copy checks;
// all four gone is kCorrupt.
//
// It names the current checkpoint and the one before it, each with the journal position from which
// to replay: if a page of the current checkpoint does not check, the previous one and a longer
// replay give the same state.
#pragma once

#include <cstdint>
#include <string>

#include "core/io.h"
#include "core/journal.h"

namespace flashlun {

inline constexpr uint32_t kFormatVersion = 1;
inline constexpr uint64_t kSuperblockCopies = 4;
inline constexpr uint64_t kSuperblockOffsets[kSuperblockCopies] = {0, 4096, (1 << 20) - 8192,
                                                                   (1 << 20) - 4096};

// Incompatible features: there is a mirror of the metadata, and a witness that says which copy
// counts (mirror.h).
inline constexpr uint64_t kFeatureMirror = 1;
inline constexpr uint64_t kKnownIncompatFeatures = kFeatureMirror;

struct CheckpointRef {
  uint64_t manifest_page = 0;
  uint64_t manifest_bytes = 0;  // 0: none (a new pool)
  uint32_t manifest_crc = 0;
  uint64_t lsn = 0;  // the state is exactly that after this record
  JournalPosition replay;
};

struct Superblock {
  std::string pool_uuid;  // 36 characters
  uint64_t generation = 0;
  uint64_t open_epoch = 0;  // +1 at every open for write
  uint64_t capacity_tracks = 0;
  uint64_t journal_blocks = 0;
  uint64_t kill_ring_bytes = 0;
  bool clean =
      false;  // closed in order: the journal and the kill ring hold nothing beyond the checkpoint
  CheckpointRef current;
  CheckpointRef previous;
  // The LSN to which the previous checkpoint and the journal lead, at least. Below current.lsn only
  // while the commit waits for that checkpoint's journal room: nobody was told of what is between.
  uint64_t reach_lsn = 0;
  // What a reader must know to read the pool (incompat) or to write to it (ro_compat).
  uint64_t incompat_features = 0;
  uint64_t ro_compat_features = 0;
  // Not on the disk: which two copies, 0 and 1 or 2 and 3, are written first. A power loss may have
  // left the newest content in the other two only: while these are in the air, those are whole.
  uint32_t first_pair = 0;
};

// Byte offset of the journal ring in the meta file.
inline constexpr uint64_t kJournalOffset = 1 << 20;
// And of the checkpoint pages behind it.
inline constexpr uint64_t PagesOffset(uint64_t journal_blocks) {
  return kJournalOffset + journal_blocks * kBlockBytes;
}

// What the kill ring holds is at most one journal group, and a group must fit the journal several
// times.
bool RingFits(uint64_t kill_ring_bytes, uint64_t journal_blocks);

// Two copies at a time. Precondition: what was read of the copies is durable.
Status WriteSuperblock(File& meta, const Superblock& superblock);
enum class Access { kRead, kWrite };
// kCorrupt: no copy checks, or the pool was made by a newer version, or has a feature that this one
// does not know.
Result<Superblock> ReadSuperblock(File& meta, Access access = Access::kWrite);

// One copy, for a report.
struct SuperblockCopy {
  bool valid = false;
  uint32_t newer_version = 0;  // not 0: it checks, but is of this version
  Superblock content;          // when valid
};
Result<SuperblockCopy> ReadSuperblockCopy(File& meta, uint32_t copy);

}  // namespace flashlun
