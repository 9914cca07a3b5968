// Asynchronous I/O: the backends of IoQueue against each other and against blocking calls, and the
// store's asynchronous reads and writes over each of them, in both cache modes.
#include <doctest/doctest.h>

#include <atomic>
#include <deque>
#include <random>
#include <span>

#include "core/thread_io.h"
#include "test/awaited.h"
#include "test/pool_fixture.h"

namespace flashlun {
namespace {

constexpr uint16_t kA = 0x1203;
constexpr uint16_t kB = 0x1303;

uint64_t Seed() {
  const char* given = std::getenv("FLASHLUN_TEST_SEED");
  const uint64_t seed = given != nullptr ? std::stoull(given) : std::random_device{}();
  MESSAGE("seed ", seed);
  return seed;
}

bool HasUring(Io& io) { return io.MakeQueue(IoBackend::kUring).ok(); }

// Memory on a page, so that direct transfers need no bounce.
struct Pages {
  explicit Pages(size_t size) : bytes(size + kDirectAlign) {
    const auto at = reinterpret_cast<uintptr_t>(bytes.data());
    start = bytes.data() + (kDirectAlign - at % kDirectAlign) % kDirectAlign;
  }
  std::vector<uint8_t> bytes;
  uint8_t* start;
};

struct Transfer final : IoRequest {
  void Done(const Status& ended) override {
    status = CopyOf(ended);
    left->fetch_sub(1, std::memory_order_release);
  }
  std::atomic<int>* left = nullptr;
  Status status;
};

// Submits all and waits for all.
void RunAll(IoQueue& queue, std::deque<Transfer>& transfers) {
  std::atomic<int> left{static_cast<int>(transfers.size())};
  for (Transfer& transfer : transfers) {
    transfer.left = &left;
    queue.Submit(&transfer);
  }
  for (unsigned round = 0; left.load(std::memory_order_acquire) != 0; ++round) PollPause(round);
}

class Files {
 public:
  Files() {
    char name[] = "/tmp/flashlun-queue-XXXXXX";
    dir = ::mkdtemp(name);
  }
  ~Files() { std::filesystem::remove_all(dir); }
  std::unique_ptr<File> Open(const std::string& name, bool direct) {
    Result<std::unique_ptr<File>> file =
        io->OpenFile(dir + "/" + name, {.create = true, .direct = direct});
    REQUIRE_MESSAGE(file.ok(), file.status().message());
    return std::move(file.value());
  }
  const std::unique_ptr<Io> io = MakeThreadIo();
  std::string dir;
};

TEST_CASE_FIXTURE(Files, "the backends do the same: random transfers, some past the end") {
  const uint64_t seed = Seed();
  if (!HasUring(*io)) MESSAGE("no io_uring here: only the threads backend is tested");
  for (const bool direct : {false, true}) {
    for (const IoBackend backend : {IoBackend::kThreads, IoBackend::kUring}) {
      if (backend == IoBackend::kUring && !HasUring(*io)) continue;
      std::mt19937_64 random(seed);
      const std::unique_ptr<IoQueue> queue = std::move(io->MakeQueue(backend).value());
      const std::string name = std::string(queue->name()) + (direct ? "-direct" : "-cached");
      const std::unique_ptr<File> file = Open(name, direct);
      constexpr size_t kBytes = 1 << 20;
      std::string model(2 * kBytes, '\0');  // its second half lies behind the end of the file
      Pages memory(2 * kBytes);
      for (int round = 0; round < 30; ++round) {
        std::deque<Transfer> transfers;
        const auto add = [&](IoRequest::Kind kind, uint64_t at, size_t len) {
          Transfer& transfer = transfers.emplace_back();
          transfer.kind = kind;
          transfer.file = file.get();
          transfer.offset = at;
          transfer.buf = memory.start + at;
          transfer.len = len;
        };
        for (uint64_t at = 0; at < kBytes;) {
          const size_t unit = direct ? kDirectAlign : 1;
          const size_t len = std::min<size_t>((1 + random() % 16384 / unit) * unit, kBytes - at);
          std::memset(memory.start + at, static_cast<int>(random() % 256), len);
          if (random() % 2 != 0) {
            add(IoRequest::Kind::kWrite, at, len);
            std::memcpy(model.data() + at, memory.start + at, len);
          }
          at += len;
        }
        RunAll(*queue, transfers);
        for (const Transfer& transfer : transfers) REQUIRE(transfer.status.ok());
        transfers.clear();
        std::memset(memory.start, 0x5a, 2 * kBytes);
        // Neither aligned nor inside the file, in either mode.
        for (uint64_t at = 0; at < model.size();) {
          const size_t unit = random() % 2 ? kDirectAlign : 1;
          const size_t len =
              std::min<size_t>(1 + random() % 60000 / unit * unit, model.size() - at);
          add(IoRequest::Kind::kRead, at, len);
          at += len;
        }
        RunAll(*queue, transfers);
        for (const Transfer& transfer : transfers) REQUIRE(transfer.status.ok());
        REQUIRE_MESSAGE(std::memcmp(memory.start, model.data(), model.size()) == 0, name, " round ",
                        round);
      }
    }
  }
}

TEST_CASE_FIXTURE(Files,
                  "an error is told with the file and the reason, and ends only its request") {
  for (const IoBackend backend : {IoBackend::kThreads, IoBackend::kUring}) {
    if (backend == IoBackend::kUring && !HasUring(*io)) continue;
    const std::unique_ptr<IoQueue> queue = std::move(io->MakeQueue(backend).value());
    const std::unique_ptr<File> full = std::move(io->OpenFile("/dev/full", {}).value());
    const std::unique_ptr<File> good = Open("good", false);
    uint8_t data[512] = {};
    std::deque<Transfer> transfers(3);
    for (Transfer& transfer : transfers) {
      transfer.kind = IoRequest::Kind::kWrite;
      transfer.file = good.get();
      transfer.buf = data;
      transfer.len = sizeof data;
    }
    transfers[1].file = full.get();
    RunAll(*queue, transfers);
    CHECK(transfers[0].status.ok());
    CHECK(transfers[1].status.code() == Code::kNoSpace);
    CHECK(transfers[1].status.message() == "write of /dev/full failed: No space left on device");
    CHECK(transfers[2].status.ok());
  }
}

TEST_CASE_FIXTURE(Files, "auto has a backend everywhere, and says why it is not io_uring") {
  const std::unique_ptr<IoQueue> queue = std::move(io->MakeQueue(IoBackend::kAuto).value());
  CHECK((std::string(queue->name()) == "io_uring") == queue->note().empty());
  CHECK(io->MakeQueue(IoBackend::kThreads).value()->note().empty());
}

// Pools -----------------------------------------------------------------------

// The pool fixture over the real backends (its own Io passes everything through threads).
class AsyncPool : public PoolFixture {
 public:
  // One writer with many operations in flight on blocks of its own, whose content it knows.
  class Lane {
   public:
    Lane(Volume& volume, OpSlot& slot, uint64_t first, uint64_t blocks, uint64_t seed)
        : volume_(volume), slot_(slot), first_(first), values_(blocks), random_(seed) {}

