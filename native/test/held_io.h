// HeldIo: checkpoint files can be held: their writes wait until Release. For tests of what happens
// while a checkpoint is slow.
#pragma once

#include <atomic>
#include <memory>
#include <string>
#include <utility>

#include "core/sync.h"
#include "test/forwarding_io.h"

namespace flashlun {

class HeldIo : public ForwardingIo {
 public:
  void Hold() { held_.store(true); }
  void Release() { held_.store(false); }

 private:
  class HeldFile final : public ForwardingFile {
   public:
    HeldFile(std::unique_ptr<File> file, const std::atomic<bool>& held)
        : ForwardingFile(std::move(file)), held_(held) {}
    Status Pwrite(uint64_t offset, const void* buf, size_t len) override {
      for (unsigned round = 0; held_.load(); ++round) PollPause(round);
      return ForwardingFile::Pwrite(offset, buf, len);
    }

   private:
    const std::atomic<bool>& held_;
  };

  std::unique_ptr<File> Wrap(std::unique_ptr<File> file) override {
    if (file->path().find("/checkpoint-") == std::string::npos) return file;
    return std::make_unique<HeldFile>(std::move(file), held_);
  }

  std::atomic<bool> held_{false};
};

}  // namespace flashlun
