// WriteOut: pushes dirty pages of the tracks to the disk steadily, so that a FLUSH after a long
// burst of buffered writes finds little left to do. Only for the cache mode writeback.
//
// A task of its own: sync_file_range waits when the disk's queue is full, and a write need not. But
// writers that stay faster than the disk would leave the whole page cache to the next FLUSH, so
// they wait once they are a limit ahead of what the task has handed to the disk. A FLUSH is then
// bounded by the limit, whatever was written before. Nothing depends on it for durability; an error
// shows in the next fdatasync (T12).
//
// Thread safety: Wrote and Pace from any thread.
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
  // Begins to write out whenever `every` bytes (a power of two) more have been written; writers may
  // be `limit` bytes (more than `every`) ahead of it. `begin` starts the write-out of all that is
  // dirty, and waits as long as the disk takes no more.
  WriteOut(Io& io, std::function<void()> begin, uint64_t every, uint64_t limit);
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

  // Before a write: waits while the writers are too far ahead. Outside every epoch, no locks held.
  void Pace() {
    if (written_.load(std::memory_order_relaxed) - handed_.load(std::memory_order_relaxed) > limit_)
        [[unlikely]]
      Wait();
  }
  // How often a write had to wait.
  uint64_t waits() const { return waits_.load(std::memory_order_relaxed); }

 private:
  void Wake();
  void Wait();
  void Loop();

  const std::function<void()> begin_;
  const uint64_t every_;
  const uint64_t limit_;
  alignas(64) std::atomic<uint64_t> written_{0};
  // Of `written_`, what a round that has ended began with. Read beside it by every writer, changed
  // once a round.
  alignas(64) std::atomic<uint64_t> handed_{0};
  std::atomic<uint64_t> waits_{0};

  // Below: guarded by monitor_.
  Monitor monitor_;
  Condition changed_;         // the task's
  Condition handed_changed_;  // the writers'
  bool wanted_ = false;
  bool stopping_ = false;

  std::unique_ptr<Task> task_;
};

}  // namespace flashlun
