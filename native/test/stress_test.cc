// Real threads over real files: writers, readers, flushes, establishes and background copies at
// once, for a bounded number of operations. Every 4 KiB block says where it belongs, so a foreign
// or torn block is noticed at once; T0 images are read twice and must not change. Meant for the
// sanitizer builds (CONTRIBUTING.md), passes without too.
#include <atomic>
#include <random>

#include "test/pool_fixture.h"

namespace flashlun {
namespace {

constexpr uint16_t kSource = 0x1203;
constexpr uint16_t kTarget = 0x1303;
constexpr uint64_t kTracks = 40;

struct Stamp {
  uint64_t block;  // 4 KiB block number in the volume
  uint64_t value;
};

void Fill(uint8_t* data, uint64_t block, uint64_t value) {
  const Stamp stamp{block, value};
  for (size_t at = 0; at < kSubBytes; at += sizeof stamp)
    std::memcpy(data + at, &stamp, sizeof stamp);
}

// The value, or a failure when the block is not one that was written for its place.
bool Check(const uint8_t* data, uint64_t block, uint64_t* value) {
  Stamp stamp;
  std::memcpy(&stamp, data, sizeof stamp);
  *value = stamp.value;
  const bool whole = std::memcmp(data, data + sizeof stamp, kSubBytes - sizeof stamp) == 0;
  return whole && (stamp.block == block || stamp.value == 0);
}

void WriteLoop(Store& store, Volume volume, uint64_t seed, uint64_t first_block, uint64_t blocks,
               std::atomic<int>& bad) {
  std::mt19937_64 random(seed);
  OpSlot* slot = store.AcquireSlot();
  std::vector<uint8_t> data(kTrackBytes);
  std::vector<uint64_t> last(blocks, 0);
  for (uint64_t i = 1; i <= 3000; ++i) {
    const uint64_t count = 1 + random() % (random() % 4 ? 1 : 16);
    const uint64_t at = random() % (blocks - std::min(blocks - 1, count - 1));
    const uint64_t n = std::min(count, blocks - at);
    if (random() % 3 != 0) {
      for (uint64_t k = 0; k < n; ++k)
        Fill(data.data() + k * kSubBytes, first_block + at + k, last[at + k] = i);
      if (!volume.Write(*slot, (first_block + at) * kSubBytes, data.data(), n * kSubBytes).ok())
        ++bad;
    } else {
      if (!volume
               .Read(*slot, (first_block + at) * kSubBytes, data.data(), n * kSubBytes,
                     ReadMode::kBlocking)
               .ok())
        ++bad;
      for (uint64_t k = 0; k < n; ++k) {
        uint64_t value;
        if (!Check(data.data() + k * kSubBytes, first_block + at + k, &value) ||
            value != last[at + k])
          ++bad;
      }
    }
    if (random() % 64 == 0 && !store.Flush().ok()) ++bad;
  }
  store.ReleaseSlot(slot);
}

std::string Image(Store& store, Volume& volume, std::atomic<int>& bad) {
  OpSlot* slot = store.AcquireSlot();
  std::string image(kTracks * kTrackBytes, 0);
  if (!volume.Read(*slot, 0, image.data(), image.size(), ReadMode::kBlocking).ok()) ++bad;
  for (uint64_t block = 0; block < kTracks * kSubsPerTrack; ++block) {
    uint64_t value;
    if (!Check(reinterpret_cast<const uint8_t*>(image.data()) + block * kSubBytes, block, &value))
      ++bad;
  }
  store.ReleaseSlot(slot);
  return image;
}

TEST_CASE_FIXTURE(PoolFixture, "writers, establishes and copies at once") {
  Open();
  Volume source = Create(kSource, kTracks);
  Volume target = Create(kTarget, kTracks);
  std::atomic<int> bad{0};
  std::atomic<int> running{2};
  std::vector<std::thread> threads;
  const uint64_t half = kTracks * kSubsPerTrack / 2;
  for (uint64_t i = 0; i < 2; ++i)
    threads.emplace_back([&, i] {
      // The two halves meet inside a track.
      WriteLoop(store(), source, 77 + i, i * (half + 5), half + (i == 0 ? 5 : -5), bad);
      --running;
    });
  int images = 0;
  while (running.load() != 0) {
    const uint64_t id = Establish(kSource, kTarget, images % 2 == 0 ? uint32_t{kRelNoCopy} : 0u);
    const std::string first = Image(store(), target, bad);
    if (images % 2 == 0) {
      CHECK(store().Withdraw(id).ok());
    } else {
      uint64_t next = 0;
      for (bool done = false; !done;) {
        Result<CopyBatchResult> batch = store().CopyBatch(id, next, 16);
        REQUIRE(batch.ok());
        next = batch.value().next_track;
        done = batch.value().done;
      }
    }
    if (Image(store(), target, bad) != first) ++bad;
    ++images;
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(bad.load() == 0);
  CHECK(images > 0);
  MESSAGE(images, " T0 images");
}

}  // namespace
}  // namespace flashlun
