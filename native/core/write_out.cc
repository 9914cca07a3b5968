#include "core/write_out.h"

namespace flashlun {

WriteOut::WriteOut(Io& io, std::function<void()> begin, uint64_t every)
    : begin_(std::move(begin)), every_(every) {
  task_ = io.Spawn("fl-writeout", [this] { Loop(); });
}

WriteOut::~WriteOut() {
  {
    auto lock = monitor_.Acquire();
    stopping_ = true;
    changed_.NotifyAll();
  }
  task_->Join();
}

void WriteOut::Wake() {
  auto lock = monitor_.Acquire();
  wanted_ = true;
  changed_.NotifyAll();
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
    // round takes more at once: the disk is always busy, and what is dirty is bounded by how much
    // faster than the disk the writers are.
    begin_();
    lock.lock();
  }
}

}  // namespace flashlun
