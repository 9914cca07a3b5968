// Traps of docs/traps.md that need an Io of their own: failed writes, failed flushes, overlaps.
#include <atomic>

#include "core/allocator.h"
#include "core/areas.h"
#include "core/store_impl.h"
#include "test/pool_fixture.h"

namespace flashlun {
namespace {

constexpr uint16_t kA = 0x1203;
constexpr uint16_t kB = 0x1303;

// The tracks file fails on demand.
class FaultyIo final : public ForwardingIo {
 public:
  std::atomic<bool> fail_writes{false};
  std::atomic<uint64_t> bad_from{0}, bad_until{0};  // bytes of the file that take no writes
  std::atomic<int> failed{0};
  std::atomic<bool> fail_flushes{false};

 private:
  class FaultyFile final : public ForwardingFile {
   public:
    FaultyFile(std::unique_ptr<File> file, FaultyIo& io)
        : ForwardingFile(std::move(file)), io_(io) {}
    Status Pwrite(uint64_t offset, const void* buf, size_t len) override {
      const bool bad = offset < io_.bad_until && offset + len > io_.bad_from;
      if (!bad && !io_.fail_writes) return ForwardingFile::Pwrite(offset, buf, len);
      ++io_.failed;
      return Status(Code::kIo, path() + ": Input/output error");
    }
    Status Fdatasync() override {
      if (io_.fail_flushes) return Status(Code::kIo, path() + ": Input/output error");
      return ForwardingFile::Fdatasync();
    }

   private:
    FaultyIo& io_;
  };
  std::unique_ptr<File> Wrap(std::unique_ptr<File> file) override {
    if (file->path().find("/tracks") == std::string::npos) return file;
    return std::make_unique<FaultyFile>(std::move(file), *this);
  }
};

struct FaultyPool {
  FaultyPool() {
    store = std::move(Store::Open(io, directory.options()).value());
    slot = store->AcquireSlot();
    for (const uint16_t id : {kA, kB}) REQUIRE(store->CreateVolume(id, 8 * kTrackBytes, "").ok());
    a = store->Attach(kA).value();
  }
  ~FaultyPool() {
    if (store) store->ReleaseSlot(slot);
  }
  Code Write(uint64_t offset, size_t len, char fill) {
    const std::string data(len, fill);
    return a.Write(*slot, offset, data.data(), data.size()).code();
  }
  bool Holds(uint64_t offset, size_t len, char fill) {
    std::string data(len, '?');
    REQUIRE(a.Read(*slot, offset, data.data(), len, ReadMode::kBlocking).ok());
    return data == std::string(len, fill);
  }

