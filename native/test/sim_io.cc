#include "test/sim_io.h"

#include <algorithm>
#include <cstring>

#include "core/check.h"

namespace flashlun {

class SimFile final : public File {
 public:
  SimFile(std::string path, SimIo& io, std::shared_ptr<SimIo::FileState> state)
      : File(std::move(path)), io_(io), state_(std::move(state)) {}

  Status Pread(uint64_t offset, void* buf, size_t len) override {
    io_.Step();
    io_.MaybeSlow();
    auto* out = static_cast<uint8_t*>(buf);
    while (len != 0) {
      const size_t within = offset % SimIo::kBlock;
      const size_t n = std::min(len, SimIo::kBlock - within);
      const uint64_t block = offset / SimIo::kBlock;
      if (block < state_->cache.size() && state_->cache[block])
        std::memcpy(out, state_->cache[block]->data() + within, n);
      else
        std::memset(out, 0, n);
      out += n;
      offset += n;
      len -= n;
      if (len != 0 && io_.fibers_ != nullptr && io_.rng_() % 8 == 0) io_.Step();
    }
    return Status::Ok();
  }

  Status PreadNoWait(uint64_t offset, void* buf, size_t len) override {
    if (io_.fibers_ != nullptr && io_.rng_() % 4 == 0) return Status(Code::kWouldBlock);
    return Pread(offset, buf, len);
  }

  Status Pwrite(uint64_t offset, const void* buf, size_t len) override {
    io_.Count();
    io_.Step();
    io_.MaybeSlow();
    const auto* in = static_cast<const uint8_t*>(buf);
    while (len != 0) {
      const size_t within = offset % SimIo::kBlock;
      const size_t n = std::min(len, SimIo::kBlock - within);
      const uint64_t block = offset / SimIo::kBlock;
      SimIo::Block& place = SimIo::At(state_->cache, block);
      auto next = std::make_shared<std::array<uint8_t, SimIo::kBlock>>();
      if (place)
        *next = *place;
      else
        next->fill(0);
      std::memcpy(next->data() + within, in, n);
      place = next;
      state_->pending.push_back({++state_->writes, block, place});
      in += n;
      offset += n;
      len -= n;
      // In the middle of a write too; rarely after its last block, for a write that is done but not
      // yet answered.
      if (io_.fibers_ != nullptr && io_.rng_() % 4 == 0) io_.Step();
    }
    return Status::Ok();
  }

  Status Fdatasync() override {
    io_.Count();
    const uint64_t covered = state_->writes;
    io_.Step();
    if (io_.fibers_ != nullptr && io_.rng_() % 2 == 0) io_.Step();
    // Another fiber may have synced the same file meanwhile.
    auto& pending = state_->pending;
    size_t done = 0;
    for (; done < pending.size() && pending[done].number <= covered; ++done)
      SimIo::At(state_->durable, pending[done].block) = pending[done].content;
    pending.erase(pending.begin(), pending.begin() + static_cast<std::ptrdiff_t>(done));
    return Status::Ok();
  }

  Status Allocate(uint64_t offset, uint64_t len) override {
    const size_t blocks = (offset + len + SimIo::kBlock - 1) / SimIo::kBlock;
    if (state_->cache.size() < blocks) state_->cache.resize(blocks);
    return Status::Ok();
  }
  // What was discarded is undefined: here bytes that no host wrote, at once and after a crash.
  Status Discard(uint64_t offset, uint64_t len) override {
    io_.Step();
    std::vector<uint8_t> garbage(SimIo::kBlock, 0xdd);
    Status status;
    for (uint64_t at = offset; at < offset + len && status.ok(); at += SimIo::kBlock) {
      if (io_.rng_() % 4 == 0) status = Pwrite(at, garbage.data(), garbage.size());
    }
    return status;
  }
  void StartWriteOut(uint64_t, uint64_t) override {}
  void DropCache() override {}

  Result<uint64_t> Size() override { return uint64_t{state_->cache.size()} * SimIo::kBlock; }

  Status Truncate(uint64_t size) override {
    const size_t blocks = (size + SimIo::kBlock - 1) / SimIo::kBlock;
    state_->cache.resize(blocks);
    state_->durable.resize(blocks);
    return Status::Ok();
  }

 private:
  SimIo& io_;
  std::shared_ptr<SimIo::FileState> state_;
};

namespace {

class SimMemory final : public SharedMemory {
 public:
  explicit SimMemory(std::shared_ptr<std::vector<uint8_t>> bytes) : bytes_(std::move(bytes)) {}
  uint8_t* data() override { return bytes_->data(); }
  size_t size() const override { return bytes_->size(); }

 private:
  std::shared_ptr<std::vector<uint8_t>> bytes_;
};

class FiberTask final : public Task {
 public:
  FiberTask(Fibers& fibers, int id) : fibers_(fibers), id_(id) {}
  void Join() override {
    // Outside any fiber the run was abandoned at a violation: nobody will ever finish.
    while (t_fibers != nullptr && !fibers_.Finished(id_)) fibers_.Yield();
  }

