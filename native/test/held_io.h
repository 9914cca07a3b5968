// HeldIo: checkpoint pages can be held: their writes wait until Release. For tests of what happens
// while a checkpoint is slow.
#pragma once

#include <atomic>
#include <memory>
#include <string>
#include <utility>

#include "core/superblock.h"
#include "core/sync.h"
#include "test/forwarding_io.h"

namespace flashlun {

class HeldIo : public ForwardingIo {
 public:
  // Holds the pages of a pool with a journal of so many blocks.
  void Hold(uint64_t journal_blocks) { held_from_.store(PagesOffset(journal_blocks)); }
  void Release() { held_from_.store(UINT64_MAX); }

 private:
  class HeldFile final : public ForwardingFile {
   public:
    HeldFile(std::unique_ptr<File> file, const std::atomic<uint64_t>& held_from)
        : ForwardingFile(std::move(file)), held_from_(held_from) {}
    Status Pwrite(uint64_t offset, const void* buf, size_t len) override {
      for (unsigned round = 0; offset >= held_from_.load(); ++round) PollPause(round);
      return ForwardingFile::Pwrite(offset, buf, len);
    }

   private:
    const std::atomic<uint64_t>& held_from_;
  };

  std::unique_ptr<File> Wrap(std::unique_ptr<File> file) override {
    if (!file->path().ends_with("/meta")) return file;
    return std::make_unique<HeldFile>(std::move(file), held_from_);
  }

  std::atomic<uint64_t> held_from_{UINT64_MAX};
};

}  // namespace flashlun
