// ThreadFile: a file of the operating system, through the page cache or past it.
//
//   buffered  the page cache plays the ESS cache (track-store.md 3.0, cache mode writeback). A
//             completed pwrite survives SIGKILL because the page cache belongs to the kernel
//   direct    O_DIRECT (cache mode none). The device has the bytes when pwrite returns, in its
//             volatile cache at least, so fdatasync is needed all the same (trap T14)
//
// Direct transfers have rules for offset, length and memory. Reads may ask for anything: what does
// not fit goes through a bounce buffer. Writes must be whole 4 KiB blocks: completing a block here
// would be a read-merge-write without the engine's track lock.
#pragma once

#include <atomic>
#include <string>

#include "core/io.h"

namespace flashlun {

// The Status of a failed call on `path`: kNoSpace or kIo, with the system's words.
Status FromErrno(int error, const std::string& path, const char* what);

class ThreadFile final : public File {
 public:
  // Takes over fd, which was opened with O_DIRECT if `direct`; `device`: of a block device.
  ThreadFile(std::string path, int fd, bool direct, bool device);
  ~ThreadFile() override;
  ThreadFile(const ThreadFile&) = delete;
  ThreadFile& operator=(const ThreadFile&) = delete;

  Status Pread(uint64_t offset, void* buf, size_t len) override;
  Status PreadNoWait(uint64_t offset, void* buf, size_t len) override;
  Status Pwrite(uint64_t offset, const void* buf, size_t len) override;
  Status Fdatasync() override;
  Status Allocate(uint64_t offset, uint64_t len) override;
  Status Discard(uint64_t offset, uint64_t len) override;
  void StartWriteOut(uint64_t offset, uint64_t len) override;
  void DropCache() override;
  void Uncache(uint64_t offset, uint64_t len) override;
  void WillNeed(uint64_t offset, uint64_t len) override;
  Result<uint64_t> Size() override;
  Status Truncate(uint64_t size) override;
  bool fixed_size() const override { return device_; }

  int fd() const { return fd_; }
  // Whether a transfer may go to the kernel as it is.
  bool Fits(uint64_t offset, const void* buf, size_t len) const {
    return !direct_ || ((offset | len | reinterpret_cast<uintptr_t>(buf)) % kDirectAlign) == 0;
  }
  // Whether a read that gave only `got` bytes, up to `offset`, ended at the end of the file.
  Result<bool> EndedAt(uint64_t offset, size_t got);

 private:
  Status ReadWhole(uint64_t offset, uint8_t* buf, size_t len);
  Status WriteWhole(uint64_t offset, const uint8_t* buf, size_t len);
  Status BouncedRead(uint64_t offset, uint8_t* buf, size_t len);
  Status BouncedWrite(uint64_t offset, const uint8_t* buf, size_t len);

  const int fd_;
  const bool direct_;
  const bool device_;
  std::atomic<bool> nowait_;
};

}  // namespace flashlun
