// Cache mode none: a pool whose tracks are reached past the page cache. Whatever offset and length
// a host uses, its bytes are what a plain array of bytes would hold.
#include <doctest/doctest.h>

#include <atomic>
#include <random>

#include "test/pool_fixture.h"

namespace flashlun {
namespace {

constexpr uint16_t kA = 0x1203;
constexpr uint16_t kB = 0x1303;
constexpr uint64_t kTracks = 4;

class DirectPool : public PoolFixture {
 public:
  DirectPool() { options().direct = true; }
  // A volume and the bytes it must hold.
  struct Model {
    Volume volume;
    std::string bytes = std::string(kTracks * kTrackBytes, '\0');
  };
  void Write(Model& model, uint64_t offset, size_t len) {
    const char fill = static_cast<char>('a' + next_++ % 26);
    Fill(model.volume, offset, len, fill);
    std::fill_n(model.bytes.begin() + static_cast<std::ptrdiff_t>(offset), len, fill);
  }
  void Zero(Model& model, uint64_t offset, size_t len) {
    REQUIRE(model.volume.WriteZeroes(slot(), offset, len, next_++ % 2 == 0).ok());
    std::fill_n(model.bytes.begin() + static_cast<std::ptrdiff_t>(offset), len, '\0');
  }
  void Check(Model& model, uint64_t offset, size_t len) {
    const bool same = Read(model.volume, offset, len) == model.bytes.substr(offset, len);
    CHECK_MESSAGE(same, "volume ", model.volume.id(), " offset ", offset, " length ", len);
  }

 private:
  unsigned next_ = 0;
};

// Places and lengths around the edges of sub-blocks and tracks.
constexpr uint64_t kOffsets[] = {0,    1,    511,   512,   4095,  4096,  4097,
                                 8191, 8192, 61440, 61441, 65024, 65535, 65536};
constexpr size_t kLengths[] = {1, 2, 512, 4095, 4096, 4097, 8191, 8192, 8193, 65535, 65536, 70000};

TEST_CASE_FIXTURE(DirectPool,
                  "every offset and length around the edges, in every state of a track") {
  Open();
  for (const char* state : {"unmapped", "partial", "full", "shared", "zeroed"}) {
    Model a{Create(kA, kTracks)};
    Model b{Create(kB, kTracks)};
    const std::string name = state;
    const auto prepare = [&] {
      REQUIRE(a.volume.Trim(slot(), 0, a.bytes.size()).ok());
      a.bytes.assign(a.bytes.size(), '\0');
      if (name == "partial") Write(a, 4096, 8192);
      if (name == "full" || name == "shared" || name == "zeroed") Write(a, 0, a.bytes.size());
      if (name == "zeroed") Zero(a, 4000, 9000);
      if (name != "shared") return;
      const uint64_t id = Establish(kA, kB, kRelNoCopy);
      REQUIRE(store().Withdraw(id).ok());
      b.bytes = a.bytes;
    };
    for (const uint64_t offset : kOffsets) {
      for (const size_t len : kLengths) {
        prepare();
        Write(a, offset, len);
        Check(a, 0, a.bytes.size());
        Check(a, offset, len);
        Zero(a, offset, std::max<size_t>(1, len / 2));
        Check(a, 0, a.bytes.size());
        Check(b, 0, b.bytes.size());
      }
    }
    a.volume = b.volume = Volume();
    CHECK(store().DeleteVolume(kA).ok());
    CHECK(store().DeleteVolume(kB).ok());
  }
}

TEST_CASE_FIXTURE(DirectPool,
                  "writers of different bytes of one sub-block do not undo each other") {
  Open();
  Volume volume = Create(kA, 1);
  Fill(volume, 0, kTrackBytes, 'x');
  constexpr int kWriters = 4;
  constexpr size_t kPart = kSubBytes / kWriters;
  std::atomic<int> bad{0};
  std::vector<std::thread> writers;
  for (int w = 0; w < kWriters; ++w) {
    writers.emplace_back([&, w] {
      OpSlot* own = store().AcquireSlot();
      const uint64_t at = kSubBytes + static_cast<uint64_t>(w) * kPart;
      for (int i = 0; i < 300; ++i) {
        const std::string data(kPart, static_cast<char>('a' + (w * 7 + i) % 26));
        std::string back(kPart, '?');
        const bool fine = volume.Write(*own, at, data.data(), kPart).ok() &&
                          volume.Read(*own, at, back.data(), kPart, ReadMode::kBlocking).ok() &&
                          back == data;
        if (!fine) ++bad;
      }
      store().ReleaseSlot(own);
    });
  }
  // And one that writes its whole neighbours in place.
  writers.emplace_back([&] {
    OpSlot* own = store().AcquireSlot();
    const std::string data(kSubBytes, 'n');
    for (int i = 0; i < 300; ++i)
      if (!volume.Write(*own, i % 2 ? 0 : 2 * kSubBytes, data.data(), kSubBytes).ok()) ++bad;
    store().ReleaseSlot(own);
  });
  for (std::thread& writer : writers) writer.join();
  CHECK(bad == 0);
  CHECK(Holds(volume, 0, kSubBytes, 'n'));
  CHECK(Holds(volume, 3 * kSubBytes, kTrackBytes - 3 * kSubBytes, 'x'));
}

TEST_CASE_FIXTURE(DirectPool, "a pool may be opened in either mode, also after a kill") {
  const auto seed = static_cast<uint64_t>(std::random_device{}());
  INFO("seed ", seed);
  std::mt19937_64 random(seed);
  options().direct = random() % 2 == 0;
  Open();
  Model a{Create(kA, kTracks)};
  for (int round = 0; round < 6; ++round) {
    for (int i = 0; i < 20; ++i) {
      const uint64_t offset = random() % (a.bytes.size() - 1);
      Write(a, offset, 1 + random() % std::min<uint64_t>(a.bytes.size() - offset, 20000));
    }
    a.volume = Volume();
    round % 2 == 0 ? Close() : Abandon();
    options().direct = !options().direct;
    Open();
    a.volume = store().Attach(kA).value();
    Check(a, 0, a.bytes.size());
  }
}

// Counts write-outs, and while it is told to, lets none of them end: a disk that takes no more.
class CountingIo final : public ForwardingIo {
 public:
  std::atomic<int> begun{0};
  std::atomic<bool> busy{false};

