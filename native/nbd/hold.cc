// Requests that a freeze holds: keeping them, and executing them after the thaw.
//
// The connection's thread never waits for a thaw as long as there is room: it keeps the request
// with its payload and goes on receiving, so reads and flushes are served. When there is no room
// (kMaxHeldBytes, kMaxInFlight) it receives no more, as with any other requests in flight.
//
// Whoever leaves while requests are held leaves them unexecuted: nobody was told of them.
#include "nbd/hold.h"

#include <algorithm>
#include <cstring>

#include "nbd/connection.h"

namespace flashlun::nbd {
namespace {

std::atomic<size_t> held_in_all{0};

}  // namespace

bool HeldRequests::MayHold(size_t bytes) const {
  if (bytes == 0) return true;
  return (bytes_ == 0 || bytes_ + bytes <= kMaxHeldBytes) &&
         held_in_all.load(std::memory_order_relaxed) + bytes <= kMaxHeldBytesInAll;
}

void HeldRequests::Push(Pending* pending) {
  bytes_ += pending->held_bytes;
  held_in_all.fetch_add(pending->held_bytes, std::memory_order_relaxed);
  queue_.push_back(pending);
  stats_.held.store(queue_.size(), std::memory_order_relaxed);
}

void HeldRequests::Pop() {
  Pending* pending = queue_.front();
  queue_.pop_front();
  bytes_ -= pending->held_bytes;
  held_in_all.fetch_sub(pending->held_bytes, std::memory_order_relaxed);
  pending->held_bytes = 0;
  stats_.held.store(queue_.size(), std::memory_order_relaxed);
}

bool HeldRequests::Watch(Volume& volume) {
  if (state_.load() == State::kWatching) return true;
  state_.store(State::kWatching);  // before: the thaw may come inside the call
  if (volume.AwaitThaw(this)) return true;
  state_.store(State::kIdle);
  return false;
}

void HeldRequests::Unwatch(Volume& volume) {
  if (state_.load() != State::kIdle) volume.ForgetThaw(this);
  state_.store(State::kIdle);
}

void HeldRequests::Thawed() {
  state_.store(State::kThawed, std::memory_order_release);
  channel_.Wake();
}

// Connection: holding -----------------------------------------------------------

// A WRITE of which `left` bytes, from request->offset on, are still to be written. Receives them.
// False when the connection ends before.
bool Connection::HoldWrite(const Request& rest) {
  Pending* pending = TakePending(rest);
  if (!in_flight_.AllocateHeld(pending, rest.length)) {
    in_flight_.Release(pending);
    AnswerError(rest, kWireNoMemory, "no memory for the request");
    return DrainPayload(rest.length);
  }
  size_t filled = 0;
  for (;;) {
    const size_t count = std::min<size_t>(rest.length - filled, channel_.available());
    std::memcpy(pending->data() + filled, channel_.data(), count);
    channel_.Consume(count);
    filled += count;
    if (filled == rest.length) break;
    if (ReceiveMore()) continue;
    if (parked()) KeepForLater(rest, pending->data(), filled);
    in_flight_.Release(pending);
    return false;
  }
  Hold(pending);
  return true;
}

void Connection::Hold(Pending* pending) {
  held_.Push(pending);
  if (!held_.Watch(volume_)) held_.SetThawed();
}

void Connection::HoldRange(const Request& rest) { Hold(TakePending(rest)); }

// There is no room to hold more: nothing is received until the thaw. False when the connection
// ends.
bool Connection::AwaitThaw() {
  if (!held_.Watch(volume_)) return true;
  AwaitCompletion(Until::kCompletionOrPark);
  return MayGoOn();
}

// Executes what was held, oldest first, unless the volume is frozen again.
void Connection::RunHeld() {
  held_.Unwatch(volume_);
  while (Pending* pending = held_.Front()) {
    if (channel_.broken() || channel_.stopping()) return DropHeld();
    Request request = pending->request;
    Status status;
    if (request.type == kWrite) {
      if (!volume_.BeginHostWrite(slot_)) break;
      status = volume_.Write(slot_, request.offset, pending->data(), request.length);
      volume_.EndHostWrite(slot_);
    } else {
      status = RunRange(&pending->request);
      if (status.code() == Code::kWouldBlock) break;
    }
    held_.Pop();
    in_flight_.Release(pending);
    AnswerDurably(request, status);
  }
  if (held_.count() > 0 && !channel_.parking() && !held_.Watch(volume_)) held_.SetThawed();
}

void Connection::DropHeld() {
  while (Pending* pending = held_.Front()) {
    held_.Pop();
    in_flight_.Release(pending);
  }
}

}  // namespace flashlun::nbd
