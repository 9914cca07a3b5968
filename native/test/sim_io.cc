#include "test/sim_io.h"

#include <algorithm>
#include <cstring>

#include "core/check.h"
#include "core/task_queue.h"

namespace flashlun {
namespace {

uint64_t BlocksOf(uint64_t bytes) { return (bytes + kSimBlock - 1) / kSimBlock; }

// "pool/meta" is in "pool", "pool" is in ".". SyncDir also gets "pool/..".
std::string DirOf(const std::string& path) {
  const size_t slash = path.rfind('/');
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

std::string Normal(const std::string& path) {
  return path.ends_with("/..") ? DirOf(DirOf(path)) : path;
}

}  // namespace

class SimFile final : public File {
 public:
  SimFile(std::string path, SimIo& io, SimIo::FilePtr state, bool direct)
      : File(std::move(path)),
        io_(io),
        state_(std::move(state)),
        direct_(direct),
        failed_syncs_seen_(state_->failed_syncs) {}

  Status Pread(uint64_t offset, void* buf, size_t len) override {
    Status status = io_.Begin(IoKind::kRead, path(), "read");
    auto* out = static_cast<uint8_t*>(buf);
    // A failed read leaves anything in the buffer, the beginning of the data for example.
    if (!status.ok()) len /= 2;
    while (len != 0) {
      const size_t within = offset % kSimBlock;
      const size_t n = std::min(len, kSimBlock - within);
      const SimBlock& block = state_->cache.Get(offset / kSimBlock);
      if (block)
        std::memcpy(out, block->data() + within, n);
      else
        std::memset(out, 0, n);
      out += n;
      offset += n;
      len -= n;
      if (len != 0 && io_.Chance(8)) io_.Step();
    }
    return status;
  }

  Status PreadNoWait(uint64_t offset, void* buf, size_t len) override {
    if (direct_ || io_.Chance(4)) return Status(Code::kWouldBlock);
    return Pread(offset, buf, len);
  }

  Status Pwrite(uint64_t offset, const void* buf, size_t len) override {
    FL_CHECK(!direct_ || (offset | len) % kDirectAlign == 0);  // the engine's side of direct I/O
    Status status = io_.Begin(IoKind::kWrite, path(), "write", HasSpace(offset, len), offset);
    const uint64_t number = ++io_.numbers_;
    const auto* in = static_cast<const uint8_t*>(buf);
    // Of a failed write any beginning may have arrived, nothing of one for which there is no space.
    if (!status.ok()) {
      const bool some = status.code() == Code::kIo;
      len = some ? std::min(len, io_.rng_() % (BlocksOf(len) + 1) * kSimBlock) : 0;
    }
    for (bool first = true; len != 0; first = false) {
      // In the middle of a write too; rarely after its last block, for a write that is done but not
      // yet answered.
      if (!first) {
        if (io_.Chance(4)) io_.Step();
        io_.Middle(path());
      }
      const size_t within = offset % kSimBlock;
      const size_t n = std::min(len, kSimBlock - within);
      const uint64_t block = offset / kSimBlock;
      auto next = CopyOfBlock(state_->cache.Get(block));
      std::memcpy(next->data() + within, in, n);
      state_->pending.push_back({number, block, next});
      state_->cache.Set(block, std::move(next));
      in += n;
      offset += n;
      len -= n;
    }
    if (io_.Chance(4)) io_.Step();
    return status;
  }

