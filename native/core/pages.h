// PageStore: the 4 KiB pages of the meta file in which checkpoints live.
//
// Copy on write: a page that the current or the previous checkpoint uses is never written. Which
// pages are free is derived from those two checkpoints, never stored. A checkpoint takes its pages
// with Allocate; they count as used from then on, and are given back with Free when no checkpoint
// that can still be opened uses them.
//
// The area grows behind the journal ring as it is needed, in steps whose space is reserved first
// (File::Allocate): a full file system refuses a checkpoint before anything of it was written.
//
// Thread safety: none; the checkpoint task owns it (Open before that).
#pragma once

#include <cstdint>
#include <vector>

#include "core/io.h"
#include "core/status.h"

namespace flashlun {

inline constexpr size_t kPageBytes = 4096;

class PageStore {
 public:
  // Pages begin at byte `offset` of `file`.
  PageStore(File& file, uint64_t offset) : file_(file), offset_(offset) {}

  // Marks pages of a loaded checkpoint. False when one of them is used already or out of range.
  bool MarkUsed(uint64_t page, uint64_t count);

  // The first of `count` consecutive free pages, now used; grows the area when there are none.
  // kNoSpace, kIo.
  Result<uint64_t> Allocate(uint64_t count);
  void Free(uint64_t page, uint64_t count);
  // Keeps `pages` free ones in stock, so that a checkpoint does not meet a full file system.
  Status Reserve(uint64_t pages);

  Status Read(uint64_t page, void* buf, uint64_t count) {
    return file_.Pread(offset_ + page * kPageBytes, buf, count * kPageBytes);
  }
  Status Write(uint64_t page, const void* buf, uint64_t count) {
    return file_.Pwrite(offset_ + page * kPageBytes, buf, count * kPageBytes);
  }
  // Everything written so far is on the disk.
  Status Sync() { return file_.Fdatasync(); }

  uint64_t used_pages() const { return used_; }
  uint64_t total_pages() const { return used_bits_.size(); }
  const File& file() const { return file_; }

 private:
  Status Grow(uint64_t pages);
  uint64_t FindRun(uint64_t from, uint64_t to, uint64_t count) const;

  File& file_;
  const uint64_t offset_;
  std::vector<bool> used_bits_;
  uint64_t used_ = 0;
  uint64_t cursor_ = 0;  // next-fit: a checkpoint's pages end up side by side
};

}  // namespace flashlun
