// Records: the changes of the map and of the volumes, as they stand in the journal and in the kill
// ring.
//
// Little-endian, multiples of 8 bytes; docs/format.md has the table. A MAP record holds the full
// new state of an entry, not a difference, so replay needs only order.
//
// A transaction (all pairs of one establish) is a run of records whose every member but the last
// has kMore set; replay applies it whole or not at all.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "core/entry.h"

namespace flashlun {

enum class RecordType : uint8_t {
  kMap = 1,          // one entry of a volume
  kEstablish = 2,    // target := source; a relationship begins
  kEndRelation = 3,  // withdrawn, or the copy is complete
  kCreateVolume = 4,
  kDeleteVolume = 5,
  kResizeVolume = 6,  // grown, online
  kResync = 7,        // target := source again; the relationship stays, T0 is new
  kReverse = 8,       // the relationship's volumes swap their roles, then as an establish
  kAddPool = 9,
  kGrowPool = 10,
  kSetRelation = 11,  // other flags, without a new T0
  kRevert = 12,       // target := another volume; the T0 is that of before
};

inline constexpr uint8_t kRecordMore = 1 << 0;       // the transaction goes on in the next record
inline constexpr uint8_t kRecordInherited = 1 << 1;  // MAP: the entry's inherited flag
inline constexpr uint8_t kRecordCopied = 1 << 2;     // MAP: a background copy's, not a host's
// RESYNC, REVERSE: only of the tracks that changed on either side (changes.h).
inline constexpr uint8_t kRecordIncremental = 1 << 3;

struct RecordHeader {
  uint8_t type;
  uint8_t length_words;  // of 8 bytes, header included
  uint8_t flags;
  uint8_t reserved;
  uint16_t volume;  // MAP, CREATE, DELETE, RESIZE; ESTABLISH, RESYNC, REVERSE: source; REVERT:
                    // the image; ADD_POOL, GROW_POOL: the data area
  uint16_t extra;   // MAP: mask; ESTABLISH, RESYNC, REVERSE: target; CREATE, ADD_POOL: bytes of the
                    // name
};
static_assert(sizeof(RecordHeader) == 8);

struct MapRecord {
  RecordHeader header;
  uint64_t track;
  uint64_t own;             // physical track, kNoTrack: unmapped
  uint64_t base_and_zmask;  // bits 0-39 base, 48-63 zmask
};
static_assert(sizeof(MapRecord) == 32);

// ESTABLISH, RESYNC and REVERSE: source and target are those of the copy that this record makes.
struct EstablishRecord {
  RecordHeader header;
  uint64_t relationship;
  int64_t t0_unix_ms;
  uint64_t relation_flags;
};
static_assert(sizeof(EstablishRecord) == 32);

struct SetRelationRecord {
  RecordHeader header;
  uint64_t relationship;
  uint64_t relation_flags;
};
static_assert(sizeof(SetRelationRecord) == 24);

struct RevertRecord {
  RecordHeader header;  // volume: the image
  uint64_t relationship;
  int64_t t0_unix_ms;
  uint64_t relation_flags;
};
static_assert(sizeof(RevertRecord) == 32);

struct EndRelationRecord {
  RecordHeader header;
  uint64_t relationship;
};
static_assert(sizeof(EndRelationRecord) == 16);

struct CreateVolumeRecord {
  RecordHeader header;
  uint64_t size_bytes;
  int64_t created_unix_ms;
  uint16_t pool;   // data area that its tracks come from
  uint16_t flags;  // VolumeFlag bits
  uint32_t reserved;
  char name[kMaxNameBytes];  // `header.extra` bytes, the rest zero
};
static_assert(sizeof(CreateVolumeRecord) == 32 + kMaxNameBytes);

struct DeleteVolumeRecord {
  RecordHeader header;
};

struct ResizeVolumeRecord {
  RecordHeader header;
  uint64_t size_bytes;
};
static_assert(sizeof(ResizeVolumeRecord) == 16);

struct AddPoolRecord {
  RecordHeader header;
  uint64_t capacity_tracks;
  char name[kMaxPoolNameBytes];  // `header.extra` bytes, the rest zero
  char path[kMaxPoolPathBytes];  // ends with a zero byte
};
static_assert(sizeof(AddPoolRecord) == 16 + kMaxPoolNameBytes + kMaxPoolPathBytes);

struct GrowPoolRecord {
  RecordHeader header;
  uint64_t capacity_tracks;
};
static_assert(sizeof(GrowPoolRecord) == 16);

inline constexpr size_t kMaxRecordBytes = sizeof(AddPoolRecord);

template <typename Record>
RecordHeader MakeHeader(RecordType type, uint16_t volume, uint16_t extra) {
  static_assert(sizeof(Record) % 8 == 0 && sizeof(Record) / 8 <= 255);
  return RecordHeader{
      static_cast<uint8_t>(type), static_cast<uint8_t>(sizeof(Record) / 8), 0, 0, volume, extra};
}

inline MapRecord MakeMapRecord(uint16_t volume, uint64_t track, const Entry& entry) {
  MapRecord record{MakeHeader<MapRecord>(RecordType::kMap, volume, entry.mask), track, entry.own,
                   entry.base | (uint64_t{entry.zmask} << 48)};
  if (entry.inherited) record.header.flags |= kRecordInherited;
  return record;
}

inline Entry EntryOf(const MapRecord& record) {
  Entry entry;
  entry.own = record.own;
  entry.mask = record.header.extra;
  entry.base = record.base_and_zmask & kNoTrack;
  entry.zmask = static_cast<uint16_t>(record.base_and_zmask >> 48);
  entry.inherited = (record.header.flags & kRecordInherited) != 0;
  return entry;
}

// The length in bytes of the record at `data` with `available` bytes behind it, or 0 when it is not
// well-formed. The only gate for bytes from disk: everything behind it may trust type and length.
inline size_t RecordLength(const uint8_t* data, size_t available) {
  if (available < sizeof(RecordHeader)) return 0;
  RecordHeader header;
  std::memcpy(&header, data, sizeof header);
  const size_t length = size_t{header.length_words} * 8;
  if (length > available) return 0;
  size_t expected = 0;
  switch (static_cast<RecordType>(header.type)) {
    case RecordType::kMap:
      expected = sizeof(MapRecord);
      break;
    case RecordType::kEstablish:
    case RecordType::kResync:
    case RecordType::kReverse:
      expected = sizeof(EstablishRecord);
      break;
    case RecordType::kSetRelation:
      expected = sizeof(SetRelationRecord);
      break;
    case RecordType::kRevert:
      expected = sizeof(RevertRecord);
      break;
    case RecordType::kEndRelation:
      expected = sizeof(EndRelationRecord);
      break;
    case RecordType::kCreateVolume:
      expected = sizeof(CreateVolumeRecord);
      break;
    case RecordType::kDeleteVolume:
      expected = sizeof(DeleteVolumeRecord);
      break;
    case RecordType::kResizeVolume:
      expected = sizeof(ResizeVolumeRecord);
      break;
    case RecordType::kAddPool:
      expected = sizeof(AddPoolRecord);
      break;
    case RecordType::kGrowPool:
      expected = sizeof(GrowPoolRecord);
      break;
  }
  return length == expected ? length : 0;
}

template <typename Record>
Record ReadRecord(const uint8_t* data) {
  Record record;
  std::memcpy(&record, data, sizeof record);
  return record;
}

// Records in LSN order, back to back: what waits for the next commit.
struct RecordBatch {
  std::vector<uint8_t> bytes;
  uint64_t first_lsn = 0;  // of the first record; 0 when empty
  uint64_t count = 0;

  bool empty() const { return count == 0; }
  void Append(uint64_t lsn, const void* record, size_t length) {
    if (count++ == 0) first_lsn = lsn;
    const auto* p = static_cast<const uint8_t*>(record);
    bytes.insert(bytes.end(), p, p + length);
  }
  void Clear() {
    bytes.clear();
    count = first_lsn = 0;
  }
};

}  // namespace flashlun