 private:
  Fibers& fibers_;
  const int id_;
};

class SleepingTask final : public Task {
 public:
  void Join() override {}
};

}  // namespace

SimIo::SimIo(Rng& rng, Fibers* fibers) : rng_(rng), fibers_(fibers) {}
SimIo::~SimIo() = default;

void SimIo::Step() {
  if (fibers_ != nullptr && t_fibers != nullptr) fibers_->Yield();
}

// Now and then a slow disk: whole commits and establishes fit into one read or write of a track.
void SimIo::MaybeSlow() {
  if (fibers_ == nullptr || rng_() % 32 != 0) return;
  for (uint64_t steps = rng_() % 200; steps != 0; --steps) Step();
}

void SimIo::Count() {
  if (die_after_ != UINT64_MAX && die_after_-- == 0) throw SimulatedDeath{};
}

SimIo::Block& SimIo::At(Image& image, uint64_t block) {
  if (image.size() <= block) image.resize(block + 1);
  return image[block];
}

// A block whose sectors are each old or new.
SimIo::Block SimIo::Mix(const Block& old, const Block& next, Rng& rng) {
  auto mixed = std::make_shared<std::array<uint8_t, kBlock>>(*next);
  for (size_t at = 0; at < kBlock; at += 512) {
    if (rng() % 2 == 0) continue;
    if (old)
      std::memcpy(mixed->data() + at, old->data() + at, 512);
    else
      std::memset(mixed->data() + at, 0, 512);
  }
  return mixed;
}

std::unique_ptr<SimIo> SimIo::Crash(CrashKind kind, Rng& rng, Fibers* fibers) const {
  auto after = std::make_unique<SimIo>(rng, fibers);
  after->clock_ms_ = clock_ms_;
  after->boot_id_ = kind == CrashKind::kKill ? boot_id_ : "boot-" + std::to_string(rng() >> 32);
  for (const auto& [path, bytes] : memories_) {
    auto copy = std::make_shared<std::vector<uint8_t>>(*bytes);
    if (kind == CrashKind::kPowerLoss && rng() % 2 == 0)
      std::fill(copy->begin(), copy->end(), uint8_t{0});
    after->memories_[path] = std::move(copy);
  }
  const uint64_t mode = rng() % 4;  // all of the pending writes, none, half of them, most of them
  for (const auto& [path, state] : files_) {
    auto copy = std::make_shared<FileState>();
    copy->torn_at_4k = state->torn_at_4k;
    if (kind == CrashKind::kKill) {
      // The page cache lives on, and so does what it still owes the disk.
      *copy = *state;
    } else {
      copy->durable = state->durable;
      for (const Pending& write : state->pending) {
        const bool applied =
            mode == 0 || (mode == 2 && rng() % 2 == 0) || (mode == 3 && rng() % 10 != 0);
        Block& place = At(copy->durable, write.block);
        if (applied)
          place = write.content;
        else if (!state->torn_at_4k && mode != 1 && rng() % 8 == 0)
          place = Mix(place, write.content, rng);
      }
      copy->cache = copy->durable;
    }
    after->files_[path] = std::move(copy);
  }
  return after;
}

void SimIo::FlipBit(const std::string& path, uint64_t offset) {
  FileState& state = *files_.at(path);
  for (Image* image : {&state.cache, &state.durable}) {
    Block& place = At(*image, offset / kBlock);
    auto next = std::make_shared<std::array<uint8_t, kBlock>>();
    if (place)
      *next = *place;
    else
      next->fill(0);
    (*next)[offset % kBlock] ^= 1;
    place = next;
  }
}

Status SimIo::MakeDir(const std::string&) { return Status::Ok(); }
bool SimIo::Exists(const std::string& path) {
  return files_.contains(path) || memories_.contains(path);
}

Result<std::unique_ptr<File>> SimIo::OpenFile(const std::string& path, const OpenOptions& options) {
  auto it = files_.find(path);
  if (it == files_.end()) {
    if (!options.create)
      return Status(Code::kIo, "open of " + path + " failed: No such file or directory");
    it = files_.emplace(path, std::make_shared<FileState>()).first;
    it->second->torn_at_4k = path.ends_with("/tracks");
  }
  return std::unique_ptr<File>(std::make_unique<SimFile>(path, *this, it->second));
}

Status SimIo::Rename(const std::string& from, const std::string& to) {
  files_[to] = files_.at(from);
  files_.erase(from);
  return Status::Ok();
}

Status SimIo::SyncDir(const std::string&) { return Status::Ok(); }

Result<std::shared_ptr<void>> SimIo::Lock(const std::string& path) {
  if (!locks_[path].expired()) return Status(Code::kLocked, path + " is locked");
  auto held = std::shared_ptr<void>(std::make_shared<int>(0));
  locks_[path] = held;
  return held;
}

Result<std::unique_ptr<SharedMemory>> SimIo::MapShared(const std::string& path, size_t size) {
  auto& bytes = memories_[path];
  if (!bytes) bytes = std::make_shared<std::vector<uint8_t>>();
  bytes->resize(size);
  return std::unique_ptr<SharedMemory>(std::make_unique<SimMemory>(bytes));
}

std::string SimIo::NewUuid() {
  char text[40];
  std::snprintf(text, sizeof text, "%016lx-%016lx", rng_(), rng_());
  return text;
}

std::unique_ptr<Task> SimIo::Spawn(const char* name, std::function<void()> body) {
  if (fibers_ == nullptr) return std::make_unique<SleepingTask>();
  return std::make_unique<FiberTask>(*fibers_, fibers_->Spawn(name, std::move(body)));
}

}  // namespace flashlun
