#include "core/superblock.h"

#include <cstdio>
#include <cstring>

#include "core/crc32c.h"
#include "core/mutation.h"

namespace flashlun {
namespace {

constexpr uint64_t kMagic = 0x31304e554c534c46;  // "FLSLUN01"

struct DiskPosition {
  uint64_t next_seq;
  uint64_t last_group;
  uint32_t last_crc;
  uint32_t reserved;
};

struct DiskCheckpoint {
  uint64_t manifest_page;
  uint64_t manifest_bytes;
  uint64_t lsn;
  DiskPosition replay;
  uint32_t manifest_crc;
  uint32_t reserved;
};

struct DiskSuperblock {
  uint64_t magic;
  uint32_t version;
  uint32_t crc;  // of the 4096 bytes with crc = 0
  char pool_uuid[40];
  uint64_t generation;
  uint64_t open_epoch;
  uint64_t capacity_tracks;
  uint64_t journal_blocks;
  uint64_t kill_ring_bytes;
  uint32_t track_shift;
  uint32_t sub_shift;
  uint32_t copy;
  uint32_t clean;
  DiskCheckpoint current;
  DiskCheckpoint previous;
  uint64_t incompat_features;
  uint64_t ro_compat_features;
  uint64_t reach_lsn;
};
static_assert(sizeof(DiskSuperblock) <= kBlockBytes);
static_assert(kSuperblockOffsets[kSuperblockCopies - 1] + kBlockBytes <= kJournalOffset);

DiskCheckpoint ToDisk(const CheckpointRef& ref) {
  return {ref.manifest_page, ref.manifest_bytes,
          ref.lsn,           {ref.replay.next_seq, ref.replay.last_group, ref.replay.last_crc, 0},
          ref.manifest_crc,  0};
}

CheckpointRef FromDisk(const DiskCheckpoint& disk) {
  CheckpointRef ref;
  ref.manifest_page = disk.manifest_page;
  ref.manifest_bytes = disk.manifest_bytes;
  ref.manifest_crc = disk.manifest_crc;
  ref.lsn = disk.lsn;
  ref.replay = JournalPosition{disk.replay.next_seq, disk.replay.last_crc, disk.replay.last_group};
  return ref;
}

bool Plausible(const DiskCheckpoint& disk) {
  // A manifest of 4096 volumes of 64 TiB is 550 MiB.
  return disk.manifest_bytes <= uint64_t{1} << 30 && disk.manifest_page < uint64_t{1} << 40;
}

uint32_t BlockCrc(const uint8_t* block) {
  constexpr size_t kAt = offsetof(DiskSuperblock, crc);
  const uint32_t zero = 0;
  const uint32_t crc = Crc32c(Crc32c(0, block, kAt), &zero, sizeof zero);
  return Crc32c(crc, block + kAt + sizeof zero, kBlockBytes - kAt - sizeof zero);
}

void Encode(const Superblock& superblock, uint32_t copy, uint8_t* block) {
  DiskSuperblock disk{};
  disk.magic = kMagic;
  disk.version = kFormatVersion;
  std::memcpy(disk.pool_uuid, superblock.pool_uuid.data(),
              std::min(superblock.pool_uuid.size(), sizeof disk.pool_uuid - 1));
  disk.generation = superblock.generation;
  disk.open_epoch = superblock.open_epoch;
  disk.capacity_tracks = superblock.capacity_tracks;
  disk.journal_blocks = superblock.journal_blocks;
  disk.kill_ring_bytes = superblock.kill_ring_bytes;
  disk.track_shift = kTrackShift;
  disk.sub_shift = kSubShift;
  disk.copy = copy;
  disk.clean = superblock.clean ? 1 : 0;
  disk.current = ToDisk(superblock.current);
  disk.previous = ToDisk(superblock.previous);
  disk.incompat_features = superblock.incompat_features;
  disk.ro_compat_features = superblock.ro_compat_features;
  disk.reach_lsn = superblock.reach_lsn;
  std::memset(block, 0, kBlockBytes);
  std::memcpy(block, &disk, sizeof disk);
  const uint32_t crc = BlockCrc(block);
  std::memcpy(block + offsetof(DiskSuperblock, crc), &crc, sizeof crc);
}

Superblock Decode(const DiskSuperblock& disk) {
  Superblock superblock;
  superblock.pool_uuid.assign(disk.pool_uuid, ::strnlen(disk.pool_uuid, sizeof disk.pool_uuid));
  superblock.generation = disk.generation;
  superblock.open_epoch = disk.open_epoch;
  superblock.capacity_tracks = disk.capacity_tracks;
  superblock.journal_blocks = disk.journal_blocks;
  superblock.kill_ring_bytes = disk.kill_ring_bytes;
  superblock.clean = disk.clean != 0;
  superblock.current = FromDisk(disk.current);
  superblock.previous = FromDisk(disk.previous);
  superblock.incompat_features = disk.incompat_features;
  superblock.ro_compat_features = disk.ro_compat_features;
  superblock.reach_lsn = disk.reach_lsn;
  return superblock;
}

bool Plausible(const DiskSuperblock& disk, uint32_t copy) {
  return disk.copy == copy && disk.track_shift == kTrackShift && disk.sub_shift == kSubShift &&
         disk.capacity_tracks > 0 && disk.capacity_tracks <= kMaxPoolTracks &&
         disk.journal_blocks >= 8 && RingFits(disk.kill_ring_bytes, disk.journal_blocks) &&
         Plausible(disk.current) && Plausible(disk.previous);
}

// A pool with something this version does not know is not opened: what it does not know, it would
// misread or leave out.
Status CheckFeatures(const File& meta, const Superblock& superblock, Access access) {
  const uint64_t unknown = (superblock.incompat_features & ~kKnownIncompatFeatures) |
                           (access == Access::kWrite ? superblock.ro_compat_features : 0);
  if (unknown == 0) return Status::Ok();
  char bits[20];
  std::snprintf(bits, sizeof bits, "0x%llx", static_cast<unsigned long long>(unknown));
  return Status(Code::kCorrupt, meta.path() +
                                    ": the pool has features that this flashlun does not "
                                    "know (" +
                                    bits + "); open it with the flashlun that made it");
}

}  // namespace

bool RingFits(uint64_t kill_ring_bytes, uint64_t journal_blocks) {
  return kill_ring_bytes >= 16384 && kill_ring_bytes <= journal_blocks * kBlockBytes / 4;
}

Status WriteSuperblock(File& meta, const Superblock& superblock) {
  for (uint32_t i = 0; i < kSuperblockCopies; ++i) {
    const uint32_t copy = i ^ superblock.first_pair << 1;
    uint8_t block[kBlockBytes];
    Encode(superblock, copy, block);
    if (Status status = meta.Pwrite(kSuperblockOffsets[copy], block, kBlockBytes); !status.ok())
      return status;
    // Two at a time: while these are in the air, the other two are whole.
    if (i % 2 == 0 || (i == 1 && Mutated(Mutation::kSuperblockAtOnce))) continue;
    if (Status status = meta.Fdatasync(); !status.ok()) return status;
  }
  return Status::Ok();
}

Result<SuperblockCopy> ReadSuperblockCopy(File& meta, uint32_t copy) {
  uint8_t block[kBlockBytes];
  if (Status status = meta.Pread(kSuperblockOffsets[copy], block, kBlockBytes); !status.ok())
    return status;
  SuperblockCopy result;
  const auto disk = ReadRecord<DiskSuperblock>(block);
  const bool checks = disk.crc == BlockCrc(block) || Mutated(Mutation::kSuperblockUnchecked);
  if (disk.magic != kMagic || !checks) return result;
  if (disk.version != kFormatVersion) {
    result.newer_version = disk.version;
    return result;
  }
  result.valid = Plausible(disk, copy);
  if (result.valid) result.content = Decode(disk);
  return result;
}

Result<Superblock> ReadSuperblock(File& meta, Access access) {
  Superblock best;
  bool found = false;
  uint32_t newer_version = 0;
  Status unreadable;
  for (uint32_t copy = 0; copy < kSuperblockCopies; ++copy) {
    Result<SuperblockCopy> read = ReadSuperblockCopy(meta, copy);
    if (!read.ok()) {
      unreadable = read.TakeStatus();  // another copy may do
      continue;
    }
    if (read.value().newer_version != 0) newer_version = read.value().newer_version;
    if (!read.value().valid) continue;
    const uint64_t generation = read.value().content.generation;
    if (found && generation == best.generation) {
      if (copy >= 2) best.first_pair = 0;  // both pairs have it
      continue;
    }
    if (found && generation < best.generation) continue;
    best = std::move(read.value().content);
    best.first_pair = copy < 2 && !Mutated(Mutation::kOnlyPairFirst) ? 1 : 0;
    found = true;
  }
  if (found) {
    if (Status status = CheckFeatures(meta, best, access); !status.ok()) return status;
    return best;
  }
  if (newer_version != 0)
    return Status(Code::kCorrupt,
                  meta.path() + ": the pool has format version " + std::to_string(newer_version) +
                      ", this flashlun reads version " + std::to_string(kFormatVersion) +
                      "; open it with the flashlun that made it");
  if (!unreadable.ok()) return unreadable;
  return Status(Code::kCorrupt,
                meta.path() +
                    ": damaged: none of the four superblock copies is valid; nothing was changed: "
                    "restore the pool directory from a backup");
}

}  // namespace flashlun
