#include "nbd/slow_pool.h"

#include <stdexcept>
#include <system_error>

#include "nbd/limits.h"

namespace flashlun::nbd {

SlowPool::SlowPool(Store& store) : store_(store) {
  for (size_t i = 0; i < kSlowReadThreads; i++) {
    OpSlot* slot = store_.AcquireSlot();
    if (slot == nullptr) break;
    slots_.push_back(slot);
  }
  if (slots_.empty()) throw std::runtime_error("no operation slot is left for slow reads");
  StartThread();
}

SlowPool::~SlowPool() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stopping_ = true;
  }
  work_.notify_all();
  for (std::thread& thread : threads_) thread.join();
  for (OpSlot* slot : slots_) store_.ReleaseSlot(slot);
}

void SlowPool::Submit(SlowJob* job) {
  std::lock_guard<std::mutex> lock(mutex_);
  job->next_job_ = nullptr;
  if (head_ == nullptr) {
    head_ = job;
  } else {
    tail_->next_job_ = job;
  }
  tail_ = job;
  queued_++;
  if (queued_ > idle_ && threads_.size() < slots_.size()) {
    try {
      StartThread();
    } catch (const std::system_error&) {
      // No thread to be had: the ones there are will come to it.
    }
  }
  work_.notify_one();
}

// The constructor calls it alone, Submit under mutex_.
void SlowPool::StartThread() {
  OpSlot& slot = *slots_[threads_.size()];
  threads_.emplace_back([this, &slot] { Work(slot); });
}

void SlowPool::Work(OpSlot& slot) {
  std::unique_lock<std::mutex> lock(mutex_);
  for (;;) {
    idle_++;
    work_.wait(lock, [this] { return head_ != nullptr || stopping_; });
    idle_--;
    if (head_ == nullptr) return;
    SlowJob* job = head_;
    head_ = job->next_job_;
    queued_--;
    lock.unlock();
    job->Run(slot);
    lock.lock();
  }
}

}  // namespace flashlun::nbd
