#include "fuzz/memory_io.h"

#include <algorithm>
#include <cstring>
#include <thread>

#include "core/task_queue.h"

namespace flashlun {

namespace {

// Offsets that a damaged map could ask for are far beyond what fits into memory.
constexpr uint64_t kMostBytes = uint64_t{256} << 20;

Status TooLarge(const std::string& path) {
  return Status(Code::kNoSpace, path + " would be larger than the fuzz targets allow");
}

class OrdinaryMemory final : public SharedMemory {
 public:
  explicit OrdinaryMemory(std::shared_ptr<MemoryIo::Bytes> bytes) : bytes_(std::move(bytes)) {}
  uint8_t* data() override { return bytes_->data(); }
  size_t size() const override { return bytes_->size(); }

 private:
  std::shared_ptr<MemoryIo::Bytes> bytes_;
};

class ThreadTask final : public Task {
 public:
  explicit ThreadTask(std::function<void()> body) : thread_(std::move(body)) {}
  ~ThreadTask() override { Join(); }
  void Join() override {
    if (thread_.joinable()) thread_.join();
  }

 private:
  std::thread thread_;
};

}  // namespace

struct MemoryIo::Shared {
  std::mutex mutex;
  std::map<std::string, std::shared_ptr<Content>> files;  // a rename moves the inner pointer
  std::map<std::string, Content> memories;
  int64_t clock_ms = 1'000'000;
  uint64_t uuids = 0;
};

class MemoryFile final : public File {
 public:
  MemoryFile(std::string path, std::shared_ptr<MemoryIo::Shared> shared,
             std::shared_ptr<MemoryIo::Content> content)
      : File(std::move(path)), shared_(std::move(shared)), content_(std::move(content)) {}

  Status Pread(uint64_t offset, void* buf, size_t len) override {
    const std::lock_guard lock(shared_->mutex);
    const MemoryIo::Bytes& bytes = **content_;
    const uint64_t have =
        offset < bytes.size() ? std::min<uint64_t>(len, bytes.size() - offset) : 0;
    if (have != 0) std::memcpy(buf, bytes.data() + offset, have);
    if (have < len) std::memset(static_cast<uint8_t*>(buf) + have, 0, len - have);
    return Status::Ok();
  }
  Status PreadNoWait(uint64_t offset, void* buf, size_t len) override {
    return Pread(offset, buf, len);
  }
  Status Pwrite(uint64_t offset, const void* buf, size_t len) override {
    if (offset > kMostBytes || len > kMostBytes - offset) return TooLarge(path());
    const std::lock_guard lock(shared_->mutex);
    if (len == 0) return Status::Ok();
    MemoryIo::Bytes& bytes = Own();
    if (bytes.size() < offset + len) bytes.resize(offset + len);
    std::memcpy(bytes.data() + offset, buf, len);
    return Status::Ok();
  }
  Status Fdatasync() override { return Status::Ok(); }
  Status Allocate(uint64_t offset, uint64_t len) override {
    if (offset > kMostBytes || len > kMostBytes - offset) return TooLarge(path());
    const std::lock_guard lock(shared_->mutex);
    if ((*content_)->size() < offset + len) Own().resize(offset + len);
    return Status::Ok();
  }
  Status Discard(uint64_t, uint64_t) override { return Status::Ok(); }
  void StartWriteOut(uint64_t, uint64_t) override {}
  void DropCache() override {}
  Result<uint64_t> Size() override {
    const std::lock_guard lock(shared_->mutex);
    return uint64_t{(*content_)->size()};
  }
  Status Truncate(uint64_t size) override {
    if (size > kMostBytes) return TooLarge(path());
    const std::lock_guard lock(shared_->mutex);
    Own().resize(size);
    return Status::Ok();
  }

 private:
  // The content, no longer shared with a copy of the machine. Needs the lock.
  MemoryIo::Bytes& Own() {
    if (content_->use_count() > 1) *content_ = std::make_shared<MemoryIo::Bytes>(**content_);
    return **content_;
  }

