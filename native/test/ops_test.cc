// Resize, resync and reverse through the store's public face, on real files and threads.
#include <random>

#include "core/store_impl.h"
#include "test/pool_fixture.h"

namespace flashlun {
namespace {

constexpr uint16_t kA = 0x1203;
constexpr uint16_t kB = 0x1303;
constexpr uint16_t kC = 0x1304;

// Copies what is out of sync until the relationship ends.
void CopyAll(PoolFixture& pool, uint64_t id) {
  uint64_t next = 0;
  for (int batches = 0; batches < 1000; ++batches) {
    Result<CopyBatchResult> batch = pool.store().CopyBatch(id, next, 64);
    REQUIRE(batch.ok());
    next = batch.value().next_track;
    if (batch.value().done) return;
  }
  FAIL("the background copy never ends");
}

// What holds now must hold after a kill, and after an orderly end.
void CheckKilled(PoolFixture& pool, const std::function<void(PoolFixture&)>& check) {
  check(pool);
  PoolFixture killed;
  pool.CopyPoolTo(killed);
  killed.Open();  // the kill ring and the journal
  check(killed);
  killed.Close();
  killed.Open();  // the checkpoint
  check(killed);
}

Volume AttachTo(PoolFixture& pool, uint16_t id) { return pool.store().Attach(id).value(); }

TEST_CASE_FIXTURE(PoolFixture, "a volume grows while it is written, and keeps what it has") {
  Open();
  const uint64_t tracks = 4;
  Volume a = Create(kA, tracks);
  std::atomic<bool> stop{false};
  std::atomic<int> bad{0};
  std::atomic<uint64_t> writes{0};
  std::thread writer([&] {
    OpSlot* own = store().AcquireSlot();
    const std::string data(kTrackBytes, 'w');
    std::string back(kTrackBytes, 0);
    for (uint64_t i = 0; !stop.load(); ++i) {
      // Always the last track that there is.
      const uint64_t at = a.size_bytes() - kTrackBytes;
      if (!a.Write(*own, at, data.data(), data.size()).ok()) ++bad;
      if (!a.Read(*own, at, back.data(), back.size(), ReadMode::kBlocking).ok() || back != data)
        ++bad;
      ++writes;
    }
    store().ReleaseSlot(own);
  });
  Fill(a, 0, 100, 'a');
  uint64_t size = tracks;
  for (int step = 0; step < 40; ++step) {
    const uint64_t seen = writes.load();
    CHECK(Eventually([&] { return writes.load() > seen; }));
    size += step % 3 == 0 ? kIndexTracks : 1 + static_cast<uint64_t>(step);
    REQUIRE(store().ResizeVolume(kA, size * kTrackBytes).ok());
    CHECK(a.size_bytes() == size * kTrackBytes);
  }
  stop = true;
  writer.join();
  CHECK(bad.load() == 0);
  Fill(a, (size - 1) * kTrackBytes, kTrackBytes, 'z');
  CheckKilled(*this, [&](PoolFixture& pool) {
    Volume volume = AttachTo(pool, kA);
    REQUIRE(volume.size_bytes() == size * kTrackBytes);
    CHECK(pool.Holds(volume, 0, 100, 'a'));
    CHECK(pool.Holds(volume, (size - 1) * kTrackBytes, kTrackBytes, 'z'));
  });
}

TEST_CASE_FIXTURE(PoolFixture, "a volume grows to the limit and never shrinks") {
  Open();
  Volume a = Create(kA, 4);
  CHECK(store().ResizeVolume(kA, 3 * kTrackBytes).code() == Code::kInvalid);
  CHECK(store().ResizeVolume(kA, 5 * kTrackBytes + 1).code() == Code::kInvalid);
  CHECK(store().ResizeVolume(kA, kMaxVolumeBytes + kTrackBytes).code() == Code::kInvalid);
  CHECK(store().ResizeVolume(kB, 5 * kTrackBytes).code() == Code::kNotFound);
  CHECK(store().ResizeVolume(kA, 4 * kTrackBytes).ok());
  REQUIRE(store().ResizeVolume(kA, kMaxVolumeBytes).ok());
  Fill(a, kMaxVolumeBytes - kTrackBytes, kTrackBytes, 'e');
  CheckKilled(*this, [](PoolFixture& pool) {
    Volume volume = AttachTo(pool, kA);
    CHECK(pool.Holds(volume, kMaxVolumeBytes - kTrackBytes, kTrackBytes, 'e'));
    CHECK(pool.Holds(volume, kMaxVolumeBytes - 2 * kTrackBytes, kTrackBytes, 0));
  });
}

TEST_CASE_FIXTURE(PoolFixture, "both sides of a relationship grow; its T0 range does not") {
  Open();
  const uint64_t old_tracks = 10;
  Volume a = Create(kA, old_tracks);
  Volume b = Create(kB, old_tracks);
  Fill(a, 0, old_tracks * kTrackBytes, 'a');
  const uint64_t id = Establish(kA, kB, 0);
  REQUIRE(store().ResizeVolume(kB, 600 * kTrackBytes).ok());
  REQUIRE(store().ResizeVolume(kA, 700 * kTrackBytes).ok());
  Fill(a, old_tracks * kTrackBytes, kTrackBytes, 'n');  // in the leaf that both share
  Fill(b, (old_tracks + 1) * kTrackBytes, kTrackBytes, 'm');
  Fill(b, 599 * kTrackBytes, kTrackBytes, 'm');
  CheckKilled(*this, [&](PoolFixture& pool) {
    const RelationshipInfo relation = pool.store().ListRelationships().at(0);
    CHECK(relation.total_tracks == old_tracks);
    CHECK(relation.out_of_sync_tracks == old_tracks);
    Volume copy = AttachTo(pool, kB);
    CHECK(pool.Holds(copy, 0, old_tracks * kTrackBytes, 'a'));
    CHECK(pool.Holds(copy, old_tracks * kTrackBytes, kTrackBytes, 0));
    CHECK(pool.Holds(copy, (old_tracks + 1) * kTrackBytes, kTrackBytes, 'm'));
    CHECK(pool.Holds(copy, 599 * kTrackBytes, kTrackBytes, 'm'));
  });
  // The source is the larger one now.
  CHECK(store().Resync(id).code() == Code::kInvalid);
  CHECK(store().Reverse(id).code() == Code::kInvalid);
  CopyAll(*this, id);
  CHECK(store().ListRelationships().empty());
}

TEST_CASE_FIXTURE(PoolFixture, "a resync makes the target what the source is now") {
  Open();
  const uint64_t tracks = kLeafTracks + 9;
  Volume a = Create(kA, tracks);
  Volume b = Create(kB, tracks + kIndexTracks);
  Fill(a, 0, 3 * kTrackBytes, 'a');
  Fill(b, tracks * kTrackBytes, 100, 'b');
  const uint64_t id = Establish(kA, kB, kRelNoCopy);
  const int64_t first_t0 = store().ListRelationships().at(0).t0_unix_ms;
  Fill(a, kTrackBytes, kSubBytes, 'n');
  Fill(a, (tracks - 1) * kTrackBytes, kTrackBytes, 'n');
  Fill(b, 2 * kTrackBytes, kTrackBytes, 'b');
  REQUIRE(Eventually([this, first_t0] { return io().UnixMs() > first_t0; }));
  REQUIRE(store().Resync(id).ok());
  CHECK(store().ListRelationships().at(0).out_of_sync_tracks == 4);
  Fill(a, 0, kTrackBytes, 'l');  // after the new T0
  CheckKilled(*this, [&](PoolFixture& pool) {
    const RelationshipInfo relation = pool.store().ListRelationships().at(0);
    CHECK(relation.id == id);
    CHECK(relation.flags == kRelNoCopy);
    CHECK(relation.t0_unix_ms > first_t0);
    Volume copy = AttachTo(pool, kB);
    CHECK(pool.Holds(copy, 0, kTrackBytes, 'a'));
    CHECK(pool.Holds(copy, kTrackBytes, kSubBytes, 'n'));
    CHECK(pool.Holds(copy, kTrackBytes + kSubBytes, kTrackBytes - kSubBytes, 'a'));
    CHECK(pool.Holds(copy, 2 * kTrackBytes, kTrackBytes, 'a'));
    CHECK(pool.Holds(copy, (tracks - 1) * kTrackBytes, kTrackBytes, 'n'));
    CHECK(pool.Holds(copy, tracks * kTrackBytes, 100, 'b'));  // behind the source's end
  });
}

TEST_CASE_FIXTURE(PoolFixture, "a resync in the middle of a background copy starts it again") {
  Open();
  Volume a = Create(kA, 32);
  Volume b = Create(kB, 32);
  Fill(a, 0, 16 * kTrackBytes, 'a');
  const uint64_t id = Establish(kA, kB, 0);
  REQUIRE(store().CopyBatch(id, 0, 10).ok());
  CHECK(store().ListRelationships().at(0).out_of_sync_tracks == 6);
  Fill(a, 0, 16 * kTrackBytes, 'n');
  REQUIRE(store().Resync(id).ok());
  CHECK(store().ListRelationships().at(0).out_of_sync_tracks == 16);
  CHECK(store().ListRelationships().at(0).copied_tracks == 0);
  CopyAll(*this, id);
  CHECK(Holds(b, 0, 16 * kTrackBytes, 'n'));
  CHECK(store().Resync(id).code() == Code::kNotFound);
  CHECK(Eventually([this] { return store().Flush().ok() && store().Info().used_tracks == 32; }));
}

TEST_CASE_FIXTURE(PoolFixture,
                  "a copy ends whatever a kill interrupted: what is left is counted anew") {
  Open();
  {
    Volume a = Create(kA, 600);
    Fill(a, 0, 40 * kTrackBytes, 'a');
    Fill(a, 599 * kTrackBytes, kTrackBytes, 'a');
    Create(kB, 700);
  }
  Close();
  Open();  // the volumes come from the checkpoint, the rest from the journal
  const uint64_t id = Establish(kA, kB, 0);
  REQUIRE(store().CopyBatch(id, 0, 10).ok());
  PoolFixture killed;
  CopyPoolTo(killed);
  killed.Open();
  CHECK(killed.store().ListRelationships().at(0).out_of_sync_tracks == 31);
  CopyAll(killed, id);
  CHECK(killed.store().ListRelationships().empty());
  Volume copy = AttachTo(killed, kB);
  CHECK(killed.Holds(copy, 0, 40 * kTrackBytes, 'a'));
}

TEST_CASE_FIXTURE(PoolFixture, "a reverse brings the target's present content back to the source") {
  Open();
  Volume a = Create(kA, 600);
  Volume b = Create(kB, 600);
  Fill(a, 0, 4 * kTrackBytes, 'a');
  const uint64_t id = Establish(kA, kB, kRelNoCopy);
  Fill(a, 0, 600 * kTrackBytes, 'x');  // the accident
  Fill(b, kTrackBytes, kSubBytes, 'b');
  REQUIRE(store().Reverse(id).ok());
  Fill(b, 3 * kTrackBytes, kTrackBytes, 'l');  // after T0
  CheckKilled(*this, [&](PoolFixture& pool) {
    const RelationshipInfo relation = pool.store().ListRelationships().at(0);
    CHECK(relation.id == id);
    CHECK(relation.source_id == kB);
    CHECK(relation.target_id == kA);
    Volume back = AttachTo(pool, kA);
    CHECK(pool.Holds(back, 0, kTrackBytes, 'a'));
    CHECK(pool.Holds(back, kTrackBytes, kSubBytes, 'b'));
    CHECK(pool.Holds(back, kTrackBytes + kSubBytes, 3 * kTrackBytes - kSubBytes, 'a'));
    CHECK(pool.Holds(back, 4 * kTrackBytes, 596 * kTrackBytes, 0));
  });
  // The old target is nobody's target any more.
  REQUIRE(store().Withdraw(id).ok());
  CHECK(Establish(kA, kB, 0) > id);
}

TEST_CASE_FIXTURE(PoolFixture, "there and back again") {
  Open();
  Volume a = Create(kA, 8);
  Volume b = Create(kB, 8);
  Fill(a, 0, kTrackBytes, 'a');
  const uint64_t id = Establish(kA, kB, 0);
  for (int round = 0; round < 6; ++round) {
    Volume& source = round % 2 == 0 ? b : a;
    const auto fill = static_cast<char>('0' + round);
    Fill(source, kTrackBytes, kTrackBytes, fill);
    REQUIRE(store().Reverse(id).ok());
    Fill(source, 2 * kTrackBytes, kTrackBytes, 'l');
    Volume& target = round % 2 == 0 ? a : b;
    CHECK(Holds(target, kTrackBytes, kTrackBytes, fill));
    CHECK(Holds(target, 2 * kTrackBytes, kTrackBytes, 0));  // what came after T0
  }
  CopyAll(*this, id);
  CHECK(Holds(b, 0, kTrackBytes, 'a'));
}

TEST_CASE_FIXTURE(PoolFixture, "resyncs and reverses of several are all or nothing") {
  Open();
  Volume a = Create(kA, 8);
  Volume b = Create(kB, 8);
  Create(kC, 16);
  const uint64_t ab = Establish(kA, kB, kRelNoCopy);
  const uint64_t ac = Establish(kA, kC, kRelNoCopy);
  Fill(a, 0, kTrackBytes, 'n');
  const auto both = [&](uint64_t first, uint64_t second) {
    return std::vector<uint64_t>{first, second};
  };
  CHECK(store().Resync(both(ab, ac + 1)).code() == Code::kNotFound);
  CHECK(store().Resync(both(ab, ab)).code() == Code::kInvalid);
  CHECK(store().Resync(std::vector<uint64_t>{}).code() == Code::kInvalid);
  CHECK(store().Reverse(both(ab, ac)).code() == Code::kInvalid);  // sizes differ
  CHECK(Holds(b, 0, kTrackBytes, 0));
  CHECK(store().Reverse(both(ac, ab)).code() == Code::kInvalid);
  REQUIRE(store().ResizeVolume(kA, 16 * kTrackBytes).ok());
  REQUIRE(store().ResizeVolume(kB, 16 * kTrackBytes).ok());
  CHECK(store().Reverse(both(ab, ac)).code() == Code::kInvalid);  // kA named twice as target
  REQUIRE(store().Resync(both(ab, ac)).ok());
  Volume c = AttachTo(*this, kC);
  CHECK(Holds(b, 0, kTrackBytes, 'n'));
  CHECK(Holds(c, 0, kTrackBytes, 'n'));
  const std::vector<RelationshipInfo> relations = store().ListRelationships();
  CHECK(relations.at(0).t0_unix_ms == relations.at(1).t0_unix_ms);
  // kA becomes the target of kB: kC cannot be turned round onto it too.
  REQUIRE(store().Reverse(ab).ok());
  CHECK(store().Reverse(ac).code() == Code::kBusy);
  CHECK(Holds(c, 0, kTrackBytes, 'n'));
}

TEST_CASE_FIXTURE(PoolFixture,
                  "establishes wait when too many dropped references still count (T19)") {
  constexpr uint16_t kGroup = kMaxPairsPerEstablish;
  options().kill_ring_bytes = 1 << 20;
  options().journal_blocks = 4096;
  Open();
  Volume a = Create(kA, 1);
  Fill(a, 0, kTrackBytes, 'a');
  std::vector<PairSpec> pairs;
  for (uint16_t i = 0; i < kGroup; ++i) {
    const auto id = static_cast<uint16_t>(0x1400 + i);
    REQUIRE(store().CreateVolume(id, kTrackBytes, "").ok());
    pairs.push_back({kA, id, kRelNoCopy});
  }
  std::vector<uint64_t> ids;
  OpSlot* reader = store().AcquireSlot();
  store().impl().epochs().Enter(*reader, nullptr);  // as a read that the disk does not answer
  REQUIRE(store().Establish(pairs, &ids).ok());
  Status status;
  uint64_t rounds = 0;
  for (; status.ok() && rounds < 2 * kMaxPendingPairs / kGroup; ++rounds) {
    Fill(a, 0, kSubBytes, 'b');
    status = store().Resync(ids);
  }
  CHECK(status.code() == Code::kTimeout);
  CHECK(rounds >= kMaxPendingPairs / kGroup);
  store().impl().epochs().Leave(*reader);
  store().ReleaseSlot(reader);
  CHECK(store().Resync(ids).ok());
  Volume last = AttachTo(*this, pairs.back().target_id);
  CHECK(Holds(last, 0, kSubBytes, 'b'));
}

// Copies that run while their relationship turns round again and again: nothing is lost or mixed.
TEST_CASE_FIXTURE(PoolFixture, "resync and reverse race a background copy and writers") {
  Open();
  constexpr uint64_t kTracks = 24;
  Volume volumes[] = {Create(kA, kTracks), Create(kB, kTracks)};
  Fill(volumes[0], 0, kTracks * kTrackBytes, 1);
  const uint64_t id = Establish(kA, kB, kRelNoCopy);
  const uint64_t seed = std::random_device{}();
  INFO("seed ", seed);
  std::atomic<bool> stop{false};
  std::atomic<int> bad{0};
  std::vector<std::thread> threads;
  threads.emplace_back([&] {
    for (uint64_t next = 0; !stop.load();) {
      Result<CopyBatchResult> batch = store().CopyBatch(id, next, 4);
      // All copied: the relationship has ended, and the loop below has established a new one.
      if (!batch.ok() && batch.status().code() != Code::kNotFound) ++bad;
      next = batch.ok() ? batch.value().next_track : 0;
    }
  });
  threads.emplace_back([&] {
    OpSlot* own = store().AcquireSlot();
    std::mt19937_64 random(seed);
    std::string track(kTrackBytes, 0);
    while (!stop.load()) {
      Volume& volume = volumes[random() % 2];
      const uint64_t at = random() % kTracks * kTrackBytes;
      if (random() % 2 == 0) {
        std::fill(track.begin(), track.end(), static_cast<char>(1 + random() % 100));
        if (!volume.Write(*own, at, track.data(), track.size()).ok()) ++bad;
      } else {
        if (!volume.Read(*own, at, track.data(), track.size(), ReadMode::kBlocking).ok()) ++bad;
        if (track != std::string(kTrackBytes, track[0])) ++bad;
      }
    }
    store().ReleaseSlot(own);
  });
  uint64_t now = id;
  for (int round = 0; round < 300; ++round) {
    const Status status = round % 3 == 0 ? store().Reverse(now) : store().Resync(now);
    if (status.code() == Code::kNotFound) {
      now = Establish(kA, kB, kRelNoCopy);
    } else {
      REQUIRE_MESSAGE(status.ok(), status.message());
    }
  }
  stop = true;
  for (std::thread& thread : threads) thread.join();
  CHECK(bad.load() == 0);
  const std::string contents[] = {Read(volumes[0], 0, kTracks * kTrackBytes),
                                  Read(volumes[1], 0, kTracks * kTrackBytes)};
  CheckKilled(*this, [&](PoolFixture& pool) {
    for (size_t i : {0, 1}) {
      Volume volume = AttachTo(pool, i == 0 ? kA : kB);
      CHECK(pool.Read(volume, 0, contents[i].size()) == contents[i]);
    }
  });
}

}  // namespace
}  // namespace flashlun
