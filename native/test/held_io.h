// HeldIo: ThreadIo whose checkpoint files can be held: their writes wait until Release. For tests
// of what happens while a checkpoint is slow.
#pragma once

#include <atomic>
#include <memory>
#include <string>
#include <utility>

#include "core/io.h"
#include "core/sync.h"
#include "core/thread_io.h"

namespace flashlun {

class HeldIo final : public Io {
 public:
  void Hold() { held_.store(true); }
  void Release() { held_.store(false); }

  Status MakeDir(const std::string& path) override { return io_->MakeDir(path); }
  bool Exists(const std::string& path) override { return io_->Exists(path); }
  Result<std::unique_ptr<File>> OpenFile(const std::string& path, bool create) override {
    Result<std::unique_ptr<File>> file = io_->OpenFile(path, create);
    if (!file.ok() || path.find("/checkpoint-") == std::string::npos) return file;
    return std::unique_ptr<File>(std::make_unique<HeldFile>(std::move(file.value()), held_));
  }
  Status Rename(const std::string& from, const std::string& to) override {
    return io_->Rename(from, to);
  }
  Status SyncDir(const std::string& path) override { return io_->SyncDir(path); }
  Result<std::shared_ptr<void>> Lock(const std::string& path) override { return io_->Lock(path); }
  Result<std::unique_ptr<SharedMemory>> MapShared(const std::string& path, size_t size) override {
    return io_->MapShared(path, size);
  }
  std::string BootId() override { return io_->BootId(); }
  std::string NewUuid() override { return io_->NewUuid(); }
  int64_t UnixMs() override { return io_->UnixMs(); }
  std::unique_ptr<Task> Spawn(const char* name, std::function<void()> body) override {
    return io_->Spawn(name, std::move(body));
  }

 private:
  class HeldFile final : public File {
   public:
    HeldFile(std::unique_ptr<File> file, const std::atomic<bool>& held)
        : File(file->path()), file_(std::move(file)), held_(held) {}
    Status Pread(uint64_t offset, void* buf, size_t len) override {
      return file_->Pread(offset, buf, len);
    }
    Status PreadNoWait(uint64_t offset, void* buf, size_t len) override {
      return file_->PreadNoWait(offset, buf, len);
    }
    Status Pwrite(uint64_t offset, const void* buf, size_t len) override {
      for (unsigned round = 0; held_.load(); ++round) PollPause(round);
      return file_->Pwrite(offset, buf, len);
    }
    Status Fdatasync() override { return file_->Fdatasync(); }
    void DropCache() override { file_->DropCache(); }
    Result<uint64_t> Size() override { return file_->Size(); }
    Status Truncate(uint64_t size) override { return file_->Truncate(size); }

   private:
    const std::unique_ptr<File> file_;
    const std::atomic<bool>& held_;
  };

  std::unique_ptr<Io> io_ = MakeThreadIo();
  std::atomic<bool> held_{false};
};

}  // namespace flashlun
