// Change recording: incremental resync and reverse share and copy only what changed, whatever kill
// or restart comes in between; persistent relationships; inhibited targets.
#include <doctest/doctest.h>

#include "core/changes.h"
#include "core/limits.h"
#include "test/pool_fixture.h"

namespace flashlun {
namespace {

constexpr uint16_t kA = 0x1200, kB = 0x1300, kC = 0x1301;
constexpr uint64_t kTracks = kLeafTracks + 40;
constexpr uint32_t kKept = kRelPersistent | kRelRecord;

class RecordFixture : public PoolFixture {
 public:
  void CopyAll(uint64_t id) { (void)CopyAllAndCount(id); }
  uint64_t CopyAllAndCount(uint64_t id) {
    uint64_t copied = 0;
    for (uint64_t from = 0;;) {
      Result<CopyBatchResult> batch = store().CopyBatch(id, from, 64);
      REQUIRE(batch.ok());
      copied += batch.value().copied_tracks;
      if (batch.value().done) return copied;
      from = batch.value().next_track;
    }
  }
  RelationshipInfo Only() {
    const auto all = store().ListRelationships();
    REQUIRE(all.size() == 1);
    return all.front();
  }
  // 20 tracks of A, copied to B.
  uint64_t Copied(uint32_t flags) {
    const uint64_t id = Establish(kA, kB, flags);
    CopyAll(id);
    return id;
  }
  void Same(PoolFixture& pool) {
    Volume a = pool.store().Attach(kA).value();
    Volume b = pool.store().Attach(kB).value();
    for (uint64_t track = 0; track < kTracks; ++track)
      REQUIRE(pool.Read(a, track * kTrackBytes, kTrackBytes) ==
              pool.Read(b, track * kTrackBytes, kTrackBytes));
  }
};

}  // namespace

TEST_CASE_FIXTURE(RecordFixture, "a resync copies the tracks that changed on either side") {
  Open();
  Volume a = Create(kA, kTracks);
  Volume b = Create(kB, kTracks);
  Fill(a, 0, 20 * kTrackBytes, 'a');
  Fill(a, (kTracks - 3) * kTrackBytes, 3 * kTrackBytes, 'a');
  const uint64_t id = Copied(kKept);
  CHECK(Only().pending_tracks == 0);
  CHECK(Only().out_of_sync_tracks == 0);
  uint64_t expected = 5;
  uint64_t second = 9;
  SUBCASE("apart") {}
  SUBCASE("one in common") {
    second = 2;
    expected = 4;
  }
  Fill(b, second * kTrackBytes, 100, 't');
  Fill(b, 8 * kTrackBytes, kTrackBytes, 't');
  Fill(a, 1 * kTrackBytes, 512, 's');
  Fill(a, 2 * kTrackBytes, kTrackBytes, 's');
  Fill(a, (kTracks - 1) * kTrackBytes, kSubBytes, 's');
  for (int again = 0; again < 2; ++again) Fill(a, 2 * kTrackBytes, kTrackBytes, 's');  // in place
  {
    PoolFixture killed;
    CopyPoolTo(killed);
    killed.Open();
    REQUIRE(killed.store().Resync(id).ok());
    CHECK(killed.store().ListRelationships().at(0).pending_tracks == expected);
    killed.Abandon();
  }
  a = Volume();
  b = Volume();
  Close();
  Open();
  REQUIRE(store().Resync(id).ok());
  CHECK(Only().pending_tracks == expected);
  CHECK(Only().out_of_sync_tracks == expected);
  CHECK(CopyAllAndCount(id) == expected);
  Same(*this);
  // Nothing has changed since.
  REQUIRE(store().Resync(id).ok());
  CHECK(Only().pending_tracks == 0);
}

TEST_CASE_FIXTURE(RecordFixture, "trims, zeroes and first writes are changes too") {
  Open();
  Volume a = Create(kA, kTracks);
  Volume b = Create(kB, kTracks);
  Fill(a, 0, 20 * kTrackBytes, 'a');
  const uint64_t id = Copied(kKept);
  REQUIRE(a.Trim(slot(), 3 * kTrackBytes, kTrackBytes).ok());
  REQUIRE(a.WriteZeroes(slot(), 4 * kTrackBytes, kSubBytes, false).ok());
  Fill(a, 100 * kTrackBytes, 10, 'n');
  REQUIRE(b.Trim(slot(), 5 * kTrackBytes, kTrackBytes).ok());
  Fill(b, 200 * kTrackBytes, 10, 'n');
  REQUIRE(store().Resync(id).ok());
  // Track 3 of A and 200 of A hold nothing: there is nothing to copy.
  CHECK(Only().pending_tracks == 3);
  CHECK(CopyAllAndCount(id) == 3);
  Same(*this);
}

TEST_CASE_FIXTURE(RecordFixture, "where everything has changed whole leaves are shared") {
  Open();
  Volume a = Create(kA, kTracks);
  Volume b = Create(kB, kTracks);
  Fill(a, 0, 20 * kTrackBytes, 'a');
  const uint64_t id = Copied(kKept);
  Fill(a, 0, (kLeafTracks + 10) * kTrackBytes, 's');
  Fill(b, 7 * kTrackBytes, 100, 't');
  REQUIRE(store().Resync(id).ok());
  CHECK(Only().pending_tracks == kLeafTracks + 10);
  CHECK(Only().out_of_sync_tracks == kLeafTracks + 10);
  // Once more before all is copied, and with holes.
  REQUIRE(store().CopyBatch(id, 0, 100).ok());
  Fill(a, 0, kLeafTracks * kTrackBytes, 'x');
  REQUIRE(a.Trim(slot(), 0, 64 * kTrackBytes).ok());
  REQUIRE(store().Resync(id).ok());
  CHECK(Only().pending_tracks == kLeafTracks + 10 - 64);
  const auto check = [&](PoolFixture& pool) {
    CHECK(pool.store().ListRelationships().at(0).pending_tracks == kLeafTracks + 10 - 64);
    CHECK(pool.store().GetVolume(kB).value().mapped_tracks == kLeafTracks + 10 - 64);
    Same(pool);
  };
  PoolFixture killed;
  CopyPoolTo(killed);
  killed.Open();
  check(killed);
  check(*this);
  CHECK(CopyAllAndCount(id) == kLeafTracks + 10 - 64);
  Same(*this);
  // And everything gone.
  REQUIRE(a.Trim(slot(), 0, kTracks * kTrackBytes).ok());
  Fill(b, 0, kTracks * kTrackBytes, 't');
  REQUIRE(store().Resync(id).ok());
  CHECK(Only().pending_tracks == 0);
  Same(*this);
  CHECK(Eventually([this] { return store().Flush().ok() && store().Info().used_tracks == 0; }));
}

TEST_CASE_FIXTURE(RecordFixture, "flags given with a resync replace the relationship's") {
  Open();
  Volume a = Create(kA, kTracks);
  Volume b = Create(kB, kTracks);
  Fill(a, 0, 4 * kTrackBytes, 'a');
  const uint64_t id = Copied(kKept);
  Fill(a, 0, kTrackBytes, 's');
  const std::vector<uint64_t> ids{id};
  REQUIRE(store().Resync(ids, 0).ok());
  CHECK(Only().flags == 0);
  CHECK(CopyAllAndCount(id) == 1);
  CHECK(store().ListRelationships().empty());
  Same(*this);
}

TEST_CASE_FIXTURE(RecordFixture, "a reverse brings back only what changed, and records on") {
  Open();
  Volume a = Create(kA, kTracks);
  Volume b = Create(kB, kTracks);
  Fill(a, 0, 20 * kTrackBytes, 'a');
  const uint64_t id = Copied(kKept);
  Fill(a, 1 * kTrackBytes, 512, 's');
  Fill(b, 2 * kTrackBytes, 512, 't');
  REQUIRE(store().Reverse(id).ok());
  CHECK(Only().source_id == kB);
  CHECK(Only().pending_tracks == 2);
  CHECK(CopyAllAndCount(id) == 2);
  CHECK(Holds(a, 1 * kTrackBytes, kTrackBytes, 'a'));
  CHECK(Holds(a, 2 * kTrackBytes, 512, 't'));
  Fill(b, 7 * kTrackBytes, 512, 't');
  REQUIRE(store().Resync(id).ok());
  CHECK(Only().pending_tracks == 1);
  Same(*this);
}

TEST_CASE_FIXTURE(RecordFixture, "leftovers of an earlier copy do not count in a reverse") {
  Open();
  Volume a = Create(kA, kTracks);
  Volume b = Create(kB, kTracks);
  Volume c = Create(kC, kTracks);
  Fill(c, 0, 20 * kTrackBytes, 'c');
  const uint64_t early = Establish(kC, kA, 0);
  REQUIRE(store().CopyBatch(early, 0, 3).ok());
  REQUIRE(store().Withdraw(early).ok());
  const uint64_t id = Copied(kKept);
  Fill(b, 2 * kTrackBytes, 512, 't');
  REQUIRE(store().Reverse(id).ok());
  CHECK(Only().pending_tracks == 20);  // as a whole: the source's entries said what is not so
  CopyAll(id);
  Same(*this);
}

TEST_CASE_FIXTURE(RecordFixture, "a volume records for one relationship at a time") {
  Open();
  Volume a = Create(kA, kTracks);
  Volume b = Create(kB, kTracks);
  Volume c = Create(kC, kTracks);
  const PairSpec both[] = {{kA, kB, kKept}, {kA, kC, kKept}};
  std::vector<uint64_t> ids;
  CHECK(store().Establish(both, &ids).code() == Code::kBusy);
  const uint64_t id = Establish(kA, kB, kKept);
  CHECK(store().Establish({&both[1], 1}, &ids).code() == Code::kBusy);
  Establish(kA, kC, kRelPersistent | kRelNoCopy);
  REQUIRE(store().Withdraw(id).ok());
  const std::vector<uint64_t> second{store().ListRelationships().at(0).id};
  CHECK(store().SetFlags(second[0], kKept).code() == Code::kInvalid);
  CHECK(store().Resync(second, kKept).ok());
}

TEST_CASE_FIXTURE(RecordFixture, "flags change without a new point in time, and survive a kill") {
  Open();
  Volume a = Create(kA, kTracks);
  Volume b = Create(kB, kTracks);
  Fill(a, 0, 4 * kTrackBytes, 'a');
  const uint64_t id = Establish(kA, kB, kRelNoCopy | kRelPersistent);
  const int64_t t0 = Only().t0_unix_ms;
  REQUIRE(store().SetFlags(id, kRelPersistent | kRelInhibit).ok());
  CHECK(b.WritesInhibited());
  PoolFixture killed;
  CopyPoolTo(killed);
  killed.Open();
  const RelationshipInfo relation = killed.store().ListRelationships().at(0);
  CHECK(relation.flags == (kRelPersistent | kRelInhibit));
  CHECK(relation.t0_unix_ms == t0);
  CHECK(killed.store().Attach(kB).value().WritesInhibited());
  REQUIRE(killed.store().Withdraw(id).ok());
  CHECK_FALSE(killed.store().Attach(kB).value().WritesInhibited());
  CHECK(store().SetFlags(id, 1u << 20).code() == Code::kInvalid);
  CHECK(store().SetFlags(id + 1, 0).code() == Code::kNotFound);
}

TEST_CASE_FIXTURE(RecordFixture, "a revert brings the target's image back, and counts it changed") {
  Open();
  Volume a = Create(kA, kTracks);
  Volume b = Create(kB, kTracks);
  Create(kC, kTracks);
  Fill(a, 0, 20 * kTrackBytes, 'a');
  const uint64_t id = Copied(kKept);
  const int64_t t0 = Only().t0_unix_ms;
  REQUIRE(store().Withdraw(Establish(kB, kC, kRelNoCopy)).ok());
  Fill(a, 3 * kTrackBytes, 2 * kTrackBytes, 's');
  REQUIRE(store().Resync(id).ok());
  SUBCASE("copied") { CHECK(CopyAllAndCount(id) == 2); }
  SUBCASE("not yet copied") {}
  Fill(b, 9 * kTrackBytes, 100, 't');
  Fill(a, 11 * kTrackBytes, 100, 's');
  REQUIRE(store().Revert(id, kC, t0, kKept).ok());
  CHECK(Only().t0_unix_ms == t0);
  CHECK(Only().pending_tracks == 0);
  const auto check = [&](PoolFixture& pool) {
    Volume copy = pool.store().Attach(kB).value();
    CHECK(pool.Holds(copy, 0, 20 * kTrackBytes, 'a'));
    REQUIRE(pool.store().Resync(id).ok());
    CHECK(pool.store().ListRelationships().at(0).pending_tracks == 4);
    Same(pool);
  };
  PoolFixture killed;
  CopyPoolTo(killed);
  killed.Open();
  check(killed);
  check(*this);
  CHECK(store().Revert(id, 0x1999, t0, kKept).code() == Code::kNotFound);
  CHECK(store().Revert(id + 1, kC, t0, kKept).code() == Code::kNotFound);
  CHECK(store().Revert(id, kB, t0, kKept).code() == Code::kInvalid);
}

TEST_CASE_FIXTURE(RecordFixture, "whether a host has written since the last T0 is known for good") {
  Open();
  const auto written = [](PoolFixture& pool) {
    return pool.store().GetVolume(kB).value().host_written;
  };
  Volume a = Create(kA, kTracks);
  Volume b = Create(kB, kTracks);
  CHECK_FALSE(written(*this));
  Fill(a, 0, 4 * kTrackBytes, 'a');
  Fill(b, 0, 100, 'b');
  CHECK(written(*this));
  const uint64_t id = Copied(0);
  CHECK(store().ListRelationships().empty());
  CHECK(id != 0);
  CHECK_FALSE(written(*this));
  PoolFixture copied;
  CopyPoolTo(copied);
  copied.Open();
  CHECK_FALSE(written(copied));
  Fill(b, kTrackBytes, 100, 'b');  // over a track of its own
  PoolFixture killed;
  CopyPoolTo(killed);
  killed.Open();
  CHECK(written(killed));
  CHECK(written(*this));
}

TEST_CASE_FIXTURE(RecordFixture, "what changed is in the checkpoint, also behind the first 2 GiB") {
  options().capacity_bytes = uint64_t{8} << 30;
  Open();
  const uint64_t tracks = 3 * kChangeBlockTracks;
  Volume a = Create(kA, tracks);
  Volume b = Create(kB, tracks);
  Fill(a, 0, kTrackBytes, 'a');
  const uint64_t id = Copied(kKept);
  Fill(a, (2 * kChangeBlockTracks + 77) * kTrackBytes, 100, 's');
  a = Volume();
  b = Volume();
  Close();
  Open();
  REQUIRE(store().Resync(id).ok());
  CHECK(Only().pending_tracks == 1);
  Volume copy = store().Attach(kB).value();
  CHECK(Holds(copy, (2 * kChangeBlockTracks + 77) * kTrackBytes, 100, 's'));
}

}  // namespace flashlun
