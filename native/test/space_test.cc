// Space: growth, refusals that change nothing, trim, pools, thick volumes. On real files.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <sys/stat.h>

#include <map>

#include "test/pool_fixture.h"

namespace flashlun {
namespace {

constexpr uint16_t kA = 0x1203;
constexpr uint16_t kB = 0x1303;
constexpr uint16_t kC = 0x1403;

// A pool on a file system that can be full.
class FullIo final : public HeldIo {
 public:
  std::atomic<bool> full{false};
  std::atomic<int> refused{0};

 private:
  class FullFile final : public ForwardingFile {
   public:
    FullFile(std::unique_ptr<File> file, FullIo& io) : ForwardingFile(std::move(file)), io_(io) {}
    Status Allocate(uint64_t offset, uint64_t len) override {
      if (!io_.full.load()) return ForwardingFile::Allocate(offset, len);
      ++io_.refused;
      return Status(Code::kNoSpace, "allocation of " + path() + " failed: No space left on device");
    }

   private:
    FullIo& io_;
  };

  std::unique_ptr<File> Wrap(std::unique_ptr<File> file) override {
    return std::make_unique<FullFile>(std::move(file), *this);
  }
};

class SpaceFixture : public PoolFixture {
 public:
  SpaceFixture() : PoolFixture(std::make_unique<FullIo>()) {}
  FullIo& full_io() { return static_cast<FullIo&>(io()); }
  Code Write(Volume& volume, uint64_t track, uint64_t tracks, char fill) {
    const std::vector<char> data(tracks * kTrackBytes, fill);
    return volume.Write(slot(), track * kTrackBytes, data.data(), data.size()).code();
  }
  PoolInfo Pool(uint32_t number) { return store().ListPools().at(number); }
  // Writes one track after the other until there is no room.
  uint64_t FillUp(Volume& volume, uint64_t from, char fill) {
    uint64_t track = from;
    while (Write(volume, track, 1, fill) == Code::kOk) ++track;
    return track;
  }
  Volume CreateWith(uint16_t id, uint64_t tracks, const CreateOptions& with) {
    const Status status = store().CreateVolume(id, tracks * kTrackBytes, "", with);
    REQUIRE_MESSAGE(status.ok(), status.message());
    return store().Attach(id).value();
  }
  void Copy(uint64_t relationship) {
    for (bool done = false; !done;) {
      Result<CopyBatchResult> batch = store().CopyBatch(relationship, 0, 64);
      REQUIRE(batch.ok());
      done = batch.value().done;
    }
  }
  static uint64_t BlocksOf(const std::string& path) {
    struct stat st;
    REQUIRE(::stat(path.c_str(), &st) == 0);
    return static_cast<uint64_t>(st.st_blocks) * 512;
  }
};

TEST_CASE_FIXTURE(SpaceFixture, "a large pool allocates a step ahead of its writers, not more") {
  options().capacity_bytes = uint64_t{1} << 40;
  Open();
  Volume a = Create(kA, 4096);
  REQUIRE(Write(a, 0, 1, 'a') == Code::kOk);
  REQUIRE(Eventually([&] { return Pool(0).ready_tracks != 0; }));
  CHECK(Pool(0).ready_tracks <= 6144 + 1024);
  for (uint64_t track = 0; track < 3072; track += 64)
    REQUIRE(Write(a, track, 64, 'b') == Code::kOk);
  CHECK(Pool(0).ready_tracks >= 3072);
  CHECK(Pool(0).ready_tracks <= 3072 + 6144 + 1024);
  // The stock for the next burst, once the writers pause.
  CHECK(Eventually([&] { return Pool(0).ready_tracks >= 3072 + 6144; }));
  CHECK(Pool(0).ready_tracks <= 3072 + 6144 + 1024);
  a = Volume();
  // What was prepared is derived again.
  Close();
  Open();
  a = store().Attach(kA).value();
  CHECK(Holds(a, 3071 * kTrackBytes, kTrackBytes, 'b'));
  REQUIRE(Write(a, 3072, 64, 'c') == Code::kOk);
}

TEST_CASE_FIXTURE(SpaceFixture, "the tracks of one MiB find their places, whatever their order") {
  Open();
  Volume a = Create(kA, 64);
  Volume b = Create(kB, 64);
  for (uint64_t track = 0; track < 64; ++track) REQUIRE(Write(a, track, 1, '-') == Code::kOk);
  Establish(kA, kB, kRelNoCopy);
  for (const uint64_t track : {9, 25, 3, 15, 0, 31, 7, 1, 16, 2, 14})
    REQUIRE(Write(a, track, 1, static_cast<char>('A' + track)) == Code::kOk);
  REQUIRE(store().Flush().ok());
  std::ifstream file(PathOf("tracks"), std::ios::binary);
  std::string tracks((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  const auto place = [&](char letter) {
    return tracks.find(std::string(64, letter), 1 << 20) / kTrackBytes;
  };
  for (const uint64_t track : {1, 2, 3, 7, 9, 14, 15})
    CHECK(place(static_cast<char>('A' + track)) == place('A') + track);
  CHECK(place('A') % kSubsPerTrack == 0);
  CHECK(place('A' + 31) == place('A' + 16) + 15);
  CHECK(Holds(b, 9 * kTrackBytes, kTrackBytes, '-'));
}

TEST_CASE_FIXTURE(SpaceFixture, "a full file system refuses writes before anything changed") {
  Open();
  Volume a = Create(kA, 2048);
  REQUIRE(Write(a, 0, 4, 'a') == Code::kOk);
  full_io().full.store(true);
  const uint64_t end = FillUp(a, 4, 'b');
  REQUIRE(end < 2048);
  // Over the end of what there is room for.
  CHECK(Write(a, end - 2, 8, 'c') == Code::kNoSpace);
  CHECK(Holds(a, (end - 2) * kTrackBytes, 2 * kTrackBytes, 'b'));
  CHECK(Holds(a, end * kTrackBytes, 6 * kTrackBytes, 0));
  CHECK(a.WriteZeroes(slot(), (end - 2) * kTrackBytes + 1, 5 * kTrackBytes, true).code() ==
        Code::kNoSpace);
  CHECK(Holds(a, (end - 2) * kTrackBytes, 2 * kTrackBytes, 'b'));
  const std::vector<char> data(kTrackBytes, 'x');
  const Status status = a.Write(slot(), end * kTrackBytes, data.data(), data.size());
  CHECK(status.message().find("No space left on device") != std::string::npos);
  CHECK(status.message().find(PathOf("tracks")) != std::string::npos);
  CHECK(Pool(0).growth_error != "");
  // Overwriting needs nothing.
  CHECK(Write(a, 0, 8, 'd') == Code::kOk);
  CHECK(Holds(a, 0, 8 * kTrackBytes, 'd'));
  // Not hammered: a failed step is tried again about once a second.
  CHECK(full_io().refused.load() < 16 * 30);
  full_io().full.store(false);
  CHECK(Eventually([&] { return Write(a, end, 8, 'e') == Code::kOk; }));
  CHECK(Holds(a, end * kTrackBytes, 8 * kTrackBytes, 'e'));
  CHECK(Pool(0).growth_error == "");
}

TEST_CASE_FIXTURE(SpaceFixture,
                  "a write over several tracks takes exactly what is left, or nothing") {
  options().capacity_bytes = 40 * kTrackBytes;
  Open();
  Volume a = Create(kA, 64);
  REQUIRE(Write(a, 0, 38, 'a') == Code::kOk);
  CHECK(Write(a, 40, 3, 'x') == Code::kNoSpace);
  CHECK(Holds(a, 40 * kTrackBytes, 3 * kTrackBytes, 0));
  CHECK(Write(a, 34, 7, 'x') == Code::kNoSpace);  // 4 in place, 3 fresh ones
  CHECK(Holds(a, 34 * kTrackBytes, 4 * kTrackBytes, 'a'));
  CHECK(Write(a, 34, 6, 'b') == Code::kOk);  // 4 in place, the 2 that are left
  CHECK(Holds(a, 34 * kTrackBytes, 6 * kTrackBytes, 'b'));
  CHECK(Write(a, 0, 40, 'c') == Code::kOk);  // all in place
  CHECK(Holds(a, 0, 40 * kTrackBytes, 'c'));
  REQUIRE(a.Trim(slot(), 3 * kTrackBytes, kTrackBytes).ok());
  CHECK(Write(a, 40, 1, 'd') == Code::kOk);  // the drop is waited for
  CHECK(Pool(0).used_tracks == 40);
  REQUIRE(store().GrowPool(0, 48 * kTrackBytes).ok());
  CHECK(Write(a, 41, 8, 'e') == Code::kOk);
  CHECK(Pool(0).used_tracks == 48);
  CHECK(store().GrowPool(0, kTrackBytes).code() == Code::kInvalid);
  a = Volume();
  Abandon();
  Open();
  CHECK(Pool(0).capacity_tracks == 48);
  Close();
  Open();
  CHECK(Pool(0).capacity_tracks == 48);
}

TEST_CASE_FIXTURE(SpaceFixture,
                  "after an establish a full pool refuses whole writes to the source") {
  options().capacity_bytes = 40 * kTrackBytes;
  Open();
  Volume a = Create(kA, 32);
  Create(kB, 32);
  REQUIRE(Write(a, 0, 32, 'a') == Code::kOk);
  Establish(kA, kB, kRelNoCopy);
  REQUIRE(Write(a, 0, 6, 'b') == Code::kOk);
  CHECK(Write(a, 3, 8, 'c') == Code::kNoSpace);
  CHECK(Holds(a, 3 * kTrackBytes, 3 * kTrackBytes, 'b'));
  CHECK(Holds(a, 6 * kTrackBytes, 5 * kTrackBytes, 'a'));
  CHECK(Write(a, 3, 5, 'd') == Code::kOk);
}

TEST_CASE_FIXTURE(SpaceFixture, "freed runs are given back to the file system, a stock stays") {
  Open();
  Volume a = Create(kA, 2048);
  REQUIRE(Write(a, 0, 512, 'a') == Code::kOk);
  for (uint64_t track = 512; track < 2048; track += 512)
    REQUIRE(Write(a, track, 512, 'a') == Code::kOk);
  REQUIRE(store().Flush().ok());
  const uint64_t before = BlocksOf(PathOf("tracks"));
  REQUIRE(a.Trim(slot(), 64 * kTrackBytes, 1984 * kTrackBytes).ok());
  REQUIRE(store().Flush().ok());
  CHECK(Eventually([&] { return store().Info().trimmed_tracks >= 1024; }));
  CHECK(BlocksOf(PathOf("tracks")) + 1024 * uint64_t{kTrackBytes} / 2 < before);
  CHECK(Holds(a, 0, 64 * kTrackBytes, 'a'));
  // And can be had again.
  for (uint64_t track = 64; track < 2048; track += 64)
    REQUIRE(Write(a, track, 64, 'b') == Code::kOk);
  CHECK(Holds(a, 0, 64 * kTrackBytes, 'a'));
  CHECK(Holds(a, 64 * kTrackBytes, 512 * kTrackBytes, 'b'));
}

TEST_CASE_FIXTURE(SpaceFixture, "a volume's tracks come from its pool, before and after a crash") {
  const std::string path = options().dir + "-fast";
  Open();
  CHECK(store().CreatePool("fast", "relative", 1 << 20).code() == Code::kInvalid);
  CHECK(store().CreatePool("a b", path, 1 << 20).code() == Code::kInvalid);
  CHECK(store().CreatePool("fast", path, 0).code() == Code::kInvalid);
  REQUIRE(store().CreatePool("fast", path, 64 << 20).ok());
  CHECK(store().CreatePool("fast", path + "2", 64 << 20).code() == Code::kExists);
  CHECK(store().CreatePool("other", path, 64 << 20).code() == Code::kExists);
  CHECK(store().CreateVolume(kA, kTrackBytes, "", {.pool = 2}).code() == Code::kNotFound);
  Volume a = CreateWith(kA, 64, {.pool = 1});
  REQUIRE(Write(a, 0, 64, 'a') == Code::kOk);
  CHECK(Pool(0).used_tracks == 0);
  CHECK(Pool(1).used_tracks == 64);
  CHECK(Pool(1).name == "fast");
  REQUIRE(store().Flush().ok());
  a = Volume();
  for (const bool orderly : {false, true}) {
    orderly ? Close() : Abandon();
    Open();
    a = store().Attach(kA).value();
    CHECK(Holds(a, 0, 64 * kTrackBytes, 'a'));
    CHECK(Pool(1).used_tracks == 64);
    CHECK(Pool(1).path == path);
    CHECK(store().GetVolume(kA).value().pool == 1);
    a = Volume();
  }
  Close();
  std::filesystem::rename(path, path + ".gone");
  Status status = TryOpen();
  CHECK(status.code() == Code::kCorrupt);
  CHECK(status.message().find(path) != std::string::npos);
  std::filesystem::copy_file(PathOf("tracks"), path);  // same pool, another area
  CHECK(TryOpen().code() == Code::kCorrupt);
  std::filesystem::remove(path);
  std::filesystem::rename(path + ".gone", path);
  Open();
}

TEST_CASE_FIXTURE(SpaceFixture, "a used file or another pool's is not taken for a new pool") {
  Open();
  const std::string path = options().dir + "-used";
  std::ofstream(path) << "letters";
  const Status status = store().CreatePool("fast", path, 64 << 20);
  CHECK(status.code() == Code::kExists);
  CHECK(status.message().find("holds data") != std::string::npos);
  PoolFixture other;
  other.Open();
  CHECK(store().CreatePool("fast", other.PathOf("tracks"), 64 << 20).code() == Code::kExists);
  CHECK(store().CreatePool("fast", PathOf("tracks"), 64 << 20).code() == Code::kExists);
  CHECK(store().ListPools().size() == 1);
}

TEST_CASE_FIXTURE(SpaceFixture,
                  "a background copy into another pool makes the target independent") {
  Open();
  REQUIRE(store().CreatePool("second", options().dir + "-second", 64 << 20).ok());
  Volume a = Create(kA, 64);
  Volume b = CreateWith(kB, 64, {.pool = 1});
  REQUIRE(Write(a, 0, 64, 'a') == Code::kOk);
  const uint64_t id = Establish(kA, kB, 0);
  // The source leaves these: the target is alone on them, but they are still in the source's pool.
  REQUIRE(Write(a, 0, 32, 'b') == Code::kOk);
  REQUIRE(store().Flush().ok());
  CHECK(store().ListRelationships().at(0).out_of_sync_tracks == 64);
  Copy(id);
  CHECK(Pool(1).used_tracks == 64);
  REQUIRE(Eventually([&] {
    REQUIRE(store().Flush().ok());
    return Pool(0).used_tracks == 64;
  }));
  CHECK(Holds(b, 0, 64 * kTrackBytes, 'a'));
}

TEST_CASE_FIXTURE(SpaceFixture,
                  "thick volumes are written in full, whatever thin ones and copies do") {
  options().capacity_bytes = 512 * kTrackBytes;
  Open();
  Volume a = CreateWith(kA, 96, {.thick = true});
  Volume b = CreateWith(kB, 96, {.thick = true});
  CHECK(store().CreateVolume(kC, 512 * kTrackBytes, "", {.thick = true}).code() == Code::kNoSpace);
  CHECK(Pool(0).claimed_tracks == 192);
  Volume thin = Create(kC, 1024);
  CHECK(FillUp(thin, 0, 't') == 512 - 192);
  std::vector<uint64_t> ids;
  const PairSpec mixed{kA, kC, 0};
  CHECK(store().Establish({&mixed, 1}, &ids).code() == Code::kInvalid);
  for (int round = 0; round < 4; ++round) {
    const auto fill = static_cast<char>('a' + round);
    for (uint64_t track = 0; track < 96; track += 3) REQUIRE(Write(a, track, 3, fill) == Code::kOk);
    const uint64_t id = Establish(kA, kB, round % 2 ? uint32_t{kRelNoCopy} : 0);
    CHECK(FillUp(thin, 512 - 192, 't') == 512 - 192);
    for (uint64_t track = 0; track < 96; track += 2)
      Fill(a, track * kTrackBytes + 5000, 100, 'p');  // parts: no track is held as a base
    if (round % 2 == 0) {
      Copy(id);
      Fill(b, 5 * kTrackBytes + 100, 100, 'q');
      REQUIRE(Write(b, 5, 1, fill) == Code::kOk);
    }
    CHECK(Holds(b, 5 * kTrackBytes, kTrackBytes, fill));
    CHECK(Holds(b, 94 * kTrackBytes, kTrackBytes, fill));
    for (uint64_t track = 0; track < 96; ++track) REQUIRE(Write(b, track, 1, 'B') == Code::kOk);
    if (round % 2) REQUIRE(store().Withdraw(id).ok());
    REQUIRE(a.Trim(slot(), 0, 96 * kTrackBytes).ok());
    CHECK(FillUp(thin, 512 - 192, 't') == 512 - 192);
  }
  a = b = Volume();
  thin = Volume();
  Close();
  Open();
  CHECK(Pool(0).claimed_tracks == 192);
  a = store().Attach(kA).value();
  thin = store().Attach(kC).value();
  CHECK(FillUp(thin, 512 - 192, 't') == 512 - 192);
  for (uint64_t track = 0; track < 96; ++track) REQUIRE(Write(a, track, 1, 'C') == Code::kOk);
  a = Volume();
  REQUIRE(store().DeleteVolume(kA).ok());
  CHECK(Pool(0).claimed_tracks == 96);
  CHECK(Eventually([&] { return Write(thin, 512 - 192, 96, 't') == Code::kOk; }));
}

}  // namespace
}  // namespace flashlun
