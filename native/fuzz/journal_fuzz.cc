// The journal ring: any bytes as its blocks, replayed from any position.
#include "core/check.h"
#include "core/journal.h"
#include "fuzz/fuzz.h"
#include "fuzz/memory_io.h"

using namespace flashlun;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  FuzzInput input(data, size);
  g_checksums = (input.Take<uint8_t>() & 1) != 0;
  JournalPosition start;
  start.next_seq = input.Take<uint8_t>();
  start.last_group = input.Take<uint8_t>();
  const uint64_t max_epoch = input.Take<uint8_t>();
  // Headers are what decides, 64 bytes of each 4 KiB: the input holds short blocks, which are
  // written out to their places.
  const size_t payload = 64 + 8 * size_t{input.Take<uint8_t>()};
  MemoryIo io;
  std::unique_ptr<File> file = std::move(io.OpenFile("journal", {.create = true}).value());
  uint64_t blocks = 0;
  for (; input.left() != 0 && blocks < 64; ++blocks) {
    const std::vector<uint8_t> block = input.TakeBytes(payload);
    FL_CHECK(file->Pwrite(blocks * kBlockBytes, block.data(), block.size()).ok());
  }
  Journal journal(*file, 0, std::max<uint64_t>(blocks, 8), "uuid");
  uint64_t records = 0;
  Result<JournalPosition> end =
      journal.Replay(start, max_epoch, [&](uint64_t, const uint8_t* record, size_t length) {
        FL_CHECK(RecordLength(record, length) == length);
        ++records;
        return Status::Ok();
      });
  if (end.ok()) {
    FL_CHECK(end.value().next_seq - start.next_seq <= journal.blocks());
    FL_CHECK(records <= journal.blocks() * kBlockBytes / sizeof(RecordHeader));
  }
  g_checksums = true;
  return 0;
}
