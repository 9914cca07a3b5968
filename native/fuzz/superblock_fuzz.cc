// The four copies of the superblock, with any bytes in each.
#include "core/check.h"
#include "core/superblock.h"
#include "fuzz/fuzz.h"
#include "fuzz/memory_io.h"

using namespace flashlun;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  FuzzInput input(data, size);
  g_checksums = (input.Take<uint8_t>() & 1) != 0;
  MemoryIo io;
  std::unique_ptr<File> file = std::move(io.OpenFile("meta", {.create = true}).value());
  for (uint64_t copy = 0; copy < kSuperblockCopies; ++copy) {
    const std::vector<uint8_t> block = input.TakeBytes(input.Take<uint16_t>() % kBlockBytes);
    FL_CHECK(file->Pwrite(copy * kBlockBytes, block.data(), block.size()).ok());
  }
  if (Result<Superblock> read = ReadSuperblock(*file); read.ok()) {
    FL_CHECK(WriteSuperblock(*file, read.value()).ok());
    Result<Superblock> again = ReadSuperblock(*file);
    FL_CHECK(again.ok() && again.value().generation == read.value().generation);
    FL_CHECK(again.value().pool_uuid == read.value().pool_uuid);
  }
  g_checksums = true;
  return 0;
}
