// The store through its public face, on real files and threads.
#include <random>

#include "core/store_impl.h"
#include "test/pool_fixture.h"
#include "test/pool_metadata.h"
#include "test/sim_io.h"

namespace flashlun {
namespace {

constexpr uint16_t kA = 0x1203;
constexpr uint16_t kB = 0x1303;

TEST_CASE_FIXTURE(PoolFixture, "a new volume reads as zeroes and uses nothing") {
  Open();
  Volume a = Create(kA, 32);
  CHECK(Holds(a, 0, 3 * kTrackBytes, 0));
  CHECK(store().Info().used_tracks == 0);
}

TEST_CASE_FIXTURE(PoolFixture,
                  "reads and writes of any alignment match a byte array, copies included") {
  Open();
  const uint64_t tracks = 24;
  Volume volumes[] = {Create(kA, tracks), Create(kB, tracks)};
  std::string model[] = {std::string(tracks * kTrackBytes, 0),
                         std::string(tracks * kTrackBytes, 0)};
  const uint64_t seed = std::random_device{}();
  INFO("seed ", seed);
  std::mt19937_64 random(seed);
  for (int step = 0; step < 1500; ++step) {
    const size_t which = random() % 2;
    const uint64_t offset = random() % (tracks * kTrackBytes);
    const size_t most =
        std::min<size_t>(tracks * kTrackBytes - offset, random() % 8 ? 9000 : 200000);
    const size_t length = 1 + random() % most;
    const uint64_t kind = random() % 20;
    if (kind < 11) {
      const auto fill = static_cast<char>(random());
      Fill(volumes[which], offset, length, fill);
      model[which].replace(offset, length, length, fill);
    } else if (kind < 14) {
      REQUIRE(volumes[which].WriteZeroes(slot(), offset, length, random() % 2).ok());
      model[which].replace(offset, length, length, 0);
    } else if (kind < 15) {
      const auto from = (offset + kSubBytes - 1) / kSubBytes * kSubBytes;
      const auto to = (offset + length) / kSubBytes * kSubBytes;
      REQUIRE(volumes[which].Trim(slot(), offset, length).ok());
      if (from < to) model[which].replace(from, to - from, to - from, 0);
    } else if (kind < 16) {
      const uint64_t id =
          which == 0 ? Establish(kA, kB, kRelNoCopy) : Establish(kB, kA, kRelNoCopy);
      model[1 - which] = model[which];
      REQUIRE(store().Withdraw(id).ok());
    } else {
      REQUIRE(Read(volumes[which], offset, length) == model[which].substr(offset, length));
    }
  }
  for (size_t which : {0, 1}) CHECK(Read(volumes[which], 0, model[which].size()) == model[which]);
  volumes[0] = volumes[1] = Volume();
  Close();
  Open();
  volumes[0] = store().Attach(kA).value();
  volumes[1] = store().Attach(kB).value();
  for (size_t which : {0, 1}) CHECK(Read(volumes[which], 0, model[which].size()) == model[which]);
}

TEST_CASE_FIXTURE(PoolFixture, "a larger target keeps its own tracks behind the source's end") {
  Open();
  // The source ends in the middle of a leaf of the target's.
  Volume a = Create(kA, kLeafTracks + 7);
  Volume b = Create(kB, kIndexTracks + 40);
  const uint64_t end = (kLeafTracks + 7) * kTrackBytes;
  Fill(a, 0, 100, 'a');
  Fill(a, end - 100, 100, 'z');
  Fill(b, 50, 100, 'b');
  Fill(b, end - 50, 100, 'b');
  Fill(b, kIndexTracks * kTrackBytes, 100, 'b');
  Establish(kA, kB, 0);
  CHECK(Holds(b, 0, 100, 'a'));
  CHECK(Holds(b, 100, 50, 0));
  CHECK(Holds(b, end - 100, 100, 'z'));
  CHECK(Holds(b, end, 50, 'b'));
  CHECK(Holds(b, kIndexTracks * kTrackBytes, 100, 'b'));
  const RelationshipInfo relation = store().ListRelationships().at(0);
  CHECK(relation.total_tracks == kLeafTracks + 7);
  CHECK(relation.out_of_sync_tracks == 2);
}

TEST_CASE_FIXTURE(PoolFixture,
                  "background copy takes every shared track, then the relationship ends") {
  Open();
  Volume a = Create(kA, 600);
  Volume b = Create(kB, 600);
  for (const uint64_t track : {0, 5, 511, 512, 599}) Fill(a, track * kTrackBytes, kTrackBytes, 'a');
  const uint64_t id = Establish(kA, kB, 0);
  CHECK(store().ListRelationships().at(0).out_of_sync_tracks == 5);
  Fill(b, 511 * kTrackBytes, kTrackBytes, 'b');  // a whole host write takes the track out
  CHECK(store().ListRelationships().at(0).out_of_sync_tracks == 4);
  Fill(b, 0, kSubBytes, 'b');  // a part leaves the rest to copy
  CHECK(store().ListRelationships().at(0).out_of_sync_tracks == 4);
  uint64_t next = 0;
  uint32_t copied = 0;
  for (bool done = false; !done;) {
    Result<CopyBatchResult> batch = store().CopyBatch(id, next, 2);
    REQUIRE(batch.ok());
    CHECK(batch.value().copied_tracks <= 2);
    copied += batch.value().copied_tracks;
    next = batch.value().next_track;
    done = batch.value().done;
  }
  CHECK(copied == 4);
  CHECK(store().ListRelationships().empty());
  CHECK(Holds(b, 0, kSubBytes, 'b'));
  CHECK(Holds(b, kSubBytes, kTrackBytes - kSubBytes, 'a'));
  CHECK(Holds(b, 599 * kTrackBytes, kTrackBytes, 'a'));
  CHECK(store().CopyBatch(id, 0, 1).TakeStatus().code() == Code::kNotFound);
  // Physically apart: no track is shared any more.
  REQUIRE(store().Flush().ok());
  CHECK(Eventually([this] { return store().Info().used_tracks == 10; }));
}

TEST_CASE_FIXTURE(PoolFixture,
                  "a source track that was overwritten as a whole is no longer out of sync") {
  Open();
  Volume a = Create(kA, 8);
  Volume b = Create(kB, 8);
  Fill(a, 0, 4 * kTrackBytes, 'a');
  Establish(kA, kB, kRelNoCopy);
  CHECK(store().ListRelationships().at(0).out_of_sync_tracks == 4);
  Fill(a, kTrackBytes, kTrackBytes, 'n');
  REQUIRE(store().Flush().ok());
  CHECK(Eventually([this] { return store().ListRelationships().at(0).out_of_sync_tracks == 3; }));
  CHECK(Holds(b, 0, 4 * kTrackBytes, 'a'));
}

TEST_CASE_FIXTURE(PoolFixture, "the end of a volume gives back every track") {
  Open();
  {
    Volume a = Create(kA, 1200);
    Create(kB, 1200);
    Fill(a, 0, 100 * kTrackBytes, 'a');
    Fill(a, 1100 * kTrackBytes, 5000, 'a');
    REQUIRE(store().Withdraw(Establish(kA, kB, kRelNoCopy)).ok());
    Fill(a, 3000, 70000, 'n');
    CHECK(store().DeleteVolume(kA).code() == Code::kBusy);
  }
  REQUIRE(store().DeleteVolume(kA).ok());
  REQUIRE(store().DeleteVolume(kB).ok());
  CHECK(Eventually([this] { return store().Info().used_tracks == 0; }));
  CHECK(store().DeleteVolume(kA).code() == Code::kNotFound);
}

TEST_CASE_FIXTURE(PoolFixture,
                  "a full pool refuses with no-space, changes nothing, and recovers by trim") {
  options().capacity_bytes = 16 * kTrackBytes;
  Open();
  Volume a = Create(kA, 64);
  Fill(a, 0, 16 * kTrackBytes, 'a');
  const std::string data(kSubBytes, 'x');
  CHECK(a.Write(slot(), 20 * kTrackBytes, data.data(), data.size()).code() == Code::kNoSpace);
  CHECK(Holds(a, 20 * kTrackBytes, kTrackBytes, 0));
  CHECK(Holds(a, 0, 16 * kTrackBytes, 'a'));
  Fill(a, 0, 16 * kTrackBytes, 'b');  // in place: needs no space
  REQUIRE(a.Trim(slot(), 0, 4 * kTrackBytes).ok());
  Fill(a, 20 * kTrackBytes, 4 * kTrackBytes,
       'c');  // waits for the commit that frees the trimmed tracks
  CHECK(Holds(a, 20 * kTrackBytes, 4 * kTrackBytes, 'c'));
  CHECK(Holds(a, 4 * kTrackBytes, 12 * kTrackBytes, 'b'));
}

TEST_CASE_FIXTURE(PoolFixture, "refusals of establish change nothing") {
  Open();
  Volume a = Create(kA, 8);
  Volume b = Create(kB, 4);
  Create(0x1204, 8);
  Fill(b, 0, 10, 'b');
  std::vector<uint64_t> ids;
  const auto refused = [&](std::vector<PairSpec> pairs) {
    return store().Establish(pairs, &ids).code();
  };
  CHECK(refused({{kA, kA, 0}}) == Code::kInvalid);
  CHECK(refused({{kA, kB, 0}}) == Code::kInvalid);  // smaller
  CHECK(refused({{kA, 0x1fff, 0}}) == Code::kNotFound);
  CHECK(refused({{kB, 0x1204, 0}, {kA, 0x1204, 0}}) == Code::kInvalid);
  CHECK(refused({}) == Code::kInvalid);
  Establish(kB, 0x1204, kRelNoCopy);
  CHECK(refused({{kA, 0x1204, 0}}) == Code::kBusy);
  // One bad pair refuses all of them.
  CHECK(refused({{kB, kA, 0}, {kB, 0x1204, 0}}) == Code::kBusy);
  CHECK(store().ListRelationships().size() == 1);
  CHECK(Holds(b, 0, 10, 'b'));
  CHECK(Holds(a, 0, 10, 0));
}

TEST_CASE_FIXTURE(PoolFixture, "one pool, one opener") {
  Open();
  PoolFixture other;
  other.options().dir = options().dir;
  const Status status = other.TryOpen();
  CHECK(status.code() == Code::kLocked);
  CHECK(status.message().find("another flashlun server") != std::string::npos);
}

// A pool that was killed when its journal was full: some tracks are flushed (`j`), the records of
// 140 more (`r`) are only in the kill ring. Returns how many tracks are written.
uint64_t KillWithFullJournal(PoolFixture& killed) {
  PoolFixture pool;
  pool.options().journal_blocks = 16;
  pool.options().kill_ring_bytes = 16384;
  pool.options().autocommit_ms = 600000;
  pool.Open();
  Volume a = pool.Create(kA, 512);
  pool.io().Hold(pool.options().journal_blocks);
  // Each flush is one journal group of one block; the checkpoint that would make room is held.
  uint64_t track = 0;
  while (pool.store().Info().commits < 15) {
    pool.Fill(a, track++ * kTrackBytes, 512, 'j');
    REQUIRE(pool.store().Flush().ok());
  }
  // More records than the last two blocks take, but not enough to throttle.
  for (int i = 0; i < 140; ++i) pool.Fill(a, track++ * kTrackBytes, 512, 'r');
  pool.CopyPoolTo(killed);
  pool.io().Release();
  return track;
}

void CheckTracks(PoolFixture& pool, uint64_t tracks, char last) {
  Volume copy = pool.store().Attach(kA).value();
  for (uint64_t i = 0; i < tracks; ++i)
    CHECK_MESSAGE(pool.Holds(copy, i * kTrackBytes, 512, i < tracks - 140 ? 'j' : last), "track ",
                  i, " of ", tracks);
}

// One bit of the manifest of the current checkpoint.
void DamageCurrent(PoolFixture& pool) {
  const Superblock superblock = SuperblockOf(pool.PathOf("meta"));
  pool.FlipBit("meta", PagesOffset(superblock.journal_blocks) +
                           superblock.current.manifest_page * kPageBytes);
}

TEST_CASE_FIXTURE(PoolFixture, "killed with a full journal, and again right after the recovery") {
  const uint64_t tracks = KillWithFullJournal(*this);
  Open();
  PoolFixture again;
  CopyPoolTo(again);
  again.Open();
  CheckTracks(*this, tracks, 'r');
  CheckTracks(again, tracks, 'r');
}

// A recovery with a full journal makes two checkpoints. After a death between them the current one
// is ahead of the journal, and the one before it leads only to what was flushed.
TEST_CASE_FIXTURE(PoolFixture, "a checkpoint that is ahead of the journal may be damaged") {
  const uint64_t tracks = KillWithFullJournal(*this);
  io().FailPagesAfter(2, options().journal_blocks);
  CHECK(TryOpen().code() == Code::kIo);
  std::filesystem::remove(PathOf("ring"));  // and then the power fails

  PoolFixture damaged;
  CopyPoolTo(damaged);
  DamageCurrent(damaged);
  damaged.Open();
  CHECK(damaged.store().Info().used_previous_checkpoint);
  CheckTracks(damaged, tracks, 0);

  // Not damaged: the next session makes both checkpoints good before it writes anything.
  PoolFixture whole;
  CopyPoolTo(whole);
  whole.Open();
  CheckTracks(whole, tracks, 'r');
  {
    Volume a = whole.store().Attach(kA).value();
    whole.Fill(a, tracks * kTrackBytes, 512, 'n');
    REQUIRE(whole.store().Flush().ok());
  }
  PoolFixture later;
  whole.CopyPoolTo(later);
  std::filesystem::remove(later.PathOf("ring"));
  DamageCurrent(later);
  later.Open();
  CHECK(later.store().Info().used_previous_checkpoint);
  CheckTracks(later, tracks, 'r');
  Volume a = later.store().Attach(kA).value();
  CHECK(later.Holds(a, tracks * kTrackBytes, 512, 'n'));
}

TEST_CASE_FIXTURE(PoolFixture,
                  "a volume that dies under its background copy leaves nothing in the map") {
  Open();
  Create(kA, 64);
  for (int round = 0; round < 20; ++round) {
    {
      Volume a = store().Attach(kA).value();
      Create(kB, 64);
      Fill(a, 0, 32 * kTrackBytes, static_cast<char>('a' + round));
    }
    const uint64_t id = Establish(kA, kB, 0);
    std::thread copier([&] {
      uint64_t next = 0;
      for (;;) {
        Result<CopyBatchResult> batch = store().CopyBatch(id, next, 4);
        if (!batch.ok() || batch.value().done) return;
        next = batch.value().next_track;
      }
    });
    (void)store().Withdraw(id);  // kNotFound: the copy was faster
    CHECK(store().DeleteVolume(kB).ok());
    copier.join();
  }
  PoolFixture killed;
  CopyPoolTo(killed);
  killed.Open();
  CHECK(killed.store().ListVolumes().size() == 1);
}

TEST_CASE("a crash while the pool is made leaves a directory that opens as a new pool") {
  StoreOptions options;
  options.dir = "pool";
  options.journal_blocks = 16;
  options.kill_ring_bytes = 16384;
  bool made = false;
  for (uint64_t writes = 0; !made; ++writes) {
    REQUIRE(writes < 200);
    for (const CrashKind kind : {CrashKind::kKill, CrashKind::kPowerLoss}) {
      std::mt19937_64 random(writes);
      SimIo io(random, nullptr);
      io.DieAfter(writes);
      try {
        made = Store::Open(io, options).ok();
      } catch (const SimulatedDeath&) {
      }
      const std::unique_ptr<SimIo> after = io.Crash(kind, random, nullptr);
      Result<std::unique_ptr<Store>> store = Store::Open(*after, options);
      CHECK_MESSAGE(store.ok(), "after ", writes, " writes");
      if (store.ok()) CHECK(store.value()->ListVolumes().empty());
    }
  }
}

}  // namespace
}  // namespace flashlun
