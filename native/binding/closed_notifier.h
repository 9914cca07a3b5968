// ClosedNotifier: tells one JavaScript environment that connections have ended. One per
// environment.
//
// Lifetime rules:
//  1. Connection threads outlive environments: a worker may end while its connections run. So they
//  hold the notifier,
//     never the environment, and Disable() at the environment's teardown makes Post a no-op from
//     then on.
//  2. Node destroys thread-safe functions at teardown, after the cleanup hooks that were added
//  later than they. So the
//     hook that calls Disable is added after the function was made, and nothing uses the function
//     afterwards.
//  3. The function keeps the event loop alive exactly while connections of the environment are
//  open: without that, a
//     server that waits for the last onClosed would see its process end under it; with it always,
//     none would end.
#pragma once

#include <napi.h>

#include <cstdint>
#include <memory>
#include <mutex>
#include <set>
#include <utility>

#include "binding/pool.h"
#include "nbd/connection.h"

namespace flashlun::binding {

class ClosedNotifier : public std::enable_shared_from_this<ClosedNotifier> {
 public:
  // callback(handle, connection id, {reason, detail, requests, bytesIn, bytesOut}).
  ClosedNotifier(Napi::Env env, Napi::Function callback);

  // JavaScript thread: a connection of this environment has started.
  void Opened(PoolHandle handle, uint64_t connection_id);
  // Connection thread: it has ended. Never blocks.
  void Post(PoolHandle handle, uint64_t connection_id, const nbd::CloseReport& report);
  // JavaScript thread, at teardown: Rules 1 and 2. Stops what is still open, without waiting.
  void Disable();

 private:
  struct Event;
  void Deliver(Napi::Env env, Napi::Function callback, const Event& event);

  // Of the JavaScript thread.
  Napi::Env env_;
  std::set<std::pair<PoolHandle, uint64_t>> open_;

  // State below is protected by mutex_.
  std::mutex mutex_;
  Napi::ThreadSafeFunction function_;
  bool enabled_ = true;
};

}  // namespace flashlun::binding
