// Seals and scrubbing: rot is found, and nothing else ever is.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>

#include <cstdio>
#include <cstdlib>
#include <random>

#include "core/store_impl.h"
#include "test/pool_fixture.h"

namespace flashlun {

// Where a volume's track is.
class StorePeer {
 public:
  static uint64_t PhysicalOf(Store& store, uint16_t volume, uint64_t track) {
    StoreImpl& impl = store.impl();
    auto lock = impl.state_.Acquire();
    return impl.map_->FindEntry(*impl.volumes_.at(volume), track).own;
  }
  // How many refer to the track's place: one that was left counts until its drop has been applied.
  static uint32_t RefsOf(Store& store, uint16_t volume, uint64_t track) {
    const uint64_t physical = PhysicalOf(store, volume, track);
    StoreImpl& impl = store.impl();
    auto lock = impl.state_.Acquire();
    return impl.map_->allocator().Count(physical);
  }
};

namespace {

constexpr uint64_t kTracks = 40;

class SealFixture : public PoolFixture {
 public:
  // The whole volume, in batches that do not divide it.
  VerifyBatchResult Scrub(uint16_t id) {
    VerifyBatchResult sum;
    while (!sum.done) {
      Result<VerifyBatchResult> batch = store().VerifyBatch(id, sum.next_track, 7);
      REQUIRE_MESSAGE(batch.ok(), batch.status().message());
      VerifyBatchResult& got = batch.value();
      sum.verified += got.verified;
      sum.sealed += got.sealed;
      sum.read_only += got.read_only;
      for (VerifyMismatch& one : got.mismatched) sum.mismatched.push_back(std::move(one));
      for (VerifyIoError& one : got.io_errors) sum.io_errors.push_back(std::move(one));
      sum.next_track = got.next_track;
      sum.done = got.done;
    }
    CHECK(sum.io_errors.empty());
    return sum;
  }
  // A source of 40 tracks and its nocopy target.
  void MakePair() {
    Volume source = Create(0x1000, kTracks);
    Volume target = Create(0x1001, kTracks);
    Fill(source, 0, kTracks * kTrackBytes, 'a');
    Establish(0x1000, 0x1001, kRelNoCopy);
  }
};

TEST_CASE_FIXTURE(SealFixture, "frozen tracks are sealed once and verified from then on") {
  Open();
  Volume source = Create(0x1000, kTracks);
  Fill(source, 0, kTracks * kTrackBytes, 'a');
  CHECK(Scrub(0x1000).read_only == kTracks);
  CHECK(store().Info().sealed_tracks == 0);
  Volume target = Create(0x1001, kTracks);
  Establish(0x1000, 0x1001, kRelNoCopy);
  CHECK(Scrub(0x1001).sealed == kTracks);
  CHECK(Scrub(0x1001).verified == kTracks);
  CHECK(Scrub(0x1000).verified == kTracks);
  CHECK(store().Info().sealed_tracks == kTracks);
}

TEST_CASE_FIXTURE(SealFixture, "a write to a sealed track goes elsewhere, whoever owns it") {
  Open();
  MakePair();
  Scrub(0x1001);
  Volume source = store().Attach(0x1000).value();
  Volume target = store().Attach(0x1001).value();
  Fill(source, 0, kTrackBytes, 'b');  // leaves the target alone with the sealed track
  REQUIRE(store().Flush().ok());
  Fill(target, 4096, 4096, 'c');
  CHECK(Holds(target, 0, 4096, 'a'));
  CHECK(Holds(target, 4096, 4096, 'c'));
  CHECK(Holds(target, 8192, kTrackBytes - 8192, 'a'));
  // Own part and base; the base has the seal.
  const VerifyBatchResult scrubbed = Scrub(0x1001);
  CHECK(scrubbed.mismatched.empty());
  CHECK(scrubbed.read_only == 1);
  CHECK(scrubbed.verified == kTracks - 1);
}

TEST_CASE_FIXTURE(SealFixture, "a seal ends with its track") {
  Open();
  MakePair();
  Scrub(0x1001);
  for (const RelationshipInfo& relation : store().ListRelationships())
    REQUIRE(store().Withdraw(relation.id).ok());
  REQUIRE(store().DeleteVolume(0x1000).ok());
  REQUIRE(store().DeleteVolume(0x1001).ok());
  CHECK(Eventually([this] { return store().Info().used_tracks == 0; }));
  CHECK(store().Info().sealed_tracks == 0);
}

TEST_CASE_FIXTURE(SealFixture, "rot is found, also after a reopen, and names the place") {
  Open();
  MakePair();
  Scrub(0x1001);
  const uint64_t physical =
      StorePeer::PhysicalOf(store(), 0x1001, 17);  // where the bytes of track 17 are
  Close();
  FlipBit("tracks", (uint64_t{1} << 20) + physical * kTrackBytes + 12345);
  Open();
  CHECK(store().Info().sealed_tracks == kTracks);
  const VerifyBatchResult scrubbed = Scrub(0x1001);
  REQUIRE(scrubbed.mismatched.size() == 1);
  CHECK(scrubbed.mismatched[0].track == 17);
  CHECK(scrubbed.mismatched[0].physical == physical);
  CHECK(scrubbed.mismatched[0].shared == std::vector<uint16_t>{0x1000});
  CHECK(scrubbed.verified == kTracks - 1);
  CHECK(store().Info().verify_mismatches == 1);
}

TEST_CASE_FIXTURE(SealFixture, "a background copy refuses a track that rotted") {
  Open();
  MakePair();
  Scrub(0x1001);
  const uint64_t physical = StorePeer::PhysicalOf(store(), 0x1001, 3);
  Close();
  FlipBit("tracks", (uint64_t{1} << 20) + physical * kTrackBytes);
  Open();
  const uint64_t id = store().ListRelationships().front().id;
  Result<CopyBatchResult> copied = store().CopyBatch(id, 0, 100);
  REQUIRE_FALSE(copied.ok());
  CHECK(copied.status().code() == Code::kCorrupt);
  CHECK(copied.status().message().find("track 3 of volume 1001") != std::string::npos);
  CHECK(store().ListRelationships().front().copied_tracks == 3);
}

TEST_CASE_FIXTURE(SealFixture, "a background copy takes an own track as it is, sealed or not") {
  Open();
  MakePair();
  Scrub(0x1001);
  Volume source = store().Attach(0x1000).value();
  Fill(source, 0, kTracks * kTrackBytes, 'b');
  REQUIRE(store().Flush().ok());
  const uint64_t used = 2 * kTracks;
  CHECK(store().Info().used_tracks == used);
  // Alone with its tracks once the source's references have been given up.
  for (uint64_t track = 0; track < kTracks; ++track)
    REQUIRE(Eventually([&] { return StorePeer::RefsOf(store(), 0x1001, track) == 1; }));
  const uint64_t id = store().ListRelationships().front().id;
  REQUIRE(store().CopyBatch(id, 0, 100).ok());
  CHECK(store().Info().used_tracks == used);
  CHECK(Scrub(0x1001).verified == kTracks);
}

// Whatever hosts and administrators do, in whatever way the pool ends: no false alarm.
TEST_CASE_FIXTURE(SealFixture, "seals are never stale") {
  const char* given = std::getenv("FLASHLUN_SEED");
  const uint64_t seed =
      given == nullptr ? std::random_device()() : std::strtoull(given, nullptr, 10);
  std::printf("seal_test: FLASHLUN_SEED=%llu\n", static_cast<unsigned long long>(seed));
  std::mt19937_64 rng(seed);
  Open();
  for (uint16_t id = 0x1000; id < 0x1003; ++id) Create(id, kTracks);
  const auto any = [&rng] { return static_cast<uint16_t>(0x1000 + rng() % 3); };
  for (int step = 0; step < 1500; ++step) {
    const uint16_t id = any();
    switch (rng() % 16) {
      case 0: {
        const PairSpec pair{id, any(), kRelNoCopy};
        std::vector<uint64_t> ids;
        (void)store().Establish({&pair, 1}, &ids);  // refused: the same, or a target already
        break;
      }
      case 1:
        for (const RelationshipInfo& relation : store().ListRelationships())
          (void)store().Withdraw(relation.id);
        break;
      case 2:
        for (const RelationshipInfo& relation : store().ListRelationships())
          (void)store().CopyBatch(relation.id, 0, 5);
        break;
      case 3:
        CHECK(Scrub(id).mismatched.empty());
        break;
      case 4:
        if (rng() % 8 != 0) break;
        if (rng() % 2 == 0)
          Close();
        else
          Abandon();
        Open();
        break;
      case 5:
        if (store().DeleteVolume(id).ok()) Create(id, kTracks);
        break;
      case 6:
        store().impl().RequestCheckpoint();
        break;
      default: {
        Volume volume = store().Attach(id).value();
        const uint64_t offset = rng() % (kTracks * 16) * 4096;
        const uint64_t most = kTracks * kTrackBytes - offset;
        const auto length = static_cast<size_t>(std::min<uint64_t>(most, rng() % 100000 + 1));
        if (rng() % 8 == 0)
          REQUIRE(volume.Trim(slot(), offset, length).ok());
        else
          Fill(volume, offset, length, static_cast<char>('a' + rng() % 26));
      }
    }
  }
  for (uint16_t id = 0x1000; id < 0x1003; ++id) CHECK(Scrub(id).mismatched.empty());
}

}  // namespace
}  // namespace flashlun
