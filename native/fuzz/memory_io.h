// MemoryIo: files and shared memory in ordinary memory, for the fuzz targets. Nothing is ever
// lost and nothing fails: what is fuzzed is what the bytes say, not how the disk behaves.
//
// A copy shares the content of files, chunk by chunk, until one of the two writes to it, and what
// was never written takes no memory, so a pool image is cheap to start from again and again.
//
// Thread safety: as Io says; one lock for everything.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "core/io.h"

namespace flashlun {

class MemoryIo final : public Io {
 public:
  using Bytes = std::vector<uint8_t>;

  MemoryIo();
  ~MemoryIo() override;

  // Another machine with the same files, the same boot and the same clock.
  std::unique_ptr<MemoryIo> Copy() const;
  // In order of their names; the kill ring's memory is among them.
  std::vector<std::string> Paths() const;
  Bytes ContentOf(const std::string& path) const;
  // Up to `length` bytes of it.
  Bytes RangeOf(const std::string& path, uint64_t offset, uint64_t length) const;
  void Replace(const std::string& path, Bytes content);
  // Bytes behind the end are left out.
  void Overwrite(const std::string& path, uint64_t offset, const Bytes& bytes);

  Status MakeDir(const std::string& path) override;
  bool Exists(const std::string& path) override;
  Result<std::unique_ptr<File>> OpenFile(const std::string& path,
                                         const OpenOptions& options) override;
  Status Rename(const std::string& from, const std::string& to) override;
  Status SyncDir(const std::string& path) override;
  Result<std::shared_ptr<void>> Lock(const std::string& path) override;
  // Refuses sizes that no pool asks for, as a file system would.
  Result<std::unique_ptr<SharedMemory>> MapShared(const std::string& path, size_t size) override;
  std::string BootId() override;
  std::string NewUuid() override;
  int64_t UnixMs() override;
  Result<std::unique_ptr<IoQueue>> MakeQueue(IoBackend backend) override;
  std::unique_ptr<Task> Spawn(const char* name, std::function<void()> body) override;

 private:
  friend class MemoryFile;
  struct Content;
  struct Shared;  // the lock and the files: outlives this while a file is open
  std::shared_ptr<Shared> shared_;
};

}  // namespace flashlun