  Status Fdatasync() override {
    const uint64_t covered = io_.numbers_;
    Status status = io_.Begin(IoKind::kSync, path(), "fdatasync");
    if (!status.ok())
      ++state_->failed_syncs;
    else if (state_->failed_syncs != failed_syncs_seen_)
      status = Status(Code::kIo, "fdatasync of " + path() + " failed: Input/output error");
    failed_syncs_seen_ = state_->failed_syncs;
    if (io_.Chance(2)) io_.Step();
    // Another fiber may have synced the same file meanwhile.
    auto& pending = state_->pending;
    size_t done = 0;
    for (; done < pending.size() && pending[done].number <= covered; ++done)
      if (status.ok() || io_.rng_() % 2 == 0)
        state_->durable.Set(pending[done].block, pending[done].content);
    pending.erase(pending.begin(), pending.begin() + static_cast<std::ptrdiff_t>(done));
    if (status.ok() && state_->durable.blocks() < state_->cache.blocks() && pending.empty())
      state_->durable.Resize(state_->cache.blocks());
    return status;
  }

  Status Allocate(uint64_t offset, uint64_t len) override {
    Status status = io_.Begin(IoKind::kAllocate, path(), "allocation", HasSpace(offset, len));
    if (!status.ok()) return status;
    if (state_->cache.blocks() < BlocksOf(offset + len))
      state_->cache.Resize(BlocksOf(offset + len));
    SetSpace(offset, len, true);
    return status;
  }

  Status Discard(uint64_t offset, uint64_t len) override {
    Status status = io_.Begin(IoKind::kDiscard, path(), "discard");
    const uint64_t number = ++io_.numbers_;
    const uint64_t end = std::min((offset + len) / kSimBlock, state_->cache.blocks());
    if (status.ok()) SetSpace(offset, len, false);
    for (uint64_t block = BlocksOf(offset); status.ok() && block < end; ++block) {
      // The content is undefined: what was there, zeroes, or bytes that no host wrote.
      const uint64_t fate = io_.rng_() % 3;
      if (fate == 0) continue;
      SimBlock content;
      if (fate == 1) {
        auto garbage = std::make_shared<std::array<uint8_t, kSimBlock>>();
        garbage->fill(0xdd);
        content = std::move(garbage);
      }
      state_->pending.push_back({number, block, content});
      state_->cache.Set(block, std::move(content));
    }
    return status;
  }

  void StartWriteOut(uint64_t, uint64_t) override { io_.Step(); }

  // What the disk has, with what is still on its way.
  void DropCache() override {
    SimImage fresh = state_->durable;
    fresh.Resize(std::max(fresh.blocks(), state_->cache.blocks()));
    for (const SimIo::Pending& write : state_->pending) fresh.Set(write.block, write.content);
    state_->cache = std::move(fresh);
  }

  Result<uint64_t> Size() override {
    if (Status status = io_.Begin(IoKind::kSize, path(), "size"); !status.ok()) return status;
    return state_->cache.blocks() * kSimBlock;
  }

  Status Truncate(uint64_t size) override {
    Status status = io_.Begin(IoKind::kTruncate, path(), "truncation");
    if (!status.ok()) return status;
    const uint64_t blocks = BlocksOf(size);
    std::erase_if(state_->pending, [&](const auto& write) { return write.block >= blocks; });
    state_->cache.Resize(blocks);
    if (state_->durable.blocks() > blocks) state_->durable.Resize(blocks);
    return status;
  }

 private:
  static constexpr uint64_t kSpaceUnit = 1 << 20;

  bool HasSpace(uint64_t offset, uint64_t len) const {
    for (uint64_t at = offset / kSpaceUnit; at * kSpaceUnit < offset + len; ++at)
      if (at >= state_->space.size() || !state_->space[at]) return false;
    return true;
  }
  // Only what is covered whole.
  void SetSpace(uint64_t offset, uint64_t len, bool has) {
    const uint64_t end = (offset + len) / kSpaceUnit;
    if (state_->space.size() < end) state_->space.resize(end);
    for (uint64_t at = (offset + kSpaceUnit - 1) / kSpaceUnit; at < end; ++at)
      state_->space[at] = has;
  }