    // A batch: every block at most once. Returns what went wrong.
    std::string Batch() {
      std::deque<AwaitedCompletion> completions;
      std::deque<Pages> memory;
      struct Begun {
        uint64_t block;
        uint64_t count;
        bool write;
        AwaitedCompletion* completion;
        Pages* pages;
      };
      std::vector<Begun> begun;
      for (uint64_t block = 0; block < values_.size();) {
        const uint64_t count = std::min<uint64_t>(1 + random_() % 32, values_.size() - block);
        const bool write = random_() % 2 == 0;
        Pages& pages = memory.emplace_back(count * kSubBytes);
        if (write) Fill(pages.start, block, count);
        AwaitedCompletion& done = completions.emplace_back();
        const uint64_t offset = (first_ + block) * kSubBytes;
        const size_t len = count * kSubBytes;
        const bool async = write ? volume_.WriteAsync(offset, pages.start, len, &done)
                                 : volume_.ReadAsync(offset, pages.start, len, &done);
        (async ? asynchronous : blocking) += 1;
        if (!async)
          done.Done(write ? volume_.Write(slot_, offset, pages.start, len)
                          : volume_.Read(slot_, offset, pages.start, len, ReadMode::kBlocking));
        begun.push_back({block, count, write, &done, &pages});
        block += count + random_() % 8;
      }
      std::string problem;
      for (const Begun& one : begun) {
        const Status status = one.completion->Wait();
        if (!status.ok()) problem = status.message();
        for (uint64_t i = 0; i < one.count && !one.write; ++i)
          if (!Holds(one.pages->start + i * kSubBytes, one.block + i))
            problem = "block " + std::to_string(first_ + one.block + i) + " reads something else";
      }
      return problem;
    }

