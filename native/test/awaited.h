// Awaited: an asynchronous operation of the store, waited for. On threads and on fibers.
#pragma once

#include <functional>
#include <utility>

#include "core/store.h"
#include "core/store_impl.h"
#include "core/sync.h"

namespace flashlun {

class AwaitedCompletion final : public Completion {
 public:
  // `ended` runs first of all in Done, on the store's thread.
  explicit AwaitedCompletion(std::function<void(const Status&)> ended = {})
      : ended_here_(std::move(ended)) {}
  void Done(const Status& status) override {
    if (ended_here_) ended_here_(status);
    auto lock = monitor_.Acquire();
    status_ = CopyOf(status);
    done_ = true;
    // Under the lock: once it is released, Wait may return and this object be gone.
    ended_.NotifyAll();
  }
  Status Wait() {
    auto lock = monitor_.Acquire();
    while (!done_) ended_.Wait(lock);
    return std::move(status_);
  }

 private:
  const std::function<void(const Status&)> ended_here_;
  Monitor monitor_;
  Condition ended_;
  bool done_ = false;
  Status status_;
};

// begin(Completion*) starts the operation. False, and *status unchanged, when it would not.
template <typename Begin>
bool Awaited(Status* status, std::function<void(const Status&)> ended, Begin begin) {
  AwaitedCompletion completion(std::move(ended));
  if (!begin(&completion)) return false;
  *status = completion.Wait();
  return true;
}

template <typename Begin>
bool Awaited(Status* status, Begin begin) {
  return Awaited(status, {}, begin);
}

}  // namespace flashlun
