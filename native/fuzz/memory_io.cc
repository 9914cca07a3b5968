#include "fuzz/memory_io.h"

#include <pthread.h>

#include <algorithm>
#include <array>
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

constexpr uint64_t kChunkBytes = 16384;
using Chunk = std::array<uint8_t, kChunkBytes>;

}  // namespace

// The content of a file. A chunk that is not there is zeroes.
struct MemoryIo::Content {
  std::vector<std::shared_ptr<Chunk>> chunks;
  uint64_t size = 0;

  // Calls `part(chunk, within, bytes, done)` for the parts of a range, in order.
  template <typename Part>
  static void ForEach(uint64_t offset, uint64_t length, Part part) {
    for (uint64_t done = 0; done < length;) {
      const uint64_t within = (offset + done) % kChunkBytes;
      const uint64_t bytes = std::min(length - done, kChunkBytes - within);
      part((offset + done) / kChunkBytes, within, bytes, done);
      done += bytes;
    }
  }
  void Resize(uint64_t to) {
    chunks.resize((to + kChunkBytes - 1) / kChunkBytes);
    // What is cut off must not come back when the file grows again.
    if (to < size && to % kChunkBytes != 0 && chunks.back())
      std::memset(Own(to / kChunkBytes).data() + to % kChunkBytes, 0,
                  kChunkBytes - to % kChunkBytes);
    size = to;
  }
  void Read(uint64_t offset, uint8_t* to, uint64_t length) const {
    ForEach(offset, length, [&](uint64_t chunk, uint64_t within, uint64_t bytes, uint64_t done) {
      if (chunk < chunks.size() && chunks[chunk])
        std::memcpy(to + done, chunks[chunk]->data() + within, bytes);
      else
        std::memset(to + done, 0, bytes);
    });
  }
  void Write(uint64_t offset, const uint8_t* from, uint64_t length) {
    if (size < offset + length) Resize(offset + length);
    ForEach(offset, length, [&](uint64_t chunk, uint64_t within, uint64_t bytes, uint64_t done) {
      std::memcpy(Own(chunk).data() + within, from + done, bytes);
    });
  }

 private:
  Chunk& Own(uint64_t index) {
    std::shared_ptr<Chunk>& chunk = chunks[index];
    if (!chunk)
      chunk = std::make_shared<Chunk>();
    else if (chunk.use_count() > 1)
      chunk = std::make_shared<Chunk>(*chunk);
    return *chunk;
  }
};

struct MemoryIo::Shared {
  std::mutex mutex;
  std::map<std::string, std::shared_ptr<Content>> files;
  std::map<std::string, std::shared_ptr<Bytes>> memories;
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
    content_->Read(offset, static_cast<uint8_t*>(buf), len);
    return Status::Ok();
  }
  Status PreadNoWait(uint64_t offset, void* buf, size_t len) override {
    return Pread(offset, buf, len);
  }
  Status Pwrite(uint64_t offset, const void* buf, size_t len) override {
    if (offset > kMostBytes || len > kMostBytes - offset) return TooLarge(path());
    const std::lock_guard lock(shared_->mutex);
    if (len != 0) content_->Write(offset, static_cast<const uint8_t*>(buf), len);
    return Status::Ok();
  }
  Status Fdatasync() override { return Status::Ok(); }
  Status Allocate(uint64_t offset, uint64_t len) override {
    if (offset > kMostBytes || len > kMostBytes - offset) return TooLarge(path());
    const std::lock_guard lock(shared_->mutex);
    if (content_->size < offset + len) content_->Resize(offset + len);
    return Status::Ok();
  }
  Status Discard(uint64_t, uint64_t) override { return Status::Ok(); }
  void StartWriteOut(uint64_t, uint64_t) override {}
  void DropCache() override {}
  Result<uint64_t> Size() override {
    const std::lock_guard lock(shared_->mutex);
    return uint64_t{content_->size};
  }
  Status Truncate(uint64_t size) override {
    if (size > kMostBytes) return TooLarge(path());
    const std::lock_guard lock(shared_->mutex);
    content_->Resize(size);
    return Status::Ok();
  }

 private:
  std::shared_ptr<MemoryIo::Shared> shared_;
  std::shared_ptr<MemoryIo::Content> content_;
};

namespace {

// A store has four threads for some milliseconds, and AddressSanitizer clears the shadow of all of
// a stack, 1 MiB of it for the usual 8.
bool UseSmallStacks() {
  constexpr size_t kStackBytes = 512 << 10;
  pthread_attr_t attributes;
  return ::pthread_attr_init(&attributes) == 0 &&
         ::pthread_attr_setstacksize(&attributes, kStackBytes) == 0 &&
         ::pthread_setattr_default_np(&attributes) == 0;
}

}  // namespace

MemoryIo::MemoryIo() : shared_(std::make_shared<Shared>()) {
  static const bool small = UseSmallStacks();
  (void)small;
}
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
  return RangeOf(path, 0, UINT64_MAX);
}

MemoryIo::Bytes MemoryIo::RangeOf(const std::string& path, uint64_t offset, uint64_t length) const {
  const std::lock_guard lock(shared_->mutex);
  const auto file = shared_->files.find(path);
  const Bytes* memory = file == shared_->files.end() ? shared_->memories.at(path).get() : nullptr;
  const uint64_t size = memory != nullptr ? memory->size() : file->second->size;
  Bytes bytes(offset < size ? std::min(length, size - offset) : 0);
  if (memory != nullptr)
    std::copy_n(memory->begin() + static_cast<std::ptrdiff_t>(std::min(offset, size)), bytes.size(),
                bytes.begin());
  else
    file->second->Read(offset, bytes.data(), bytes.size());
  return bytes;
}

void MemoryIo::Replace(const std::string& path, Bytes content) {
  const std::lock_guard lock(shared_->mutex);
  if (const auto memory = shared_->memories.find(path); memory != shared_->memories.end()) {
    memory->second = std::make_shared<Bytes>(std::move(content));
    return;
  }
  auto file = std::make_shared<Content>();
  file->Write(0, content.data(), content.size());
  shared_->files[path] = std::move(file);
}

void MemoryIo::Overwrite(const std::string& path, uint64_t offset, const Bytes& bytes) {
  const std::lock_guard lock(shared_->mutex);
  const auto within = [&](uint64_t size) {
    return offset < size ? std::min<uint64_t>(bytes.size(), size - offset) : 0;
  };
  if (const auto memory = shared_->memories.find(path); memory != shared_->memories.end())
    std::copy_n(bytes.begin(), within(memory->second->size()),
                memory->second->begin() + static_cast<std::ptrdiff_t>(offset));
  else if (const auto& file = shared_->files.at(path); within(file->size) != 0)
    file->Write(offset, bytes.data(), within(file->size));
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
    it = shared_->files.emplace(path, std::make_shared<Content>()).first;
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
  std::shared_ptr<Bytes>& bytes = shared_->memories[path];
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
