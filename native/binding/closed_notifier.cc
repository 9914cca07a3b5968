#include "binding/closed_notifier.h"

#include <string>

#include "binding/convert.h"

namespace flashlun::binding {
namespace {

// As `CloseReason` in src/engine/types.ts.
const char* ReasonName(nbd::CloseReason reason) {
  switch (reason) {
    case nbd::CloseReason::kDisconnect:
      return "disconnect";
    case nbd::CloseReason::kEof:
      return "eof";
    case nbd::CloseReason::kProtocol:
      return "protocol";
    case nbd::CloseReason::kIo:
      return "io";
    case nbd::CloseReason::kStopped:
      return "stopped";
    case nbd::CloseReason::kFenced:
      return "fenced";
    case nbd::CloseReason::kParked:
      return "parked";
  }
  return "io";
}

}  // namespace

struct ClosedNotifier::Event {
  std::shared_ptr<ClosedNotifier> notifier;
  PoolHandle handle;
  uint64_t connection_id;
  nbd::CloseReport report;
};

ClosedNotifier::ClosedNotifier(Napi::Env env, Napi::Function callback)
    : env_(env),
      function_(Napi::ThreadSafeFunction::New(env, callback, "flashlun connection closed", 0, 1)) {
  function_.Unref(env);
}

void ClosedNotifier::Opened(PoolHandle handle, uint64_t connection_id) {
  if (open_.empty()) function_.Ref(env_);  // Rule 3.
  open_.emplace(handle, connection_id);
}

void ClosedNotifier::Post(PoolHandle handle, uint64_t connection_id,
                          const nbd::CloseReport& report) {
  auto event = std::make_unique<Event>(Event{shared_from_this(), handle, connection_id, report});
  std::lock_guard<std::mutex> lock(mutex_);
  if (!enabled_) return;  // Rule 1.
  const napi_status posted = function_.NonBlockingCall(
      event.get(), [](Napi::Env env, Napi::Function callback, Event* posted_event) {
        const std::unique_ptr<Event> owned(posted_event);
        // Both are null when the environment went away with the event still queued.
        if (env == nullptr || callback.IsEmpty()) return;
        owned->notifier->Deliver(env, callback, *owned);
      });
  if (posted == napi_ok) (void)event.release();
}

void ClosedNotifier::Deliver(Napi::Env env, Napi::Function callback, const Event& event) {
  open_.erase({event.handle, event.connection_id});
  if (open_.empty()) function_.Unref(env);  // Rule 3.
  Napi::Object report = Napi::Object::New(env);
  report.Set("reason", ReasonName(event.report.reason));
  report.Set("detail", event.report.detail);
  report.Set("requests", ToJs(env, event.report.requests));
  report.Set("bytesIn", ToJs(env, event.report.bytes_in));
  report.Set("bytesOut", ToJs(env, event.report.bytes_out));
  callback.Call({ToJs(env, uint64_t{event.handle}), ToJs(env, event.connection_id), report});
}

void ClosedNotifier::Disable() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (!enabled_) return;
    enabled_ = false;
    function_.Release();
  }
  for (const auto& [handle, connection_id] : open_) {
    Result<Pool::Use> use = UsePool(handle);
    if (use.ok()) use.value().server().Stop(connection_id);
  }
  open_.clear();
}

}  // namespace flashlun::binding
