// HeldIo: checkpoint pages can be held: their writes wait until Release. For tests of what happens
// while a checkpoint is slow. Or they fail, from some superblock on.
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
  // Once so many superblocks have been written, the pages cannot be.
  void FailPagesAfter(int superblocks, uint64_t journal_blocks) {
    failing_from_ = PagesOffset(journal_blocks);
    superblocks_left_ = superblocks;
  }

 private:
  class HeldFile final : public ForwardingFile {
   public:
    HeldFile(std::unique_ptr<File> file, HeldIo& io) : ForwardingFile(std::move(file)), io_(io) {}
    Status Pwrite(uint64_t offset, const void* buf, size_t len) override {
      for (unsigned round = 0; offset >= io_.held_from_.load(); ++round) PollPause(round);
      if (offset == kSuperblockOffsets[kSuperblockCopies - 1]) --io_.superblocks_left_;
      if (offset >= io_.failing_from_ && io_.superblocks_left_ <= 0)
        return Status(Code::kIo, path() + ": no page can be written");
      return ForwardingFile::Pwrite(offset, buf, len);
    }

   private:
    HeldIo& io_;
  };

  std::unique_ptr<File> Wrap(std::unique_ptr<File> file) override {
    if (!file->path().ends_with("/meta")) return file;
    return std::make_unique<HeldFile>(std::move(file), *this);
  }

  std::atomic<uint64_t> held_from_{UINT64_MAX};
  uint64_t failing_from_ = UINT64_MAX;
  std::atomic<int> superblocks_left_{0};
};

}  // namespace flashlun
