#include "core/journal.h"

#include <algorithm>
#include <cstring>

#include "core/check.h"
#include "core/crc32c.h"
#include "core/mutation.h"

namespace flashlun {

struct Journal::Header {
  static constexpr uint32_t kMagic = 0x314a4c46;  // "FLJ1"
  static constexpr uint16_t kGroupFirst = 1 << 0;
  static constexpr uint16_t kGroupLast = 1 << 1;

  uint32_t magic;
  uint32_t crc;
  uint64_t open_epoch;
  uint64_t seq;
  uint64_t group;
  uint64_t first_lsn;     // of the first record in this block
  uint32_t record_count;  // records that begin in this block; none spans two
  uint32_t prev_crc;
  uint16_t used;  // bytes of records
  uint16_t flags;
  uint32_t reserved[3];
};

namespace {

constexpr size_t kHeaderBytes = 64;
constexpr size_t kPayloadBytes = kBlockBytes - kHeaderBytes;
static_assert(kMaxRecordBytes <= kPayloadBytes);

// Splits a batch into blocks: calls `emit` with the bytes and the count of each.
template <typename Emit>
void ForEachBlock(const RecordBatch& batch, Emit emit) {
  size_t begin = 0;
  size_t end = 0;
  uint32_t count = 0;
  while (end < batch.bytes.size()) {
    const size_t length = RecordLength(batch.bytes.data() + end, batch.bytes.size() - end);
    FL_CHECK(length != 0);
    if (end + length - begin > kPayloadBytes) {
      emit(begin, end, count);
      begin = end;
      count = 0;
    }
    end += length;
    ++count;
  }
  emit(begin, end, count);
}

}  // namespace

Journal::Journal(File& file, uint64_t offset, uint64_t blocks, const std::string& pool_uuid)
    : file_(file),
      offset_(offset),
      blocks_(blocks),
      uuid_crc_(Crc32c(0, pool_uuid.data(), pool_uuid.size())) {
  static_assert(sizeof(Header) == kHeaderBytes);
}

uint32_t Journal::SeededCrc(const uint8_t* block, uint64_t open_epoch, uint64_t seq) const {
  const uint64_t place[2] = {open_epoch, Mutated(Mutation::kJournalAnyPlace) ? 0 : seq};
  const uint32_t zero = 0;
  constexpr size_t kCrcOffset = offsetof(Header, crc);
  uint32_t crc = Crc32c(Mutated(Mutation::kJournalAnyPool) ? 0 : uuid_crc_, place, sizeof place);
  crc = Crc32c(crc, block, kCrcOffset);
  crc = Crc32c(crc, &zero, sizeof zero);
  return Crc32c(crc, block + kCrcOffset + sizeof zero, kBlockBytes - kCrcOffset - sizeof zero);
}

void Journal::Seal(uint8_t* block, uint64_t open_epoch, uint64_t seq) const {
  const uint32_t crc = SeededCrc(block, open_epoch, seq);
  std::memcpy(block + offsetof(Header, crc), &crc, sizeof crc);
}

uint64_t Journal::BlocksFor(const RecordBatch& batch) {
  uint64_t blocks = 0;
  ForEachBlock(batch, [&](size_t, size_t, uint32_t) { ++blocks; });
  return blocks;
}

Result<JournalPosition> Journal::WriteGroup(const JournalPosition& position, uint64_t open_epoch,
                                            const RecordBatch& batch) {
  const uint64_t count = BlocksFor(batch);
  FL_CHECK(count <= blocks_);
  std::vector<uint8_t> blocks(count * kBlockBytes);
  JournalPosition next = position;
  ++next.last_group;
  uint64_t lsn = batch.first_lsn;
  uint64_t index = 0;
  ForEachBlock(batch, [&](size_t begin, size_t end, uint32_t records) {
    uint8_t* block = blocks.data() + index * kBlockBytes;
    Header header{};
    header.magic = Header::kMagic;
    header.open_epoch = open_epoch;
    header.seq = next.next_seq;
    header.group = next.last_group;
    header.first_lsn = lsn;
    header.record_count = records;
    header.prev_crc = next.last_crc;
    header.used = static_cast<uint16_t>(end - begin);
    if (index == 0) header.flags |= Header::kGroupFirst;
    if (index + 1 == count) header.flags |= Header::kGroupLast;
    std::memcpy(block, &header, sizeof header);
    std::memcpy(block + sizeof header, batch.bytes.data() + begin, end - begin);
    Seal(block, open_epoch, header.seq);
    std::memcpy(&next.last_crc, block + offsetof(Header, crc), sizeof next.last_crc);
    ++next.next_seq;
    lsn += records;
    ++index;
  });
  if (Status status = WriteBlocks(position.next_seq, blocks); !status.ok()) return status;
  // The group counts only from here on; nothing may be answered on its strength before.
  if (Status status = file_.Fdatasync(); !status.ok()) return status;
  return next;
}

Status Journal::WriteBlocks(uint64_t seq, const std::vector<uint8_t>& blocks) {
  const uint64_t count = blocks.size() / kBlockBytes;
  const uint64_t slot = seq % blocks_;
  const uint64_t first = std::min(count, blocks_ - slot);
  Status status = file_.Pwrite(offset_ + slot * kBlockBytes, blocks.data(), first * kBlockBytes);
  if (!status.ok() || first == count) return status;
  return file_.Pwrite(offset_, blocks.data() + first * kBlockBytes, (count - first) * kBlockBytes);
}

// True when the slot of `seq` holds a block that was written as `seq`, by an epoch up to max_epoch.
Result<bool> Journal::ReadBlock(uint64_t seq, uint64_t max_epoch, uint8_t* block) {
  if (Status status = file_.Pread(offset_ + seq % blocks_ * kBlockBytes, block, kBlockBytes);
      !status.ok())
    return status;
  const Header header = ReadRecord<Header>(block);
  return header.magic == Header::kMagic &&
         (header.seq == seq || Mutated(Mutation::kJournalAnyPlace)) &&
         (header.open_epoch <= max_epoch || Mutated(Mutation::kJournalAnyEpoch)) &&
         header.used <= kPayloadBytes &&
         (header.crc == SeededCrc(block, header.open_epoch, seq) ||
          Mutated(Mutation::kJournalUnchecked));
}

Result<Journal::Slot> Journal::Inspect(uint64_t slot) {
  uint8_t block[kBlockBytes];
  Status status = file_.Pread(offset_ + slot * kBlockBytes, block, kBlockBytes);
  if (!status.ok()) return status;
  const Header header = ReadRecord<Header>(block);
  if (header.magic == Header::kMagic && header.seq % blocks_ == slot &&
      header.used <= kPayloadBytes && header.crc == SeededCrc(block, header.open_epoch, header.seq))
    return Slot{Slot::kBlock, header.seq, header.group};
  const bool blank =
      std::all_of(block, block + kBlockBytes, [](uint8_t byte) { return byte == 0; });
  return Slot{blank ? Slot::kBlank : Slot::kBroken};
}

Result<JournalPosition> Journal::Replay(const JournalPosition& start, uint64_t max_epoch,
                                        const Visitor& visit) {
  JournalPosition done = start;    // behind the last complete group
  JournalPosition cursor = start;  // behind the last accepted block
  uint64_t epoch = 0;
  std::vector<uint8_t> group;
  for (uint64_t read = 0; read < blocks_; ++read) {
    uint8_t block[kBlockBytes];
    Result<bool> valid = ReadBlock(cursor.next_seq, max_epoch, block);
    if (!valid.ok()) return valid.TakeStatus();
    const Header header = ReadRecord<Header>(block);
    const bool begins = (header.flags & Header::kGroupFirst) != 0;
    const bool follows = (header.open_epoch >= epoch || Mutated(Mutation::kJournalStaleEpoch)) &&
                         (header.prev_crc == cursor.last_crc || Mutated(Mutation::kJournalNoChain));
    const bool fits =
        valid.value() && follows && header.group == done.last_group + 1 && begins == group.empty();
    if (!fits) break;
    epoch = header.open_epoch;
    group.insert(group.end(), block, block + kBlockBytes);
    cursor.last_crc = header.crc;
    ++cursor.next_seq;
    if (!(header.flags & Header::kGroupLast)) continue;
    if (Status status = VisitBlocks(group, visit); !status.ok()) return status;
    group.clear();
    cursor.last_group = header.group;
    done = cursor;
  }
  if (Status status = CheckTail(done.next_seq, done.last_group, epoch, max_epoch); !status.ok())
    return status;
  return done;
}

// Rule T8: behind the end of the log there may be blocks of the group that was being written, in
// any state, and blocks of earlier passes and sessions; never a valid block of a later group.
Status Journal::CheckTail(uint64_t bad_seq, uint64_t last_group, uint64_t epoch,
                          uint64_t max_epoch) {
  if (Mutated(Mutation::kTailUnchecked)) return Status::Ok();
  uint8_t block[kBlockBytes];
  for (uint64_t seq = bad_seq; seq < bad_seq + blocks_; ++seq) {
    Result<bool> valid = ReadBlock(seq, max_epoch, block);
    if (!valid.ok()) return valid.TakeStatus();
    if (!valid.value()) continue;
    const Header header = ReadRecord<Header>(block);
    if (header.open_epoch >= epoch && header.group > last_group + 1)
      return Status(Code::kCorrupt,
                    file_.path() + ": journal block " + std::to_string(bad_seq) +
                        " is damaged although later ones are intact; nothing was changed: restore "
                        "the file from a backup");
  }
  return Status::Ok();
}

Status Journal::VisitBlocks(std::span<const uint8_t> group, const Visitor& visit) const {
  for (size_t at = 0; at < group.size(); at += kBlockBytes) {
    const Header header = ReadRecord<Header>(group.data() + at);
    const uint8_t* record = group.data() + at + kHeaderBytes;
    size_t left = header.used;
    for (uint64_t i = 0; i < header.record_count; ++i) {
      const size_t length = RecordLength(record, left);
      if (length == 0)
        return Status(Code::kCorrupt,
                      file_.path() + ": journal block " + std::to_string(header.seq) +
                          " holds a record of no known form (made by a newer flashlun?)");
      if (Status status = visit(header.first_lsn + i, record, length); !status.ok()) return status;
      record += length;
      left -= length;
    }
  }
  return Status::Ok();
}

}  // namespace flashlun
