#include "core/task_queue.h"

#include <system_error>
#include <utility>

namespace flashlun {

TaskQueue::TaskQueue(Io& io, size_t most, std::string note)
    : io_(io), most_(most), note_(std::move(note)) {
  started_ = 1;
  StartTask();
}

TaskQueue::~TaskQueue() {
  std::vector<std::unique_ptr<Task>> tasks;
  {
    auto lock = monitor_.Acquire();
    stopping_ = true;
    work_.NotifyAll();
    tasks.swap(tasks_);
  }
  for (const std::unique_ptr<Task>& task : tasks) task->Join();
}

void TaskQueue::Submit(IoRequest* request) {
  bool more;
  {
    auto lock = monitor_.Acquire();
    request->next = nullptr;
    (head_ == nullptr ? head_ : tail_->next) = request;
    tail_ = request;
    ++queued_;
    more = queued_ > idle_ && started_ < most_;
    if (more) ++started_;
    work_.NotifyOne();
  }
  if (!more) return;
  try {
    StartTask();
  } catch (const std::system_error&) {
    // No thread to be had: the ones there are will come to it.
    auto lock = monitor_.Acquire();
    --started_;
  }
}

void TaskQueue::StartTask() {
  std::unique_ptr<Task> task = io_.Spawn("fl-io", [this] { Work(); });
  auto lock = monitor_.Acquire();
  tasks_.push_back(std::move(task));
}

void TaskQueue::Work() {
  auto lock = monitor_.Acquire();
  for (;;) {
    ++idle_;
    while (head_ == nullptr && !stopping_) work_.Wait(lock);
    --idle_;
    if (head_ == nullptr) return;
    IoRequest* request = head_;
    head_ = request->next;
    --queued_;
    lock.unlock();
    Status status = request->kind == IoRequest::Kind::kRead
                        ? request->file->Pread(request->offset, request->buf, request->len)
                        : request->file->Pwrite(request->offset, request->buf, request->len);
    request->Done(status);
    lock.lock();
  }
}

}  // namespace flashlun
