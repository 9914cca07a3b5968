// Bit rot in every metadata file: noticed at open, named, never guessed over; survived where there
// is a second copy.
#include <set>

#include "core/checkpoint.h"
#include "core/superblock.h"
#include "core/thread_io.h"
#include "test/pool_fixture.h"
#include "test/pool_metadata.h"

namespace flashlun {
namespace {

constexpr uint16_t kA = 0x1203;

// A pool with a checkpoint before and a journal after some writes.
void MakePool(PoolFixture& pool) {
  pool.Open();
  {
    Volume a = pool.Create(kA, 64);
    pool.Fill(a, 0, 300000, 'a');
  }
  pool.Close();
  pool.Open();
  {
    Volume a = pool.store().Attach(kA).value();
    // Each flush with new records is one journal group.
    for (uint64_t i = 0; i < 6; ++i) {
      pool.Fill(a, (20 + i) * kTrackBytes, kTrackBytes, 'j');
      REQUIRE(pool.store().Flush().ok());
    }
  }
}

void CheckContent(PoolFixture& pool) {
  Volume a = pool.store().Attach(kA).value();
  CHECK(pool.Holds(a, 0, 300000, 'a'));
  CHECK(pool.Holds(a, 20 * kTrackBytes, 6 * kTrackBytes, 'j'));
}

TEST_CASE_FIXTURE(PoolFixture, "three of four superblock copies may be damaged, not all four") {
  MakePool(*this);
  Abandon();
  for (uint64_t copy = 0; copy < 3; ++copy) FlipBit("meta", kSuperblockOffsets[copy] + 100);
  Open();
  CheckContent(*this);
  Abandon();
  for (uint64_t copy = 0; copy < 4; ++copy) FlipBit("meta", kSuperblockOffsets[copy] + 100);
  const Status status = TryOpen();
  CHECK(status.code() == Code::kCorrupt);
  CHECK(status.message().find(PathOf("meta")) != std::string::npos);
}

// Opens a copy of the pool in which one bit of every given page is wrong.
Status OpenWithDamage(const PoolFixture& pool, PoolFixture& copy, const std::set<uint64_t>& pages) {
  pool.CopyPoolTo(copy);
  for (const uint64_t page : pages)
    copy.FlipBit("meta", PagesOffset(copy.options().journal_blocks) + page * kPageBytes + 17);
  return copy.TryOpen();
}

TEST_CASE_FIXTURE(PoolFixture,
                  "a damaged checkpoint page: the one before and a longer replay give the same") {
  MakePool(*this);
  Close();  // a second checkpoint
  const std::set<uint64_t> current = PagesOfCheckpoint(PathOf("meta"), false);
  const std::set<uint64_t> previous = PagesOfCheckpoint(PathOf("meta"), true);
  CHECK(current.size() == 5);  // manifest, table page, index node, wide leaf
  uint64_t shared = 0;
  for (const uint64_t page : current) {
    PoolFixture copy;
    const Status status = OpenWithDamage(*this, copy, {page});
    if (previous.contains(page)) {
      ++shared;
      CHECK(status.code() == Code::kCorrupt);
      CHECK(status.message().find("page " + std::to_string(page)) != std::string::npos);
      continue;
    }
    REQUIRE_MESSAGE(status.ok(), status.message());
    CHECK(copy.store().Info().used_previous_checkpoint);
    CheckContent(copy);
  }
  CHECK(shared == 1);  // the index node did not change between the two
  PoolFixture copy;
  CHECK(OpenWithDamage(*this, copy, {*current.begin(), *previous.begin()}).code() ==
        Code::kCorrupt);
}

TEST_CASE_FIXTURE(
    PoolFixture, "a damaged journal block with whole groups behind it is damage, not a torn tail") {
  MakePool(*this);
  Abandon();
  // The groups of MakePool's second half: find the first block of the last session by its content's
  // place.
  bool noticed = false;
  for (uint64_t block = 1; block < 32 && !noticed; ++block) {
    FlipBit("meta", kJournalOffset + block * kBlockBytes + 80);
    const Status status = TryOpen();
    if (!status.ok()) {
      CHECK(status.code() == Code::kCorrupt);
      CHECK(status.message().find("journal") != std::string::npos);
      noticed = true;
    } else {
      Abandon();
    }
    FlipBit("meta", kJournalOffset + block * kBlockBytes + 80);
  }
  CHECK(noticed);
  Open();
  CheckContent(*this);
}

TEST_CASE_FIXTURE(PoolFixture, "a tracks file of another pool is refused") {
  MakePool(*this);
  Close();
  FlipBit("tracks", 20);
  const Status status = TryOpen();
  CHECK(status.code() == Code::kCorrupt);
  CHECK(status.message().find(PathOf("tracks")) != std::string::npos);
}

TEST_CASE_FIXTURE(PoolFixture, "a missing file is named") {
  MakePool(*this);
  Close();
  std::filesystem::rename(PathOf("tracks"), PathOf("gone"));
  const Status status = TryOpen();
  CHECK(status.code() == Code::kCorrupt);
  CHECK(status.message().find(PathOf("tracks")) != std::string::npos);
  std::filesystem::rename(PathOf("gone"), PathOf("tracks"));
  Open();
  CheckContent(*this);
}

TEST_CASE_FIXTURE(PoolFixture, "without its meta file a pool is not taken for an empty directory") {
  MakePool(*this);
  Abandon();
  std::filesystem::rename(PathOf("meta"), PathOf("gone"));
  const Status status = TryOpen();
  CHECK(status.code() == Code::kCorrupt);
  CHECK(status.message().find(PathOf("meta")) != std::string::npos);
  std::filesystem::rename(PathOf("gone"), PathOf("meta"));
  Open();
  CheckContent(*this);
}

TEST_CASE_FIXTURE(PoolFixture, "a truncated tracks file is refused: it would read as zeroes") {
  MakePool(*this);
  Close();
  // The file is longer than what is mapped: it grows ahead of the writers.
  std::ifstream file(PathOf("tracks"), std::ios::binary);
  const std::string bytes((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  std::filesystem::resize_file(PathOf("tracks"), bytes.find_last_not_of('\0'));
  const Status status = TryOpen();
  CHECK(status.code() == Code::kCorrupt);
  CHECK(status.message().find(PathOf("tracks")) != std::string::npos);
  std::filesystem::resize_file(PathOf("tracks"), 100);
  CHECK(TryOpen().code() == Code::kCorrupt);
}

TEST_CASE_FIXTURE(PoolFixture, "a refused open changes nothing") {
  MakePool(*this);
  Close();
  for (uint64_t copy = 0; copy < 4; ++copy) FlipBit("meta", kSuperblockOffsets[copy] + 100);
  CHECK(TryOpen().code() == Code::kCorrupt);
  for (uint64_t copy = 0; copy < 4; ++copy) FlipBit("meta", kSuperblockOffsets[copy] + 100);
  Open();
  CheckContent(*this);
}

}  // namespace
}  // namespace flashlun