  SimIo& io_;
  SimIo::FilePtr state_;
  const bool direct_;
  uint64_t failed_syncs_seen_;
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

SimIo::SimIo(Rng& rng, Fibers* fibers) : rng_(rng), fibers_(fibers) {
  for (Names* names : {&names_, &durable_names_}) names->dirs = {".", "/"};
}
SimIo::~SimIo() = default;

Status SimIo::Begin(IoKind kind, const std::string& path, const char* what, bool has_space,
                    uint64_t offset) {
  const bool changes = kind != IoKind::kRead && kind != IoKind::kSize && kind != IoKind::kMap;
  if (changes && die_after_ != UINT64_MAX && die_after_-- == 0) throw SimulatedDeath{};
  const uint64_t index = calls_++;
  if (Interleaves()) {
    Step();
    if (kind == IoKind::kRead || kind == IoKind::kWrite) MaybeSlow();
  }
  if (!hook_) return Status::Ok();
  const Fault fault = hook_(IoCall{index, kind, false, path, has_space, offset});
  if (fault == Fault::kNone) return Status::Ok();
  const bool full = fault == Fault::kNoSpace;
  return Status(full ? Code::kNoSpace : Code::kIo,
                std::string(what) + " of " + path +
                    (full ? " failed: No space left on device" : " failed: Input/output error"));
}

void SimIo::Middle(const std::string& path) {
  if (hook_) (void)hook_(IoCall{calls_ - 1, IoKind::kWrite, true, path});
}

void SimIo::Step() { fibers_->Yield(); }

// Now and then a slow disk: whole commits and establishes fit into one read or write of a track.
void SimIo::MaybeSlow() {
  if (rng_() % 32 != 0) return;
  const uint64_t most = rng_() % 4 == 0 ? 1000 : 200;
  for (uint64_t steps = rng_() % most; steps != 0; --steps) Step();
}

// A block of sectors that are old, new or garbage.
SimBlock SimIo::Damaged(const SimBlock& old, const SimBlock& next, Rng& rng) {
  constexpr size_t kSector = 512;
  auto mixed = CopyOfBlock(next);
  for (size_t at = 0; at < kSimBlock; at += kSector) {
    const uint64_t fate = rng() % 5;
    if (fate < 2) continue;
    if (fate == 4) {
      for (size_t i = 0; i < kSector; i += 8) {
        const uint64_t word = rng();
        std::memcpy(mixed->data() + at + i, &word, sizeof word);
      }
    } else if (old) {
      std::memcpy(mixed->data() + at, old->data() + at, kSector);
    } else {
      std::memset(mixed->data() + at, 0, kSector);
    }
  }
  return mixed;
}

bool SimIo::Keeps(const PowerCut& cut, uint64_t number, Rng& rng) {
  switch (cut.keep) {
    case PowerCut::Keep::kNone:
      return false;
    case PowerCut::Keep::kAll:
      return true;
    case PowerCut::Keep::kOnly:
      return number == cut.call;
    case PowerCut::Keep::kAllBut:
      return number != cut.call;
    case PowerCut::Keep::kHalf:
      return rng() % 2 == 0;
    case PowerCut::Keep::kMost:
      return rng() % 10 != 0;
  }
  return false;
}

void SimIo::CutFile(const FileState& from, const PowerCut& cut, Rng& rng, FileState* to) {
  to->torn_at_4k = from.torn_at_4k;
  to->space = from.space;
  to->durable = from.durable;
  for (const Pending& write : from.pending) {
    if (Keeps(cut, write.number, rng))
      to->durable.Set(write.block, write.content);
    else if (cut.damage && !from.torn_at_4k && rng() % 2 == 0)
      to->durable.Set(write.block, Damaged(to->durable.Get(write.block), write.content, rng));
  }
  to->cache = to->durable;
}

// A mapped file is written back when the kernel likes: it holds all, nothing, garbage, or is not
// there.
void SimIo::CutMemories(Rng& rng, SimIo* after) const {
  for (const auto& [path, bytes] : memories_) {
    const uint64_t fate = rng() % 8;
    if (fate == 0) continue;
    auto copy = std::make_shared<std::vector<uint8_t>>(*bytes);
    if (fate < 4) std::fill(copy->begin(), copy->end(), uint8_t{0});
    for (int i = 0; fate == 4 && i < 16; ++i)
      (*copy)[rng() % copy->size()] = static_cast<uint8_t>(rng());
    after->memories_[path] = std::move(copy);
  }
}

std::unique_ptr<SimIo> SimIo::LosePower(const PowerCut& cut, Rng& rng, Fibers* fibers) const {
  auto after = std::make_unique<SimIo>(rng, fibers);
  after->clock_ms_ = clock_ms_;
  after->numbers_ = numbers_;
  after->boot_id_ = "boot-" + std::to_string(rng() >> 32);
  CutMemories(rng, after.get());
  Names names = durable_names_;
  for (const NameChange& change : pending_names_)
    if (Keeps(cut, change.number, rng)) names.Apply(change);
  std::erase_if(names.files,
                [&](const auto& entry) { return !names.dirs.contains(DirOf(entry.first)); });
  for (auto& [path, file] : names.files) {
    auto copy = std::make_shared<FileState>();
    CutFile(*file, cut, rng, copy.get());
    file = std::move(copy);
  }
  if (!names.dirs.contains("pool")) after->memories_.clear();
  after->names_ = names;
  after->durable_names_ = std::move(names);
  return after;
}

std::unique_ptr<SimIo> SimIo::Crash(CrashKind kind, Rng& rng, Fibers* fibers) const {
  if (kind == CrashKind::kPowerLoss) {
    using enum PowerCut::Keep;
    constexpr PowerCut kCuts[] = {
        {kAll, 0, false}, {kNone, 0, false}, {kHalf, 0, true}, {kMost, 0, true}};
    return LosePower(kCuts[rng() % 4], rng, fibers);
  }
  // The page cache lives on, and so does what it still owes the disk.
  auto after = std::make_unique<SimIo>(rng, fibers);
  after->clock_ms_ = clock_ms_;
  after->numbers_ = numbers_;
  after->boot_id_ = boot_id_;
  for (const auto& [path, bytes] : memories_)
    after->memories_[path] = std::make_shared<std::vector<uint8_t>>(*bytes);
  std::map<const FileState*, FilePtr> copies;
  const auto copy_of = [&copies](FilePtr& file) {
    if (!file) return;
    FilePtr& copy = copies[file.get()];
    if (!copy) copy = std::make_shared<FileState>(*file);
    file = copy;
  };
  after->names_ = names_;
  after->durable_names_ = durable_names_;
  after->pending_names_ = pending_names_;
  for (Names* names : {&after->names_, &after->durable_names_})
    for (auto& [path, file] : names->files) copy_of(file);
  for (NameChange& change : after->pending_names_) copy_of(change.file);
  return after;
}

std::vector<uint64_t> SimIo::PendingCalls() const {
  std::set<uint64_t> calls;
  for (const auto& [path, file] : names_.files)
    for (const Pending& write : file->pending) calls.insert(write.number);
  for (const NameChange& change : pending_names_) calls.insert(change.number);
  return {calls.begin(), calls.end()};
}

void SimIo::FlipBit(const std::string& path, uint64_t offset) {
  FileState& state = *names_.files.at(path);
  for (SimImage* image : {&state.cache, &state.durable}) {
    auto next = CopyOfBlock(image->Get(offset / kSimBlock));
    (*next)[offset % kSimBlock] ^= 1;
    image->Set(offset / kSimBlock, std::move(next));
  }
}

void SimIo::Names::Apply(const NameChange& change) {
  if (!change.from.empty()) files.erase(change.from);
  if (change.file)
    files[change.path] = change.file;
  else
    dirs.insert(change.path);
}

Status SimIo::MakeDir(const std::string& path) {
  if (Status status = Begin(IoKind::kMakeDir, path, "creation"); !status.ok()) return status;
  if (names_.dirs.contains(path)) return Status::Ok();
  pending_names_.push_back({++numbers_, "", path, nullptr});
  names_.Apply(pending_names_.back());
  return Status::Ok();
}

bool SimIo::Exists(const std::string& path) {
  return names_.files.contains(path) || memories_.contains(path);
}

Result<std::unique_ptr<File>> SimIo::OpenFile(const std::string& path, const OpenOptions& options) {
  if (Status status = Begin(IoKind::kOpen, path, "open"); !status.ok()) return status;
  auto it = names_.files.find(path);
  if (it == names_.files.end()) {
    if (!options.create)
      return Status(Code::kIo, "open of " + path + " failed: No such file or directory");
    auto file = std::make_shared<FileState>();
    file->torn_at_4k = path.ends_with("tracks");
    pending_names_.push_back({++numbers_, "", path, file});
    it = names_.files.emplace(path, std::move(file)).first;
  }
  return std::unique_ptr<File>(std::make_unique<SimFile>(path, *this, it->second, options.direct));
}

Status SimIo::Rename(const std::string& from, const std::string& to) {
  if (Status status = Begin(IoKind::kRename, from, "rename"); !status.ok()) return status;
  pending_names_.push_back({++numbers_, from, to, names_.files.at(from)});
  names_.Apply(pending_names_.back());
  return Status::Ok();
}

Status SimIo::SyncDir(const std::string& path) {
  if (Status status = Begin(IoKind::kSyncDir, path, "fsync"); !status.ok()) return status;
  const std::string dir = Normal(path);
  std::erase_if(pending_names_, [&](const NameChange& change) {
    if (DirOf(change.path) != dir) return false;
    durable_names_.Apply(change);
    return true;
  });
  return Status::Ok();
}

Result<std::shared_ptr<void>> SimIo::Lock(const std::string& path) {
  if (!locks_[path].expired()) return Status(Code::kLocked, path + " is locked");
  auto held = std::shared_ptr<void>(std::make_shared<int>(0));
  locks_[path] = held;
  return held;
}

Result<std::unique_ptr<SharedMemory>> SimIo::MapShared(const std::string& path, size_t size) {
  if (Status status = Begin(IoKind::kMap, path, "mapping"); !status.ok()) return status;
  auto& bytes = memories_[path];
  if (!bytes) bytes = std::make_shared<std::vector<uint8_t>>();
  bytes->resize(size);
  return std::unique_ptr<SharedMemory>(std::make_unique<SimMemory>(bytes));
}

Result<std::unique_ptr<SharedMemory>> SimIo::ReadShared(const std::string& path, size_t size) {
  const auto it = memories_.find(path);
  if (it == memories_.end())
    return Status(Code::kIo, "open of " + path + " failed: No such file or directory");
  auto bytes = std::make_shared<std::vector<uint8_t>>(*it->second);
  bytes->resize(size);
  return std::unique_ptr<SharedMemory>(std::make_unique<SimMemory>(std::move(bytes)));
}

std::string SimIo::NewUuid() {
  char text[40];
  std::snprintf(text, sizeof text, "%016lx-%016lx", rng_(), rng_());
  return text;
}

// Few tasks, so that requests also wait for one.
Result<std::unique_ptr<IoQueue>> SimIo::MakeQueue(IoBackend) {
  return std::unique_ptr<IoQueue>(std::make_unique<TaskQueue>(*this, 3));
}

std::unique_ptr<Task> SimIo::Spawn(const char* name, std::function<void()> body) {
  if (fibers_ == nullptr) return std::make_unique<SleepingTask>();
  return std::make_unique<FiberTask>(*fibers_, fibers_->Spawn(name, std::move(body)));
}

}  // namespace flashlun
