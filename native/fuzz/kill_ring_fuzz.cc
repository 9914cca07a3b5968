// The kill ring's file with any bytes: what a process killed in the middle of anything, or a bad
// disk, leaves.
#include "core/check.h"
#include "core/kill_ring.h"
#include "core/records.h"
#include "fuzz/fuzz.h"
#include "fuzz/memory_io.h"

using namespace flashlun;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  constexpr size_t kRingBytes = 4096;
  FuzzInput input(data, size);
  g_checksums = (input.Take<uint8_t>() & 1) != 0;
  const uint64_t after = input.Take<uint8_t>();
  MemoryIo io;
  auto memory = std::move(io.MapShared("ring", KillRing::kHeaderBytes + kRingBytes).value());
  uint8_t* bytes = memory->data();
  KillRing ring(std::move(memory));
  ring.Reset("uuid", "boot");
  // The header as it is, then edits of it, then the ring.
  for (size_t edits = input.Take<uint8_t>() % 8; edits != 0; --edits) {
    const size_t at = input.Take<uint8_t>();
    bytes[at] = input.Take<uint8_t>();
  }
  const std::vector<uint8_t> rest = input.TakeBytes(kRingBytes);
  if (!rest.empty()) std::memcpy(bytes + KillRing::kHeaderBytes, rest.data(), rest.size());
  uint64_t last = after;
  ring.Recover("uuid", "boot", after, [&](uint64_t lsn, const uint8_t* record, size_t length) {
    FL_CHECK(lsn == last + 1 && length <= kMaxRecordBytes);
    last = lsn;
    (void)RecordLength(record, length);
  });
  g_checksums = true;
  return 0;
}
