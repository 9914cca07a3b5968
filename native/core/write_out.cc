#include "core/write_out.h"

#include "core/check.h"

namespace flashlun {

WriteOut::WriteOut(Io& io, std::function<void()> begin, uint64_t every, uint64_t limit)
    : begin_(std::move(begin)), every_(every), limit_(limit) {
  FL_CHECK(limit > every);  // or a writer waits for a round that nobody has asked for
  task_ = io.Spawn("fl-writeout", [this] { Loop(); });
}

WriteOut::~WriteOut() {
  {
    auto lock = monitor_.Acquire();
    stopping_ = true;
    changed_.NotifyAll();
    handed_changed_.NotifyAll();
  }
  task_->Join();
}

void WriteOut::Wake() {
  auto lock = monitor_.Acquire();
  wanted_ = true;
  changed_.NotifyAll();
}

void WriteOut::Wait() {
  auto lock = monitor_.Acquire();
  waits_.fetch_add(1, std::memory_order_relaxed);
  while (!stopping_ && written_.load() - handed_.load() > limit_) {
    wanted_ = true;
    changed_.NotifyAll();
    handed_changed_.Wait(lock);
  }
}

void WriteOut::Loop() {
  auto lock = monitor_.Acquire();
  while (!stopping_) {
    if (!wanted_) {
      changed_.Wait(lock);
      continue;
    }
    wanted_ = false;
    lock.unlock();
    // The whole file: the kernel finds its dirty pages by their tags, so this costs what is dirty,
    // whether it lies together or not. While a round waits for the disk, writers go on and the next
    // round takes more at once: the disk is always busy.
    const uint64_t written = written_.load();
    begin_();
    lock.lock();
    handed_.store(written);
    handed_changed_.NotifyAll();
  }
}

}  // namespace flashlun
