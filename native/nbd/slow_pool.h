// SlowPool: threads that wait for the disk, so that connection threads do not have to.
//
// Jobs are objects of the submitter, linked into a queue: no allocation. The queue is bounded by
// what the submitters may have in flight (kMaxInFlight and kMaxSlowReadBytes per connection).
//
// Thread safety: Submit from any thread.
#pragma once

#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

#include "core/store.h"

namespace flashlun::nbd {

class SlowJob {
 public:
  virtual ~SlowJob() = default;
  // Runs on a pool thread with that thread's slot. May block for the disk, never for a client.
  virtual void Run(OpSlot& slot) = 0;

 private:
  friend class SlowPool;
  SlowJob* next_job_ = nullptr;
};

class SlowPool {
 public:
  // Takes kSlowReadThreads slots and starts one thread; more start when jobs wait.
  explicit SlowPool(Store& store);
  // Runs what is queued, then ends the threads.
  ~SlowPool();
  SlowPool(const SlowPool&) = delete;
  SlowPool& operator=(const SlowPool&) = delete;

  void Submit(SlowJob* job);

 private:
  void StartThread();
  void Work(OpSlot& slot);

  Store& store_;
  std::vector<OpSlot*> slots_;  // constant after construction; thread i uses slots_[i]

  // State below is protected by mutex_.
  std::mutex mutex_;
  std::condition_variable work_;
  SlowJob* head_ = nullptr;
  SlowJob* tail_ = nullptr;
  size_t queued_ = 0;
  size_t idle_ = 0;
  bool stopping_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace flashlun::nbd
