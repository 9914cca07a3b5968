// ForwardingIo, ForwardingFile: ThreadIo, passed through. A test derives from them and changes the
// one thing it is about.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "core/io.h"
#include "core/limits.h"
#include "core/task_queue.h"
#include "core/thread_io.h"

namespace flashlun {

class ForwardingFile : public File {
 public:
  explicit ForwardingFile(std::unique_ptr<File> file)
      : File(file->path()), file_(std::move(file)) {}
  Status Pread(uint64_t offset, void* buf, size_t len) override {
    return file_->Pread(offset, buf, len);
  }
  Status PreadNoWait(uint64_t offset, void* buf, size_t len) override {
    return file_->PreadNoWait(offset, buf, len);
  }
  Status Pwrite(uint64_t offset, const void* buf, size_t len) override {
    return file_->Pwrite(offset, buf, len);
  }
  Status Fdatasync() override { return file_->Fdatasync(); }
  Status Allocate(uint64_t offset, uint64_t len) override { return file_->Allocate(offset, len); }
  Status Discard(uint64_t offset, uint64_t len) override { return file_->Discard(offset, len); }
  void StartWriteOut(uint64_t offset, uint64_t len) override { file_->StartWriteOut(offset, len); }
  void DropCache() override { file_->DropCache(); }
  void Uncache(uint64_t offset, uint64_t len) override { file_->Uncache(offset, len); }
  void WillNeed(uint64_t offset, uint64_t len) override { file_->WillNeed(offset, len); }
  Result<uint64_t> Size() override { return file_->Size(); }
  Status Truncate(uint64_t size) override { return file_->Truncate(size); }
  bool fixed_size() const override { return file_->fixed_size(); }

 private:
  const std::unique_ptr<File> file_;
};

class ForwardingIo : public Io {
 public:
  Status MakeDir(const std::string& path) override { return io_->MakeDir(path); }
  bool Exists(const std::string& path) override { return io_->Exists(path); }
  Result<std::unique_ptr<File>> OpenFile(const std::string& path,
                                         const OpenOptions& options) override {
    Result<std::unique_ptr<File>> file = io_->OpenFile(path, options);
    if (!file.ok()) return file;
    return Wrap(std::move(file.value()));
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
  // Over this Io's files, so that what a test makes of them holds for asynchronous transfers too.
  Result<std::unique_ptr<IoQueue>> MakeQueue(IoBackend) override {
    return std::unique_ptr<IoQueue>(std::make_unique<TaskQueue>(*this, kIoThreads));
  }
  std::unique_ptr<Task> Spawn(const char* name, std::function<void()> body) override {
    return io_->Spawn(name, std::move(body));
  }

 protected:
  // What the engine gets for a file.
  virtual std::unique_ptr<File> Wrap(std::unique_ptr<File> file) { return file; }

 private:
  const std::unique_ptr<Io> io_ = MakeThreadIo();
};

}  // namespace flashlun
