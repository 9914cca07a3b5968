// One record after the other from any bytes, as replay reads them.
#include "core/check.h"
#include "core/records.h"
#include "fuzz/fuzz.h"

using namespace flashlun;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  // In memory of its own, so that a read behind a record is noticed.
  while (size != 0) {
    const size_t length = RecordLength(data, size);
    FL_CHECK(length <= size && length <= kMaxRecordBytes && length % 8 == 0);
    if (length == 0) return 0;
    const std::vector<uint8_t> record(data, data + length);
    if (ReadRecord<RecordHeader>(record.data()).type == static_cast<uint8_t>(RecordType::kMap)) {
      const auto map = ReadRecord<MapRecord>(record.data());
      const Entry entry = EntryOf(map);
      FL_CHECK(entry.base <= kNoTrack);
      // What is written again is what was read, for every entry that the engine would accept.
      if (entry == Normalized(entry) && entry.own <= kNoTrack)
        FL_CHECK(EntryOf(MakeMapRecord(map.header.volume, map.track, entry)) == entry);
    }
    data += length;
    size -= length;
  }
  return 0;
}
