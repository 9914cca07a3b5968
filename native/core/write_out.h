// WriteOut: pushes dirty pages of the tracks to the disk steadily, so that a FLUSH after a long
// burst of buffered writes finds little left to do. Only for the cache mode writeback.
//
// A task of its own: sync_file_range waits when the disk's queue is full, and a write must not.
// Nothing depends on it for durability; an error shows in the next fdatasync (T12).
//
// Thread safety: Wrote from any thread.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>

#include "core/io.h"
#include "core/sync.h"

namespace flashlun {

class WriteOut {
 public:
  // Begins to write out whenever `every` bytes (a power of two) more have been written.
  // `begin` starts the write-out of all that is dirty.
  WriteOut(Io& io, std::function<void()> begin, uint64_t every);
  // Ends the task; what it has begun goes on in the kernel.
  ~WriteOut();
  WriteOut(const WriteOut&) = delete;
  WriteOut& operator=(const WriteOut&) = delete;

  // `len` bytes have been written to the page cache. One relaxed addition, nearly always.
  void Wrote(size_t len) {
    const uint64_t before = written_.fetch_add(len, std::memory_order_relaxed);
    if ((before ^ (before + len)) >= every_) [[unlikely]]
      Wake();
  }

 private:
  void Wake();
  void Loop();

  const std::function<void()> begin_;
  const uint64_t every_;
  alignas(64) std::atomic<uint64_t> written_{0};

  // Below: guarded by monitor_.
  Monitor monitor_;
  Condition changed_;
  bool wanted_ = false;
  bool stopping_ = false;

  std::unique_ptr<Task> task_;
};

}  // namespace flashlun
