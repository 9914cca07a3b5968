// Io: the only way native/core reaches files, memory that outlives the process, clocks and threads.
//
// Two implementations: ThreadIo (thread_io.h, buffered files, system threads) and SimIo
// (../test/sim_io.h, a simulated disk and cooperative fibers). Because the engine itself is the
// same code over both, the simulation tests what ships.
//
// Thread safety: every method may be called from any thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/status.h"

namespace flashlun {

// What direct I/O wants offsets, lengths and memory to be multiples of: the largest logical block
// of the disks there are.
inline constexpr size_t kDirectAlign = 4096;

struct OpenOptions {
  bool create = false;  // made when missing
  // O_DIRECT: past the page cache (cache mode `none`). Offset and length of a Pwrite are then
  // multiples of kDirectAlign; reads and all memory may be anything. kInvalid where the file system
  // does not have it.
  bool direct = false;
  bool read_only = false;  // nothing is ever written through it (pool check)
  bool exclusive = false;  // kLocked for a block device that is mounted or otherwise in use
};

// An open file or block device. Offsets and lengths are bytes. Short transfers are completed inside
// or reported as errors.
class File {
 public:
  virtual ~File() = default;
  // Fills buf; bytes beyond the end of the file read as zero (track files are sparse).
  virtual Status Pread(uint64_t offset, void* buf, size_t len) = 0;
  // As Pread, but returns kWouldBlock when it would have to wait for the disk.
  virtual Status PreadNoWait(uint64_t offset, void* buf, size_t len) = 0;
  // All of it is in the page cache (survives SIGKILL) when this returns OK. kNoSpace, kIo.
  virtual Status Pwrite(uint64_t offset, const void* buf, size_t len) = 0;
  // All completed writes survive power loss when this returns OK.
  virtual Status Fdatasync() = 0;
  // The range has its space: a later Pwrite into it cannot run out of it. Content does not change;
  // the file grows when the range ends behind it. kNoSpace: nothing is promised.
  virtual Status Allocate(uint64_t offset, uint64_t len) = 0;
  // Gives the space of the range back where the file system can; its content is then undefined
  // (zeroes or what was there). A hint: OK when it cannot.
  virtual Status Discard(uint64_t offset, uint64_t len) = 0;
  // Begins to write the range's dirty pages to the disk (len 0: to the end of the file), so that
  // the next Fdatasync is short. Waits only while the disk takes no more. A hint.
  virtual void StartWriteOut(uint64_t offset, uint64_t len) = 0;
  // Later reads come from the disk, not from what is cached of it. After Fdatasync.
  virtual void DropCache() = 0;
  // The same for a range, without a flush: what is dirty stays. A hint.
  virtual void Uncache(uint64_t /*offset*/, uint64_t /*len*/) {}
  // The range will be read soon: a hint to bring it into the page cache. Does not wait for it.
  virtual void WillNeed(uint64_t /*offset*/, uint64_t /*len*/) {}
  virtual Result<uint64_t> Size() = 0;
  virtual Status Truncate(uint64_t size) = 0;
  // A block device: its size cannot be changed.
  virtual bool fixed_size() const { return false; }
  const std::string& path() const { return path_; }

 protected:
  explicit File(std::string path) : path_(std::move(path)) {}

 private:
  std::string path_;
};

// A MAP_SHARED mapping of a file: what is stored there survives SIGKILL, not power loss.
class SharedMemory {
 public:
  virtual ~SharedMemory() = default;
  virtual uint8_t* data() = 0;
  virtual size_t size() const = 0;
};

// A system thread or a fiber; Join waits for its function to return.
class Task {
 public:
  virtual ~Task() = default;
  virtual void Join() = 0;
};

// One asynchronous transfer. The submitter's object; it stays, with its memory, until Done ran.
class IoRequest {
 public:
  enum class Kind : uint8_t { kRead, kWrite };
  virtual ~IoRequest() = default;
  // The transfer has ended: whole, as by Pread or Pwrite, or with an error. Runs on a thread of the
  // queue, never inside Submit. Must not block. May submit again; may end the object's life.
  virtual void Done(const Status& status) = 0;

  Kind kind = Kind::kRead;
  File* file = nullptr;
  uint64_t offset = 0;
  void* buf = nullptr;
  size_t len = 0;
  IoRequest* next = nullptr;  // link of the queue
};

// Carries out transfers, many at once, in any order. The destructor waits for all of them.
class IoQueue {
 public:
  virtual ~IoQueue() = default;
  // Any thread. Never waits for the disk.
  virtual void Submit(IoRequest* request) = 0;
  // Which backend: "io_uring" or "threads".
  virtual const char* name() const = 0;
  // Empty, or why it is not the backend that kAuto would rather have had.
  virtual const std::string& note() const = 0;
};

enum class IoBackend : uint8_t { kAuto, kThreads, kUring };

class Io {
 public:
  virtual ~Io() = default;
  // Makes the directory when missing (one level). OK when it exists.
  virtual Status MakeDir(const std::string& path) = 0;
  virtual bool Exists(const std::string& path) = 0;
  virtual Result<std::unique_ptr<File>> OpenFile(const std::string& path,
                                                 const OpenOptions& options) = 0;
  // Replaces `to` atomically; durable after SyncDir.
  virtual Status Rename(const std::string& from, const std::string& to) = 0;
  // Makes entries of the directory durable (created files, renames).
  virtual Status SyncDir(const std::string& path) = 0;
  // Exclusive lock held until the returned object dies; kLocked when another process (or Store) has
  // it.
  virtual Result<std::shared_ptr<void>> Lock(const std::string& path) = 0;
  virtual Result<std::unique_ptr<SharedMemory>> MapShared(const std::string& path, size_t size) = 0;
  // A private copy of what MapShared would show; makes and changes nothing.
  virtual Result<std::unique_ptr<SharedMemory>> ReadShared(const std::string& path, size_t size);
  // Changes with every boot of the machine, never during one.
  virtual std::string BootId() = 0;
  // 36 characters, never the same twice.
  virtual std::string NewUuid() = 0;
  virtual int64_t UnixMs() = 0;
  // For files of this Io. kInvalid: kUring where it is missing or forbidden; says why.
  virtual Result<std::unique_ptr<IoQueue>> MakeQueue(IoBackend backend) = 0;
  virtual std::unique_ptr<Task> Spawn(const char* name, std::function<void()> body) = 0;
};

// Memory of this process only.
class HeapMemory final : public SharedMemory {
 public:
  explicit HeapMemory(size_t size) : bytes_(size) {}
  uint8_t* data() override { return bytes_.data(); }
  size_t size() const override { return bytes_.size(); }

 private:
  std::vector<uint8_t> bytes_;
};

inline Result<std::unique_ptr<SharedMemory>> Io::ReadShared(const std::string& path, size_t size) {
  Result<std::unique_ptr<File>> file = OpenFile(path, {.read_only = true});
  if (!file.ok()) return file.TakeStatus();
  auto memory = std::make_unique<HeapMemory>(size);
  if (Status status = file.value()->Pread(0, memory->data(), size); !status.ok()) return status;
  return std::unique_ptr<SharedMemory>(std::move(memory));
}

}  // namespace flashlun