 private:
  class CountingFile final : public ForwardingFile {
   public:
    CountingFile(std::unique_ptr<File> file, CountingIo& io)
        : ForwardingFile(std::move(file)), io_(io) {}
    void StartWriteOut(uint64_t offset, uint64_t len) override {
      ++io_.begun;
      for (unsigned round = 0; io_.busy.load(); ++round) PollPause(round);
      ForwardingFile::StartWriteOut(offset, len);
    }

   private:
    CountingIo& io_;
  };

  std::unique_ptr<File> Wrap(std::unique_ptr<File> file) override {
    return std::make_unique<CountingFile>(std::move(file), *this);
  }
};

TEST_CASE_FIXTURE(PoolFixture, "buffered writes are written out before anybody asks for a flush") {
  for (const bool direct : {false, true}) {
    CountingIo io;
    StoreOptions own = options();
    own.dir += direct ? "-direct" : "-buffered";
    own.direct = direct;
    own.write_out_bytes = 1 << 20;
    Result<std::unique_ptr<Store>> store = Store::Open(io, own);
    REQUIRE(store.ok());
    REQUIRE(store.value()->CreateVolume(kA, 64 * kTrackBytes, "").ok());
    OpSlot* own_slot = store.value()->AcquireSlot();
    const auto write = [&](uint64_t tracks) {
      Volume volume = store.value()->Attach(kA).value();
      const std::string data(kTrackBytes, 'w');
      for (uint64_t at = 0; at < tracks; ++at)
        REQUIRE(volume.Write(*own_slot, at * kTrackBytes, data.data(), data.size()).ok());
    };
    write(15);
    CHECK(io.begun == 0);
    write(64);
    if (direct)
      CHECK(io.begun == 0);
    else
      CHECK(Eventually([&] { return io.begun > 0; }));
    store.value()->ReleaseSlot(own_slot);
    CHECK(store.value()->Close().ok());
  }
}

TEST_CASE_FIXTURE(PoolFixture, "a writer that is faster than the disk waits for it at the limit") {
  CountingIo io;
  options().write_out_bytes = 1 << 20;
  options().write_out_limit_bytes = 4 << 20;
  std::unique_ptr<Store> store = std::move(Store::Open(io, options()).value());
  REQUIRE(store->CreateVolume(kA, 256 * kTrackBytes, "").ok());
  io.busy = true;
  std::atomic<uint64_t> written{0};
  std::thread writer([&] {
    OpSlot* slot = store->AcquireSlot();
    Volume volume = store->Attach(kA).value();
    const std::string data(kTrackBytes, 'w');
    for (; written < 256; ++written)
      if (!volume.Write(*slot, written * kTrackBytes, data.data(), data.size()).ok()) break;
    store->ReleaseSlot(slot);
  });
  CHECK(Eventually([&] { return store->Info().write_out_waits != 0; }));
  // One write more than the limit may have got through, no second one.
  CHECK(written * kTrackBytes <= options().write_out_limit_bytes + kTrackBytes);
  io.busy = false;
  writer.join();
  CHECK(written == 256);
  CHECK(store->Close().ok());
}

class NoDirectIo final : public ForwardingIo {
 public:
  Result<std::unique_ptr<File>> OpenFile(const std::string& path,
                                         const OpenOptions& options) override {
    if (options.direct) return Status(Code::kInvalid, path + ": no direct I/O");
    return ForwardingIo::OpenFile(path, options);
  }
};

TEST_CASE_FIXTURE(PoolFixture,
                  "a file system without direct I/O: refused, and nothing is spoiled") {
  NoDirectIo io;
  options().direct = true;
  // A new pool and an old one.
  for (int round = 0; round < 2; ++round) {
    const Result<std::unique_ptr<Store>> refused = Store::Open(io, options());
    CHECK(refused.status().code() == Code::kInvalid);
    CHECK(refused.status().message() == PathOf("tracks") + ": no direct I/O");
    options().direct = false;
    Open();
    Close();
    options().direct = true;
  }
}

}  // namespace
}  // namespace flashlun
