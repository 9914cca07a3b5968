// Journal: a ring of 4 KiB blocks that makes groups of records durable.
//
// A group is the records of one commit; it is one or more consecutive blocks, of which the last
// carries kGroupLast. Every block is written once per pass, never in place again. What ties a block
// to its place, so that a torn, stale or misdirected block is never taken for the next one (trap
// T7):
//
//   crc         over the 4 KiB, seeded with pool uuid, open epoch and sequence number
//   seq         never resets; slot = seq % blocks
//   prev_crc    the crc of the block before
//   open_epoch  +1 at every open for write, so an old session's tail cannot continue a new
//   session's log
//
// Reading stops at the first block that does not fit. If a valid block of a *later* group stands
// behind it, the log was damaged in its durable part (a group is written only after the one before
// was durable): that is kCorrupt, not a torn tail (trap T8).
//
// Thread safety: none. The commit thread owns it; positions are handed around under the store's
// state lock.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "core/io.h"
#include "core/records.h"

namespace flashlun {

inline constexpr size_t kBlockBytes = 4096;

// Where the next group goes.
struct JournalPosition {
  uint64_t next_seq = 1;
  uint32_t last_crc = 0;    // of block next_seq - 1
  uint64_t last_group = 0;  // number of the last durable group
};

class Journal {
 public:
  // The ring is `blocks` blocks of `file`, from byte `offset` on.
  Journal(File& file, uint64_t offset, uint64_t blocks, const std::string& pool_uuid);

  using Visitor = std::function<Status(uint64_t lsn, const uint8_t* record, size_t length)>;
  // Visits the records of all complete groups from `start` on in LSN order and returns the position
  // behind them. Blocks of epochs above max_epoch are not accepted.
  Result<JournalPosition> Replay(const JournalPosition& start, uint64_t max_epoch,
                                 const Visitor& visit);

  // What one place of the ring holds, whatever the log needs of it.
  struct Slot {
    enum State { kBlank, kBlock, kBroken } state = kBlank;
    uint64_t seq = 0;    // of a block
    uint64_t group = 0;  // of a block
  };
  Result<Slot> Inspect(uint64_t slot);

  // Blocks that a group of these records takes.
  static uint64_t BlocksFor(const RecordBatch& batch);
  // Writes the batch as one group at `position` and makes it durable. Returns the position behind
  // it.
  Result<JournalPosition> WriteGroup(const JournalPosition& position, uint64_t open_epoch,
                                     const RecordBatch& batch);

  uint64_t blocks() const { return blocks_; }

 private:
  struct Header;
  struct Block;
  uint32_t SeededCrc(const uint8_t* block, uint64_t open_epoch, uint64_t seq) const;
  Result<bool> ReadBlock(uint64_t seq, uint64_t max_epoch, uint8_t* block);
  Status CheckTail(uint64_t bad_seq, uint64_t last_group, uint64_t epoch, uint64_t max_epoch);
  Status VisitBlocks(std::span<const uint8_t> group, const Visitor& visit) const;
  Status WriteBlocks(uint64_t seq, const std::vector<uint8_t>& blocks);
  void Seal(uint8_t* block, uint64_t open_epoch, uint64_t seq) const;

  File& file_;
  const uint64_t offset_;
  const uint64_t blocks_;
  const uint32_t uuid_crc_;
};

}  // namespace flashlun
