// Waiting, for code that runs on system threads in the product and on cooperative fibers in the
// simulation.
//
// A Monitor guards state; Conditions wait for a change of it. The rule that makes the same code
// work on fibers: never call Io while holding a Monitor (a fiber may be switched out inside Io, and
// the mutex would stay locked for everyone on its thread).
#pragma once

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <thread>

namespace flashlun {

// What a fiber scheduler does instead of the kernel. Set for the thread that runs fibers, null
// elsewhere.
class FiberScheduler {
 public:
  virtual ~FiberScheduler() = default;
  // Suspends the running fiber until Wake(key).
  virtual void Block(const void* key) = 0;
  // As Block, but virtual time may also end the wait.
  virtual void BlockOrTimeout(const void* key) = 0;
  virtual void Wake(const void* key) = 0;
  // Lets other fibers run.
  virtual void Yield() = 0;
};

inline thread_local FiberScheduler* t_fibers = nullptr;

// A condition of some Monitor's state.
class Condition {
 public:
  using Lock = std::unique_lock<std::mutex>;

  // Spurious wake-ups happen: wait in a loop on the condition.
  void Wait(Lock& lock) {
    if (t_fibers == nullptr) return condition_.wait(lock);
    lock.unlock();
    t_fibers->Block(this);
    lock.lock();
  }

  // Returns how long it took. Virtual time: always `limit`.
  std::chrono::steady_clock::duration WaitFor(Lock& lock, std::chrono::milliseconds limit) {
    if (t_fibers == nullptr) {
      const auto begin = std::chrono::steady_clock::now();
      condition_.wait_for(lock, limit);
      return std::chrono::steady_clock::now() - begin;
    }
    lock.unlock();
    t_fibers->BlockOrTimeout(this);
    lock.lock();
    return limit;
  }

  // Enough where every waiter waits for the same thing.
  void NotifyOne() {
    if (t_fibers == nullptr) return condition_.notify_one();
    t_fibers->Wake(this);
  }

  void NotifyAll() {
    if (t_fibers == nullptr) return condition_.notify_all();
    t_fibers->Wake(this);
  }

 private:
  std::condition_variable condition_;
};

class Monitor {
 public:
  using Lock = Condition::Lock;
  Lock Acquire() { return Lock(mutex_); }

 private:
  std::mutex mutex_;
};

// One step of a polling loop whose end is microseconds to milliseconds away (a drain, a grace
// period).
inline void PollPause(unsigned round) {
  if (t_fibers != nullptr) return t_fibers->Yield();
  if (round < 16) return std::this_thread::yield();
  std::this_thread::sleep_for(std::chrono::microseconds(round < 64 ? 20 : 200));
}

}  // namespace flashlun
