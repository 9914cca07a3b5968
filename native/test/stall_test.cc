// What an operation on terabytes costs the others: the longest write of another volume meanwhile,
// printed and bounded. The tracks take no data here, so only the engine is measured; the bounds are
// far above what it needs, because the machines that run tests are busy.
#include <algorithm>
#include <random>

#include "core/store_impl.h"
#include "test/pool_fixture.h"

namespace flashlun {

class StorePeer {
 public:
  explicit StorePeer(Store& store) : impl_(store.impl()) {}
  // Gives every track of the volume a physical one, without a record: the pool is not opened again.
  void MapAll(uint16_t id) {
    auto lock = impl_.state_.Acquire();
    VolumeState& volume = *impl_.volumes_.at(id);
    Allocator& allocator = impl_.map_->allocator();
    TrackRun run;
    while (allocator.NextGrowth(0, 1024, &run)) allocator.MakeReady(run);
    for (uint64_t track = 0; track < volume.tracks; ++track)
      impl_.map_->SetEntry(volume, track, Entry::Full(allocator.Allocate({}, false)),
                           impl_.last_lsn_);
  }

 private:
  StoreImpl& impl_;
};

namespace {

using Clock = std::chrono::steady_clock;
constexpr uint16_t kBig = 0x1000;
constexpr uint16_t kBusy = 0x1001;
constexpr uint16_t kSmall = 0x1002;
constexpr uint64_t kBigTracks = (uint64_t{1} << 40) / kTrackBytes;
constexpr auto kLongest = std::chrono::milliseconds(500);

// The tracks file keeps nothing behind its label.
class NoDataIo final : public ForwardingIo {
  class NoDataFile final : public ForwardingFile {
   public:
    using ForwardingFile::ForwardingFile;
    Status Pwrite(uint64_t offset, const void* buf, size_t len) override {
      return offset < (1 << 20) ? ForwardingFile::Pwrite(offset, buf, len) : Status::Ok();
    }
  };
  std::unique_ptr<File> Wrap(std::unique_ptr<File> file) override {
    if (file->path().find("/tracks") == std::string::npos) return file;
    return std::make_unique<NoDataFile>(std::move(file));
  }
};

double Milliseconds(Clock::duration duration) {
  return std::chrono::duration<double, std::milli>(duration).count();
}

// First 4 KiB writes to tracks of another volume: each takes the state lock, for the track and for
// the map.
class Writer {
 public:
  Writer(Store& store, uint16_t id)
      : store_(store), volume_(store.Attach(id).value()), thread_([this] { Run(); }) {}
  // Since the last call. Reports nothing about a time in which the writer was not at work.
  Clock::duration Longest() {
    const uint64_t seen = writes_.load();
    CHECK(PoolFixture::Eventually([&] { return writes_.load() > seen; }));
    return longest_.exchange(Clock::duration::zero());
  }
  void Stop() {
    stop_ = true;
    thread_.join();
  }
  uint64_t writes() const { return writes_.load(); }
  bool ok() const { return ok_.load(); }

 private:
  void Run() {
    OpSlot* slot = store_.AcquireSlot();
    const std::string data(kSubBytes, 'w');
    for (uint64_t i = 0; !stop_.load(); ++i) {
      const auto begin = Clock::now();
      const uint64_t offset = i * kTrackBytes % volume_.size_bytes();
      if (offset == 0 && i != 0) (void)volume_.Trim(*slot, 0, volume_.size_bytes());
      const auto write_begin = offset == 0 ? Clock::now() : begin;
      if (!volume_.Write(*slot, offset, data.data(), data.size()).ok()) ok_ = false;
      longest_ = std::max(longest_.load(), Clock::now() - write_begin);
      ++writes_;
    }
    store_.ReleaseSlot(slot);
  }

  Store& store_;
  Volume volume_;
  std::atomic<bool> stop_{false};
  std::atomic<bool> ok_{true};
  std::atomic<Clock::duration> longest_{Clock::duration::zero()};
  std::atomic<uint64_t> writes_{0};
  std::thread thread_;
};

TEST_CASE("what operations on a fully mapped 1 TiB volume cost the writes of another") {
  PoolFixture directory;
  StoreOptions options = directory.options();
  options.capacity_bytes = uint64_t{2} << 40;
  options.journal_blocks = 65536;  // no checkpoint in between
  options.kill_ring_bytes = uint64_t{8} << 20;
  NoDataIo io;
  std::unique_ptr<Store> store = std::move(Store::Open(io, options).value());
  REQUIRE(store->CreateVolume(kBig, kBigTracks * kTrackBytes, "").ok());
  REQUIRE(store->CreateVolume(kBusy, uint64_t{64} << 30, "").ok());
  REQUIRE(store->CreateVolume(kSmall, (kBigTracks / 2 + 77) * kTrackBytes, "").ok());
  const auto map_begin = Clock::now();
  StorePeer(*store).MapAll(kBig);
  MESSAGE("mapping ", kBigTracks, " tracks: ", Milliseconds(Clock::now() - map_begin), " ms");

  Writer writer(*store, kBusy);
  (void)writer.Longest();
  CHECK(PoolFixture::Eventually([&] { return writer.writes() > 200000; }));
  MESSAGE("longest write while nothing else goes on: ", Milliseconds(writer.Longest()), " ms");

  // The empty half comes over the mapped one: half of the tree is given up, at an index border the
  // target keeps its own.
  auto begin = Clock::now();
  std::vector<uint64_t> ids;
  const PairSpec pair{kSmall, kBig, kRelNoCopy};
  REQUIRE(store->Establish({&pair, 1}, &ids).ok());
  MESSAGE("establish onto it: ", Milliseconds(Clock::now() - begin), " ms");
  const Clock::duration establish = writer.Longest();
  CHECK(store->GetVolume(kBig).value().mapped_tracks == kBigTracks - (kBigTracks / 2 + 77));
  CHECK(store->Withdraw(ids.at(0)).ok());
  const auto ends_at = [&](uint64_t most) {
    return PoolFixture::Eventually([&] {
      std::this_thread::sleep_for(std::chrono::milliseconds(5));  // Info takes the state lock
      // What the writer trimmed may still wait for a commit.
      return store->Info().used_tracks <= most + 2 * (uint64_t{64} << 30) / kTrackBytes;
    });
  };
  CHECK(ends_at(kBigTracks / 2));
  const Clock::duration half = writer.Longest();

  begin = Clock::now();
  REQUIRE(store->DeleteVolume(kBig).ok());
  const auto deleted = Clock::now() - begin;
  CHECK(ends_at(0));
  MESSAGE("delete: ", Milliseconds(deleted), " ms, until all tracks were free ",
          Milliseconds(Clock::now() - begin), " ms");
  const Clock::duration longest = writer.Longest();
  writer.Stop();
  MESSAGE("longest write of ", writer.writes(), ": ", Milliseconds(establish),
          " ms at the establish, ", Milliseconds(half), " ms as half of the tree was given up, ",
          Milliseconds(longest), " ms at the delete");
  CHECK(writer.ok());
  CHECK(establish < kLongest);
  CHECK(half < kLongest);
  CHECK(longest < kLongest);
  CHECK(deleted < std::chrono::seconds(5));
}

}  // namespace
}  // namespace flashlun