    uint64_t asynchronous = 0, blocking = 0;

   private:
    void Fill(uint8_t* to, uint64_t block, uint64_t count) {
      for (uint64_t i = 0; i < count; ++i) {
        const uint64_t value = values_[block + i] = random_() | 1;
        for (size_t at = 0; at < kSubBytes; at += 8)
          std::memcpy(to + i * kSubBytes + at, &value, sizeof value);
      }
    }
    bool Holds(const uint8_t* data, uint64_t block) const {
      for (size_t at = 0; at < kSubBytes; at += 8)
        if (std::memcmp(data + at, &values_[block], 8) != 0) return false;
      return true;
    }

    Volume& volume_;
    OpSlot& slot_;
    const uint64_t first_;
    std::vector<uint64_t> values_;
    std::mt19937_64 random_;
  };
};

void AsyncRound(Store& store, uint64_t seed) {
  constexpr uint64_t kTracks = 48;
  constexpr uint64_t kLaneBlocks = kTracks * kSubsPerTrack / 2;
  REQUIRE(store.CreateVolume(kA, kTracks * kTrackBytes, "").ok());
  REQUIRE(store.CreateVolume(kB, kTracks * kTrackBytes, "").ok());
  std::atomic<int> running{2};
  std::mutex mutex;
  std::string problem;
  uint64_t asynchronous = 0;
  std::vector<std::thread> lanes;
  for (uint64_t i = 0; i < 2; ++i) {
    lanes.emplace_back([&, i] {
      Volume volume = store.Attach(kA).value();
      OpSlot* slot = store.AcquireSlot();
      AsyncPool::Lane lane(volume, *slot, i * kLaneBlocks, kLaneBlocks, seed + i);
      std::string found;
      for (int batch = 0; batch < 60 && found.empty(); ++batch) found = lane.Batch();
      store.ReleaseSlot(slot);
      std::lock_guard<std::mutex> lock(mutex);
      if (!found.empty()) problem = found;
      asynchronous += lane.asynchronous;
      --running;
    });
  }
  // Establishes, a T0 image that must not change, and flushes, all in between.
  Volume image = store.Attach(kB).value();
  OpSlot* slot = store.AcquireSlot();
  std::string first(kTracks * kTrackBytes, '?');
  std::string second = first;
  while (running.load() != 0) {
    const PairSpec pair{kA, kB, kRelNoCopy};
    std::vector<uint64_t> ids;
    REQUIRE(store.Establish({&pair, 1}, &ids).ok());
    Status status(Code::kBusy);
    REQUIRE(Awaited(&status, [&](Completion* done) {
      return image.ReadAsync(0, first.data(), first.size(), done);
    }));
    REQUIRE(status.ok());
    REQUIRE(store.Flush().ok());
    REQUIRE(image.Read(*slot, 0, second.data(), second.size(), ReadMode::kBlocking).ok());
    CHECK(first == second);
    REQUIRE(store.Withdraw(ids.front()).ok());
  }
  for (std::thread& lane : lanes) lane.join();
  store.ReleaseSlot(slot);
  CHECK(problem == "");
  CHECK(asynchronous > 100);
}

TEST_CASE_FIXTURE(PoolFixture, "asynchronous reads and writes under establishes and flushes") {
  const uint64_t seed = Seed();
  const std::unique_ptr<Io> real = MakeThreadIo();
  int round = 0;
  for (const bool direct : {false, true}) {
    for (const IoBackend backend : {IoBackend::kThreads, IoBackend::kUring}) {
      if (backend == IoBackend::kUring && !HasUring(*real)) continue;
      StoreOptions own = options();
      own.dir += std::to_string(++round);
      own.direct = direct;
      own.io_backend = backend;
      Result<std::unique_ptr<Store>> store = Store::Open(*real, own);
      REQUIRE_MESSAGE(store.ok(), store.status().message());
      AsyncRound(*store.value(), seed);
      CHECK(store.value()->Close().ok());
    }
  }
}

// A disk with bad places: transfers that touch them fail.
class BadFile final : public ForwardingFile {
 public:
  BadFile(std::unique_ptr<File> file, const std::atomic<bool>& bad)
      : ForwardingFile(std::move(file)), bad_(bad) {}
  Status Pread(uint64_t offset, void* buf, size_t len) override {
    if (bad_.load()) return Status(Code::kIo, "read of " + path() + " failed: Input/output error");
    return ForwardingFile::Pread(offset, buf, len);
  }
  Status Pwrite(uint64_t offset, const void* buf, size_t len) override {
    if (bad_.load()) return Status(Code::kIo, "write of " + path() + " failed: Input/output error");
    return ForwardingFile::Pwrite(offset, buf, len);
  }