  std::shared_ptr<MemoryIo::Shared> shared_;
  std::shared_ptr<MemoryIo::Content> content_;
};

MemoryIo::MemoryIo() : shared_(std::make_shared<Shared>()) {}
MemoryIo::~MemoryIo() = default;

std::unique_ptr<MemoryIo> MemoryIo::Copy() const {
  auto copy = std::make_unique<MemoryIo>();
  const std::lock_guard lock(shared_->mutex);
  for (const auto& [path, content] : shared_->files)
    copy->shared_->files.emplace(path, std::make_shared<Content>(*content));
  for (const auto& [path, content] : shared_->memories)
    copy->shared_->memories.emplace(path, std::make_shared<Bytes>(*content));
  copy->shared_->clock_ms = shared_->clock_ms;
  copy->shared_->uuids = shared_->uuids;
  return copy;
}

std::vector<std::string> MemoryIo::Paths() const {
  const std::lock_guard lock(shared_->mutex);
  std::vector<std::string> paths;
  for (const auto& [path, content] : shared_->files) paths.push_back(path);
  for (const auto& [path, content] : shared_->memories) paths.push_back(path);
  std::sort(paths.begin(), paths.end());
  return paths;
}

MemoryIo::Bytes MemoryIo::ContentOf(const std::string& path) const {
  const std::lock_guard lock(shared_->mutex);
  const auto file = shared_->files.find(path);
  return file != shared_->files.end() ? **file->second : *shared_->memories.at(path);
}

void MemoryIo::Replace(const std::string& path, Bytes content) {
  const std::lock_guard lock(shared_->mutex);
  auto bytes = std::make_shared<Bytes>(std::move(content));
  if (const auto memory = shared_->memories.find(path); memory != shared_->memories.end())
    memory->second = std::move(bytes);
  else
    shared_->files[path] = std::make_shared<Content>(std::move(bytes));
}

Status MemoryIo::MakeDir(const std::string&) { return Status::Ok(); }

bool MemoryIo::Exists(const std::string& path) {
  const std::lock_guard lock(shared_->mutex);
  return shared_->files.contains(path) || shared_->memories.contains(path);
}

Result<std::unique_ptr<File>> MemoryIo::OpenFile(const std::string& path,
                                                 const OpenOptions& options) {
  const std::lock_guard lock(shared_->mutex);
  auto it = shared_->files.find(path);
  if (it == shared_->files.end()) {
    if (!options.create)
      return Status(Code::kIo, "open of " + path + " failed: No such file or directory");
    auto content = std::make_shared<Content>(std::make_shared<Bytes>());
    it = shared_->files.emplace(path, std::move(content)).first;
  }
  return std::unique_ptr<File>(std::make_unique<MemoryFile>(path, shared_, it->second));
}

Status MemoryIo::Rename(const std::string& from, const std::string& to) {
  const std::lock_guard lock(shared_->mutex);
  shared_->files[to] = shared_->files.at(from);
  shared_->files.erase(from);
  return Status::Ok();
}

Status MemoryIo::SyncDir(const std::string&) { return Status::Ok(); }

Result<std::shared_ptr<void>> MemoryIo::Lock(const std::string&) {
  return std::shared_ptr<void>(std::make_shared<int>(0));
}

Result<std::unique_ptr<SharedMemory>> MemoryIo::MapShared(const std::string& path, size_t size) {
  if (size > kMostBytes) return TooLarge(path);
  const std::lock_guard lock(shared_->mutex);
  Content& bytes = shared_->memories[path];
  if (!bytes) bytes = std::make_shared<Bytes>();
  bytes->resize(size);
  return std::unique_ptr<SharedMemory>(std::make_unique<OrdinaryMemory>(bytes));
}

std::string MemoryIo::BootId() { return "boot-of-the-fuzz-target"; }

std::string MemoryIo::NewUuid() {
  const std::lock_guard lock(shared_->mutex);
  char text[40];
  std::snprintf(text, sizeof text, "00000000-0000-4000-8000-%012llx",
                static_cast<unsigned long long>(++shared_->uuids));
  return text;
}

int64_t MemoryIo::UnixMs() {
  const std::lock_guard lock(shared_->mutex);
  return ++shared_->clock_ms;
}

Result<std::unique_ptr<IoQueue>> MemoryIo::MakeQueue(IoBackend) {
  return std::unique_ptr<IoQueue>(std::make_unique<TaskQueue>(*this, 1));
}

std::unique_ptr<Task> MemoryIo::Spawn(const char*, std::function<void()> body) {
  return std::make_unique<ThreadTask>(std::move(body));
}

}  // namespace flashlun
