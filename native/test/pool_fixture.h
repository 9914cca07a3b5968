// A pool in a directory of its own, on real files, for the unit tests of the store.
#pragma once

#include <doctest/doctest.h>

#include <chrono>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "core/store.h"
#include "test/held_io.h"

namespace flashlun {

class PoolFixture {
 public:
  explicit PoolFixture(std::unique_ptr<HeldIo> io = std::make_unique<HeldIo>())
      : io_(std::move(io)) {
    char name[] = "/tmp/flashlun-native-XXXXXX";
    root_ = ::mkdtemp(name);
    options_.dir = root_ + "/pool";
    options_.capacity_bytes = uint64_t{256} << 20;
    options_.journal_blocks = 256;
    options_.kill_ring_bytes = 128 << 10;
  }
  ~PoolFixture() {
    Abandon();
    std::filesystem::remove_all(root_);
  }
  PoolFixture(const PoolFixture&) = delete;
  PoolFixture& operator=(const PoolFixture&) = delete;

  Status TryOpen() {
    Result<std::unique_ptr<Store>> result = Store::Open(*io_, options_);
    if (!result.ok()) return result.TakeStatus();
    store_ = std::move(result.value());
    slot_ = store_->AcquireSlot();
    return Status::Ok();
  }
  void Open() {
    const Status status = TryOpen();
    REQUIRE_MESSAGE(status.ok(), status.message());
  }
  // In order: a checkpoint, nothing to replay.
  void Close() {
    store_->ReleaseSlot(slot_);
    REQUIRE(store_->Close().ok());
    store_.reset();
  }
  // Without Close: the next open finds what a killed process leaves, but for the commit that the
  // end of the task makes.
  void Abandon() {
    if (!store_) return;
    store_->ReleaseSlot(slot_);
    store_.reset();
  }

  Volume Create(uint16_t id, uint64_t tracks) {
    const Status status = store_->CreateVolume(id, tracks * kTrackBytes, "");
    REQUIRE_MESSAGE(status.ok(), status.message());
    return store_->Attach(id).value();
  }
  void Fill(Volume& volume, uint64_t offset, size_t len, char fill) {
    const std::vector<char> data(len, fill);
    const Status status = volume.Write(*slot_, offset, data.data(), len);
    REQUIRE_MESSAGE(status.ok(), status.message());
  }
  std::string Read(Volume& volume, uint64_t offset, size_t len) {
    std::string data(len, '?');
    REQUIRE(volume.Read(*slot_, offset, data.data(), len, ReadMode::kBlocking).ok());
    return data;
  }
  bool Holds(Volume& volume, uint64_t offset, size_t len, char fill) {
    return Read(volume, offset, len) == std::string(len, fill);
  }
  uint64_t Establish(uint16_t source, uint16_t target, uint32_t flags) {
    const PairSpec pair{source, target, flags};
    std::vector<uint64_t> ids;
    const Status status = store_->Establish({&pair, 1}, &ids);
    REQUIRE_MESSAGE(status.ok(), status.message());
    return ids.front();
  }
  // Waits, with a deadline, for something that another thread does.
  template <typename Condition>
  static bool Eventually(Condition condition) {
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(20);
    while (!condition()) {
      if (std::chrono::steady_clock::now() > deadline) return false;
      std::this_thread::yield();
    }
    return true;
  }
  std::string PathOf(const std::string& name) const { return options_.dir + "/" + name; }
  // Changes one bit of a closed pool's file.
  void FlipBit(const std::string& name, uint64_t offset) {
    std::fstream file(PathOf(name), std::ios::in | std::ios::out | std::ios::binary);
    file.seekg(static_cast<std::streamoff>(offset));
    const auto byte = static_cast<char>(file.get() ^ 1);
    file.seekp(static_cast<std::streamoff>(offset));
    file.put(byte);
    REQUIRE(file.good());
  }

  // What a SIGKILL at this moment leaves, as the pool of another fixture: same boot, page cache and
  // kill ring intact.
  void CopyPoolTo(PoolFixture& other) const {
    std::filesystem::copy(options_.dir, other.options_.dir,
                          std::filesystem::copy_options::recursive);
    const std::string dir = other.options_.dir;
    other.options_ = options_;
    other.options_.dir = dir;
  }
  HeldIo& io() { return *io_; }
  Store& store() { return *store_; }
  OpSlot& slot() { return *slot_; }
  StoreOptions& options() { return options_; }

 private:
  std::string root_;
  std::unique_ptr<HeldIo> io_;
  StoreOptions options_;
  std::unique_ptr<Store> store_;
  OpSlot* slot_ = nullptr;
};

}  // namespace flashlun
