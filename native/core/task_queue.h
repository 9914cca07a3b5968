// TaskQueue: an IoQueue of tasks that make blocking calls. Works with every Io and every File; the
// number of tasks is the queue depth the disk sees.
//
// Thread safety: Submit from any thread.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "core/io.h"
#include "core/sync.h"

namespace flashlun {

class TaskQueue final : public IoQueue {
 public:
  // Tasks start when requests wait, `most` at most. `note`: see IoQueue::note.
  TaskQueue(Io& io, size_t most, std::string note = {});
  ~TaskQueue() override;
  TaskQueue(const TaskQueue&) = delete;
  TaskQueue& operator=(const TaskQueue&) = delete;

  void Submit(IoRequest* request) override;
  const char* name() const override { return "threads"; }
  const std::string& note() const override { return note_; }

 private:
  void StartTask();
  void Work();

  Io& io_;
  const size_t most_;
  const std::string note_;

  // Below: guarded by monitor_.
  Monitor monitor_;
  Condition work_;
  IoRequest* head_ = nullptr;
  IoRequest* tail_ = nullptr;
  size_t queued_ = 0;
  size_t idle_ = 0;
  size_t started_ = 0;
  bool stopping_ = false;
  std::vector<std::unique_ptr<Task>> tasks_;
};

}  // namespace flashlun