 private:
  const std::atomic<bool>& bad_;
};

class BadIo final : public ForwardingIo {
 public:
  std::atomic<bool> bad{false};

 private:
  std::unique_ptr<File> Wrap(std::unique_ptr<File> file) override {
    if (!file->path().ends_with("/tracks")) return file;
    return std::make_unique<BadFile>(std::move(file), bad);
  }
};

TEST_CASE_FIXTURE(PoolFixture,
                  "T13: a bad place on the disk ends the request there, nothing else") {
  BadIo io;
  options().direct = true;
  Result<std::unique_ptr<Store>> opened = Store::Open(io, options());
  REQUIRE(opened.ok());
  Store& store = *opened.value();
  REQUIRE(store.CreateVolume(kA, 8 * kTrackBytes, "").ok());
  {
    Volume volume = store.Attach(kA).value();
    OpSlot* slot = store.AcquireSlot();
    Pages data(2 * kTrackBytes);
    std::memset(data.start, 'g', 2 * kTrackBytes);
    REQUIRE(volume.Write(*slot, 0, data.start, 2 * kTrackBytes).ok());
    io.bad = true;
    Status status;
    const auto read = [&](Completion* done) {
      return volume.ReadAsync(0, data.start, 2 * kTrackBytes, done);
    };
    const auto write = [&](Completion* done) {
      return volume.WriteAsync(kTrackBytes - kSubBytes, data.start, 2 * kSubBytes, done);
    };
    REQUIRE(Awaited(&status, read));
    CHECK(status.code() == Code::kIo);
    REQUIRE(Awaited(&status, write));
    CHECK(status.code() == Code::kIo);
    CHECK(volume.Write(*slot, 0, data.start, kSubBytes).code() == Code::kIo);
    CHECK(volume.Read(*slot, 0, data.start, 512, ReadMode::kBlocking).code() == Code::kIo);
    // A first write (path C) publishes nothing: the place still reads as it was.
    CHECK(volume.Write(*slot, 4 * kTrackBytes, data.start, kTrackBytes).code() == Code::kIo);
    io.bad = false;
    CHECK(store.Info().poisoned == "");
    REQUIRE(Awaited(&status, write));
    CHECK(status.ok());
    REQUIRE(Awaited(&status, read));
    CHECK(status.ok());
    CHECK(std::count(data.start, data.start + 2 * kTrackBytes, 'g') == 2 * kTrackBytes);
    REQUIRE(volume.Read(*slot, 4 * kTrackBytes, data.start, kTrackBytes, ReadMode::kBlocking).ok());
    CHECK(std::count(data.start, data.start + kTrackBytes, 0) == kTrackBytes);
    CHECK(store.GetVolume(kA).value().error_ops == 5);
    store.ReleaseSlot(slot);
  }
  CHECK(store.Close().ok());
}

}  // namespace
}  // namespace flashlun