  PoolFixture directory;
  FaultyIo io;
  std::unique_ptr<Store> store;
  OpSlot* slot = nullptr;
  Volume a;
};

TEST_CASE("a data write that fails changes nothing, and the next one may succeed (T13)") {
  FaultyPool pool;
  REQUIRE(pool.Write(0, 2 * kSubBytes, 'a') == Code::kOk);
  REQUIRE(pool.Write(kTrackBytes, kTrackBytes, 'a') == Code::kOk);
  const PairSpec pair{kA, kB, kRelNoCopy};
  std::vector<uint64_t> ids;
  REQUIRE(pool.store->Establish({&pair, 1}, &ids).ok());
  const uint64_t used = pool.store->Info().used_tracks;
  const uint64_t lsn = pool.store->Info().last_lsn;
  pool.io.fail_writes = true;
  CHECK(pool.Write(0, kSubBytes, 'x') == Code::kIo);                // collapse
  CHECK(pool.Write(kTrackBytes, kSubBytes, 'x') == Code::kIo);      // redirect
  CHECK(pool.Write(2 * kTrackBytes, kSubBytes, 'x') == Code::kIo);  // first write
  // Each tried two fresh tracks, which stay out of use until the next open.
  CHECK(pool.io.failed == 6);
  CHECK(pool.store->Info().used_tracks == used + 6);
  CHECK(pool.store->Info().last_lsn == lsn);
  CHECK(pool.store->Info().poisoned.empty());
  pool.io.fail_writes = false;
  CHECK(pool.Holds(0, 2 * kSubBytes, 'a'));
  CHECK(pool.Holds(kTrackBytes, kTrackBytes, 'a'));
  CHECK(pool.Holds(2 * kTrackBytes, kTrackBytes, 0));
  CHECK(pool.Write(0, kSubBytes, 'y') == Code::kOk);
  CHECK(pool.Holds(0, kSubBytes, 'y'));
}

TEST_CASE("a track that the disk does not take is left alone until the next open (T13)") {
  FaultyPool pool;
  REQUIRE(pool.Write(0, 2 * kSubBytes, 'a') == Code::kOk);
  // All of the region that the volume's tracks have their places in, but for the first track.
  pool.io.bad_from = Areas::kTracksOffset + kTrackBytes;
  pool.io.bad_until = Areas::kTracksOffset + kRegionTracks * uint64_t{kTrackBytes};
  CHECK(pool.Write(kTrackBytes, kSubBytes, 'b') == Code::kOk);
  CHECK(pool.io.failed == 1);
  CHECK(pool.Write(2 * kTrackBytes, kTrackBytes, 'c') == Code::kOk);  // its region has moved
  CHECK(pool.io.failed == 1);
  CHECK(pool.Holds(kTrackBytes, kSubBytes, 'b'));
  CHECK(pool.Holds(2 * kTrackBytes, kTrackBytes, 'c'));
  // An exclusive track that takes no more moves with what it has; in place there is no other.
  pool.io.bad_from = Areas::kTracksOffset;
  CHECK(pool.Write(0, kSubBytes, 'x') == Code::kIo);
  CHECK(pool.Write(2 * kSubBytes, 2 * kSubBytes, 'd') == Code::kOk);
  CHECK(pool.Holds(0, 2 * kSubBytes, 'a'));
  CHECK(pool.Holds(2 * kSubBytes, 2 * kSubBytes, 'd'));
  CHECK(pool.Write(0, kSubBytes, 'e') == Code::kOk);
  REQUIRE(pool.store->Flush().ok());
  CHECK(pool.store->Info().used_tracks == 3 + 2);
  CHECK(pool.store->Info().poisoned.empty());
  // A background copy too.
  const PairSpec pair{kA, kB, 0};
  std::vector<uint64_t> ids;
  REQUIRE(pool.store->Establish({&pair, 1}, &ids).ok());
  pool.io.bad_until = pool.io.bad_from + 2 * kRegionTracks * uint64_t{kTrackBytes};
  pool.io.failed = 0;
  for (bool done = false; !done;) {
    Result<CopyBatchResult> batch = pool.store->CopyBatch(ids.front(), 0, 8);
    if (batch.ok())
      done = batch.value().done;
    else
      REQUIRE(batch.status().code() == Code::kIo);
  }
  CHECK(pool.Holds(0, kSubBytes, 'e'));
  pool.io.bad_until = 0;
  pool.a = Volume();
  pool.store->ReleaseSlot(pool.slot);
  REQUIRE(pool.store->Close().ok());
  pool.store.reset();
  pool.directory.Open();
  CHECK(pool.directory.store().Info().used_tracks == 6);
  Volume again = pool.directory.store().Attach(kB).value();
  CHECK(pool.directory.Holds(again, kTrackBytes, kSubBytes, 'b'));
}

TEST_CASE("after a failed flush nothing is acknowledged until the pool was opened again (T12)") {
  FaultyPool pool;
  REQUIRE(pool.Write(0, kTrackBytes, 'a') == Code::kOk);
  REQUIRE(pool.store->Flush().ok());
  REQUIRE(pool.Write(kTrackBytes, kTrackBytes, 'b') == Code::kOk);
  pool.io.fail_flushes = true;
  CHECK(pool.store->Flush().code() == Code::kIo);
  // The kernel's next fdatasync would succeed over the loss.
  pool.io.fail_flushes = false;
  CHECK(pool.store->Flush().code() == Code::kPoisoned);
  CHECK(pool.Write(0, kSubBytes, 'x') == Code::kPoisoned);
  CHECK(pool.store->Info().poisoned.find("/tracks") != std::string::npos);
  CHECK(pool.Holds(0, kTrackBytes, 'a'));
  pool.a = Volume();
  pool.store->ReleaseSlot(pool.slot);
  pool.store.reset();
  pool.directory.Open();
  Volume again = pool.directory.store().Attach(kA).value();
  CHECK(pool.directory.Holds(again, 0, kTrackBytes, 'a'));
}

TEST_CASE_FIXTURE(PoolFixture,
                  "overlapping writes leave each block as one of them wrote it (T27)") {
  Open();
  Volume a = Create(kA, 64);
  Create(kB, 64);
  std::atomic<int> bad{0};
  for (int round = 0; round < 30; ++round) {
    // Every second round the track is shared: redirects, not first writes.
    const uint64_t at = static_cast<uint64_t>(round) * kTrackBytes;
    if (round % 2 == 1) {
      Fill(a, at, kTrackBytes, 'o');
      REQUIRE(store().Withdraw(Establish(kA, kB, kRelNoCopy)).ok());
    }
    std::vector<std::thread> threads;
    for (const char fill : {'x', 'y', 'z'})
      threads.emplace_back([&, fill] {
        OpSlot* own = store().AcquireSlot();
        const std::string data(3 * kSubBytes, fill);
        const uint64_t offset = at + static_cast<uint64_t>(fill - 'x') * kSubBytes;
        if (!a.Write(*own, offset, data.data(), data.size()).ok()) ++bad;
        store().ReleaseSlot(own);
      });
    for (std::thread& thread : threads) thread.join();
    for (uint32_t sub = 0; sub < 5; ++sub) {
      const std::string block = Read(a, at + sub * kSubBytes, kSubBytes);
      const auto who = block[0] - 'x';
      if (block != std::string(kSubBytes, block[0]) || who < 0 || who > 2 ||
          static_cast<uint32_t>(who) > sub || sub > static_cast<uint32_t>(who) + 2)
        ++bad;
    }
  }
  CHECK(bad.load() == 0);
}

}  // namespace
}  // namespace flashlun
