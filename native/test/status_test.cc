// Block status against what was written: allocation and depth exactly, changes never too few.
#include <atomic>
#include <mutex>
#include <random>
#include <string>
#include <thread>

#include "core/store_impl.h"
#include "test/pool_fixture.h"

namespace flashlun {
namespace {

constexpr uint16_t kA = 0x1203;
constexpr uint16_t kB = 0x1303;
constexpr uint16_t kC = 0x1403;
constexpr uint32_t kHoleZero = kStatusHole | kStatusZero;
constexpr uint64_t kT = kTrackBytes;

class StatusFixture : public PoolFixture {
 public:
  // The whole range, from answers of at most `max_extents`.
  std::vector<StatusExtent> Ask(Volume& volume, StatusContext context, uint64_t relationship = 0,
                                uint64_t offset = 0, uint64_t length = 0,
                                size_t max_extents = 1000) {
    if (length == 0) length = volume.size_bytes() - offset;
    std::vector<StatusExtent> all;
    std::vector<StatusExtent> some;
    for (const uint64_t end = offset + length; offset < end;) {
      const StatusQuery query{context, relationship, offset, end - offset, max_extents};
      REQUIRE(volume.BlockStatus(slot(), query, &some).ok());
      REQUIRE(!some.empty());
      REQUIRE(some.size() <= max_extents);
      for (const StatusExtent& extent : some) {
        REQUIRE(extent.length != 0);
        offset += extent.length;
        if (!all.empty() && all.back().flags == extent.flags)
          all.back().length += extent.length;
        else
          all.push_back(extent);
      }
      REQUIRE(offset <= end);
    }
    return all;
  }
  std::vector<StatusExtent> Allocation(Volume& volume, uint64_t offset = 0, uint64_t length = 0) {
    return Ask(volume, StatusContext::kAllocation, 0, offset, length);
  }
  std::vector<StatusExtent> Depth(Volume& volume) { return Ask(volume, StatusContext::kDepth); }
  std::vector<StatusExtent> Changes(Volume& volume, uint64_t relationship) {
    return Ask(volume, StatusContext::kChanges, relationship);
  }
};

using Extents = std::vector<StatusExtent>;

TEST_CASE_FIXTURE(StatusFixture, "a volume of terabytes that holds nothing is one extent") {
  Open();
  REQUIRE(store().CreateVolume(kA, uint64_t{64} << 40, "").ok());
  Volume a = store().Attach(kA).value();
  CHECK(Allocation(a) == Extents{{uint64_t{64} << 40, kHoleZero}});
  CHECK(Depth(a) == Extents{{uint64_t{64} << 40, 0}});
}

TEST_CASE_FIXTURE(StatusFixture, "allocation tells sub-blocks, zeroes with space and holes apart") {
  Open();
  Volume a = Create(kA, 1024);
  Fill(a, 2 * kT + 4096, 8192, 'a');  // the rest of the track has its space
  Fill(a, 600 * kT, 2 * kT, 'b');     // another leaf
  const Extents expected = {{2 * kT, kHoleZero},       {4096, kStatusZero},   {8192, 0},
                            {kT - 12288, kStatusZero}, {597 * kT, kHoleZero}, {2 * kT, 0},
                            {422 * kT, kHoleZero}};
  CHECK(Allocation(a) == expected);
  CHECK(Allocation(a, 2 * kT + 4096 + 100, 5000) == Extents{{5000, 0}});
  CHECK(Ask(a, StatusContext::kAllocation, 0, 0, 0, 1) == expected);
  REQUIRE(a.WriteZeroes(slot(), 600 * kT, 4096, false).ok());
  CHECK(Allocation(a, 600 * kT, kT) == Extents{{4096, kStatusZero}, {kT - 4096, 0}});
  // Shared, such a zero has no space of its own.
  Volume b = Create(kB, 1024);
  Establish(kA, kB, kRelNoCopy);
  CHECK(Allocation(a, 600 * kT, kT) == Extents{{4096, kHoleZero}, {kT - 4096, 0}});
  REQUIRE(a.Trim(slot(), 600 * kT, kT).ok());
  CHECK(Allocation(a, 600 * kT, 2 * kT) == Extents{{kT, kHoleZero}, {kT, 0}});
}

TEST_CASE_FIXTURE(StatusFixture, "a thick volume has no holes") {
  Open();
  REQUIRE(store().CreateVolume(kA, 64 * kT, "", {.thick = true}).ok());
  Volume a = store().Attach(kA).value();
  Fill(a, kT, kT, 'a');
  CHECK(Allocation(a) == Extents{{kT, kStatusZero}, {kT, 0}, {62 * kT, kStatusZero}});
}

TEST_CASE_FIXTURE(StatusFixture, "depth tells a target's own blocks from the source's") {
  Open();
  Volume a = Create(kA, 64);
  Volume b = Create(kB, 64);
  Fill(a, 0, 4 * kT, 'a');
  CHECK(Depth(a) == Extents{{4 * kT, 1}, {60 * kT, 0}});
  const uint64_t id = Establish(kA, kB, kRelNoCopy);
  CHECK(Depth(b) == Extents{{4 * kT, 2}, {60 * kT, 0}});
  Fill(b, kT + 4096, 4096, 'b');
  Fill(b, 2 * kT, kT, 'b');
  Fill(b, 10 * kT, kT, 'b');
  const Extents expected = {{kT + 4096, 2}, {4096, 1},   {kT - 8192, 2}, {kT, 1},
                            {kT, 2},        {6 * kT, 0}, {kT, 1},        {53 * kT, 0}};
  CHECK(Depth(b) == expected);
  CHECK(Depth(a) == Extents{{4 * kT, 1}, {60 * kT, 0}});
  REQUIRE(store().Withdraw(id).ok());
  CHECK(Depth(b) == Extents{{4 * kT, 1}, {6 * kT, 0}, {kT, 1}, {53 * kT, 0}});
}

TEST_CASE_FIXTURE(StatusFixture, "changes since T0 are exact while the target is left alone") {
  Open();
  Volume a = Create(kA, 1024);
  Volume b = Create(kB, 1024);
  Fill(a, 0, 8 * kT, 'a');
  Fill(a, 20 * kT, 4096, 'a');
  const uint64_t id = Establish(kA, kB, kRelNoCopy);
  CHECK(Changes(a, id) == Extents{{1024 * kT, 0}});
  CHECK(Changes(b, id) == Extents{{1024 * kT, 0}});
  Fill(a, kT + 100, 10, 'b');                  // one sub-block
  Fill(a, 2 * kT, kT, 'b');                    // a whole track
  REQUIRE(a.Trim(slot(), 4 * kT, kT).ok());    // data to zero
  REQUIRE(a.Trim(slot(), 100 * kT, kT).ok());  // zero to zero: the same content
  Fill(a, 20 * kT, 4096, 'c');
  Fill(a, 700 * kT, 4096, 'd');  // where T0 had nothing
  const Extents expected = {{kT, 0},
                            {4096, 1},
                            {kT - 4096, 0},
                            {kT, 1},
                            {kT, 0},
                            {kT, 1},
                            {15 * kT, 0},
                            {4096, 1},
                            {680 * kT - 4096, 0},
                            {4096, 1},
                            {324 * kT - 4096, 0}};
  CHECK(Changes(a, id) == expected);
  CHECK(Changes(b, id) == expected);
  // A later copy of the same source stands still while the source goes on.
  Volume c = Create(kC, 1024);
  Establish(kA, kC, kRelNoCopy);
  Fill(a, 0, 8 * kT, 'e');
  CHECK(Changes(c, id) == expected);
  REQUIRE(store().Resync(id).ok());
  CHECK(Changes(a, id) == Extents{{1024 * kT, 0}});
  REQUIRE(store().Withdraw(id).ok());
  CHECK(Changes(a, id) == Extents{{1024 * kT, kStatusDirty}});
}

TEST_CASE_FIXTURE(StatusFixture, "who is compared with whom is offered, and survives a restart") {
  Open();
  for (const uint16_t id : {kA, kB, kC}) Create(id, 64);
  const uint64_t first = Establish(kA, kB, kRelNoCopy);
  CHECK(store().ListRecordings(kC).empty());
  const uint64_t second = Establish(kA, kC, kRelNoCopy);
  for (const uint16_t id : {kA, kB, kC}) {
    const std::vector<RecordingInfo> list = store().ListRecordings(id);
    REQUIRE(list.size() == 2);
    CHECK(list[0].relationship == first);
    CHECK(list[1].relationship == second);
    CHECK(list[1].target_id == kC);
  }
  // The source becomes a copy of another volume: nobody can tell its changes since then.
  Create(0x1500, 64);
  Establish(0x1500, kA, kRelNoCopy);
  for (const bool reopened : {false, true}) {
    if (reopened) {
      Close();
      Open();
    }
    CHECK(store().ListRecordings(kB).empty());
    CHECK(store().ListRecordings(kA).size() == 1);
    Volume a = store().Attach(kA).value();
    CHECK(Changes(a, first) == Extents{{64 * kT, kStatusDirty}});
  }
}

// Whatever happens to source and target, a block that is called unchanged has its content of T0.
TEST_CASE_FIXTURE(StatusFixture, "changes are never too few") {
  Open();
  constexpr uint64_t kTracks = 24;
  constexpr uint64_t kBytes = kTracks * kT;
  Volume volumes[] = {Create(kA, kTracks), Create(kB, kTracks), Create(kC, kTracks)};
  std::string model[3] = {std::string(kBytes, 0), std::string(kBytes, 0), std::string(kBytes, 0)};
  std::string t0[2];
  uint64_t ids[2] = {};
  const uint64_t seed = std::random_device{}();
  INFO("seed ", seed);
  std::mt19937_64 random(seed);
  uint64_t clean_blocks = 0;
  const auto check = [&](size_t volume, size_t relation) {
    uint64_t at = 0;
    for (const StatusExtent& extent : Changes(volumes[volume], ids[relation])) {
      for (uint64_t end = at + extent.length; at < end; at += kSubBytes) {
        if (extent.flags != 0) continue;
        ++clean_blocks;
        REQUIRE(model[volume].compare(at, kSubBytes, t0[relation], at, kSubBytes) == 0);
      }
    }
  };
  for (int step = 0; step < 3000; ++step) {
    const size_t which = random() % 3;
    const uint64_t offset = random() % kBytes;
    const size_t length =
        1 + random() % std::min<size_t>(kBytes - offset, random() % 8 ? 9000 : 200000);
    const uint64_t kind = random() % 24;
    if (kind < 12) {
      const auto fill = static_cast<char>(random());
      Fill(volumes[which], offset, length, fill);
      model[which].replace(offset, length, length, fill);
    } else if (kind < 16) {
      REQUIRE(volumes[which].WriteZeroes(slot(), offset, length, random() % 2).ok());
      model[which].replace(offset, length, length, 0);
    } else if (kind < 18) {
      // Relationship 0 is A:B, 1 is A:C.
      const size_t relation = random() % 2;
      const uint16_t target = relation == 0 ? kB : kC;
      if (ids[relation] == 0)
        ids[relation] = Establish(kA, target, kRelNoCopy);
      else if (random() % 2 == 0)
        REQUIRE(store().Resync(ids[relation]).ok());
      else
        continue;
      t0[relation] = model[relation + 1] = model[0];
    } else if (kind < 20) {
      const size_t relation = random() % 2;
      if (ids[relation] == 0) continue;
      Result<CopyBatchResult> batch =
          store().CopyBatch(ids[relation], random() % kTracks, 1 + random() % 4);
      REQUIRE(batch.ok());
      if (batch.value().done) ids[relation] = 0;
    } else if (kind < 21 && random() % 4 == 0) {
      // The source takes its target's content, with tracks that the target may have overwritten.
      REQUIRE(store().Withdraw(Establish(kB, kA, kRelNoCopy)).ok());
      model[0] = model[1];
    } else if (kind < 21) {
      REQUIRE(store().Flush().ok());  // gives up references, so that others become exclusive
    } else {
      const size_t relation = random() % 2;
      if (ids[relation] == 0) continue;
      check(0, relation);
      // The target's view is of the source as it is now, or of T0.
      if (ids[0] != 0 && ids[1] != 0) check(2 - relation, relation);
    }
  }
  CHECK(clean_blocks > 0);
  for (Volume& volume : volumes) volume = Volume();
}

// The same with everybody at once: what was answered before the question is in the answer.
TEST_CASE_FIXTURE(StatusFixture, "changes are never too few while hosts write and the copy runs") {
  Open();
  constexpr uint64_t kTracks = 1024;
  Volume a = Create(kA, kTracks);
  Volume b = Create(kB, kTracks);
  for (uint64_t track = 0; track < kTracks; track += 2) Fill(a, track * kT, kT, 'a');
  const uint64_t id = Establish(kA, kB, kRelNoCopy);
  std::atomic<uint64_t> written{0};  // tracks of the source whose change was answered
  std::mutex failed_mutex;
  std::string failed;  // the first refusal
  const auto expect = [&](const Status& status) {
    if (status.ok()) return;
    const std::lock_guard lock(failed_mutex);
    if (failed.empty()) failed = status.message();
  };
  const auto work = [&](auto body) {
    return std::thread([this, body] {
      OpSlot* own = store().AcquireSlot();
      body(*own);
      store().ReleaseSlot(own);
    });
  };
  std::thread source = work([&](OpSlot& own) {
    const std::vector<char> data(4096, 'b');
    for (uint64_t track = 0; track < kTracks; ++track) {
      // Data becomes other data or nothing, nothing becomes data.
      expect(track % 4 == 0 ? a.Trim(own, track * kT, kT)
                            : a.Write(own, track * kT, data.data(), data.size()));
      written.store(track + 1, std::memory_order_release);
    }
  });
  std::thread target = work([&](OpSlot& own) {
    std::mt19937_64 random(1);
    const std::vector<char> data(4096, 'c');
    while (written.load() < kTracks) {
      const uint64_t offset = random() % kTracks * kT;
      expect(random() % 2 == 0 ? b.Trim(own, offset, kT)
                               : b.Write(own, offset, data.data(), data.size()));
      if (random() % 8 != 0) continue;
      const Result<CopyBatchResult> copied = store().CopyBatch(id, offset / kT, 2);
      // A copy that is complete ends the relationship.
      if (!copied.ok() && !store().ListRelationships().empty()) expect(copied.status());
    }
  });
  for (uint64_t before = 0; before < kTracks;) {
    before = written.load(std::memory_order_acquire);
    uint64_t at = 0;
    for (const StatusExtent& extent : Changes(a, id)) {
      // The first 4 KiB of each of those tracks differ from T0.
      const uint64_t first = (at + kT - 1) / kT;
      if (extent.flags == 0 && first * kT < at + extent.length) CHECK(first >= before);
      at += extent.length;
    }
  }
  source.join();
  target.join();
  CHECK(failed == "");
}

TEST_CASE_FIXTURE(StatusFixture, "runs of zeroes are told from data") {
  Open();
  Volume a = Create(kA, 1024);
  Fill(a, 4 * kT, 4096, 'a');
  Fill(a, 4 * kT + 8192, 4096, 'a');
  const auto run = [&](uint64_t offset, uint64_t len) {
    const DataRun found = a.FindRun(slot(), offset, len, 4 * kT, 16384);
    return std::pair(found.bytes, found.zero);
  };
  CHECK(run(0, 1024 * kT) == std::pair(4 * kT, true));
  CHECK(run(4 * kT, kT) == std::pair(uint64_t{12288}, false));
  CHECK(run(4 * kT, 3 * 4096 + 100) == std::pair(uint64_t{12388}, false));
  CHECK(run(4 * kT + 4096, 4096) == std::pair(uint64_t{4096}, true));
  CHECK(run(4 * kT + 4096, 8192) == std::pair(uint64_t{8192}, false));
  CHECK(run(4 * kT + 12288, 1019 * kT) == std::pair(1019 * kT, true));
  CHECK(run(5, 10) == std::pair(uint64_t{10}, true));
}

}  // namespace
}  // namespace flashlun
