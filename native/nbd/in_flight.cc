#include "nbd/in_flight.h"

#include <new>
#include <utility>

namespace flashlun::nbd {
namespace {

// Status is move-only because its message is owned; a waiter gets it by reference.
Status Copy(const Status& status) {
  return status.ok() ? Status::Ok() : Status(status.code(), status.message());
}

}  // namespace

void Pending::Done(const Status& status_of_step) {
  // Here and not on the connection's thread, which a client that does not read may hold up: a
  // freeze waits for it.
  if (writing != nullptr) writing->EndHostWrite(*slot);
  writing = nullptr;
  table_->Complete(this, status_of_step);
}

InFlight::InFlight(Channel& channel, ByteBudget& shared, ConnectionStats& stats)
    : channel_(channel), shared_(shared), stats_(stats) {
  for (Pending& pending : table_) {
    pending.table_ = this;
    pending.next_ = free_;
    free_ = &pending;
  }
}

Pending* InFlight::Take(const Request& request) {
  Pending* pending = free_;
  free_ = pending->next_;
  pending->next_ = nullptr;
  pending->request = request;
  count_++;
  stats_.in_flight.store(count_, std::memory_order_relaxed);
  return pending;
}

bool InFlight::MayBuffer(size_t bytes) const {
  return buffered_bytes_ == 0 || buffered_bytes_ + bytes <= kMaxBufferedBytes;
}

bool InFlight::NewBuffer(Pending* pending, size_t bytes) {
  pending->buffer.reset(new (std::align_val_t{kDirectAlign}, std::nothrow)
                            uint8_t[kDirectAlign + bytes]);
  return pending->buffer != nullptr;
}

bool InFlight::AllocateBuffer(Pending* pending, size_t bytes) {
  const bool is_shared = own_bytes_ + bytes > kOwnBufferedBytes;
  if (is_shared && !shared_.TryTake(bytes)) return false;
  if (!NewBuffer(pending, bytes)) {
    if (is_shared) shared_.Give(bytes);
    return false;
  }
  pending->buffer_bytes = bytes;
  pending->buffer_is_shared = is_shared;
  if (!is_shared) own_bytes_ += bytes;
  buffered_bytes_ += bytes;
  return true;
}

bool InFlight::AllocateHeld(Pending* pending, size_t bytes) {
  if (!NewBuffer(pending, bytes)) return false;
  pending->held_bytes = bytes;
  return true;
}

void InFlight::MakeHeld(Pending* pending) { pending->held_bytes = LeaveBudgets(pending); }

void InFlight::FreeBuffer(Pending* pending) {
  pending->buffer.reset();
  LeaveBudgets(pending);
}

// Of a buffer that is in one. Gives its size.
size_t InFlight::LeaveBudgets(Pending* pending) {
  const size_t bytes = std::exchange(pending->buffer_bytes, size_t{0});
  buffered_bytes_ -= bytes;
  if (!std::exchange(pending->buffer_is_shared, false)) {
    own_bytes_ -= bytes;
  } else {
    shared_.Give(bytes);
  }
  return bytes;
}

void InFlight::Release(Pending* pending) {
  FreeBuffer(pending);
  pending->held_bytes = 0;
  pending->status = Status::Ok();
  pending->flushing = false;
  pending->next_ = free_;
  free_ = pending;
  count_--;
  stats_.in_flight.store(count_, std::memory_order_relaxed);
}

Pending* InFlight::TakeCompleted() {
  std::lock_guard<std::mutex> lock(mutex_);
  Pending* pending = head_;
  if (pending == nullptr) return nullptr;
  head_ = pending->next_;
  pending->next_ = nullptr;
  if (head_ == nullptr) has_completed_.store(false, std::memory_order_relaxed);
  return pending;
}

void InFlight::ShedCompleted() {
  std::lock_guard<std::mutex> lock(mutex_);
  for (Pending* pending = head_; pending != nullptr; pending = pending->next_) {
    if (pending->buffer_is_shared) FreeBuffer(pending);
  }
}

void InFlight::Complete(Pending* pending, const Status& status) {
  std::lock_guard<std::mutex> lock(mutex_);
  pending->status = Copy(status);
  const bool was_empty = head_ == nullptr;
  if (was_empty) {
    head_ = pending;
  } else {
    tail_->next_ = pending;
  }
  tail_ = pending;
  has_completed_.store(true, std::memory_order_release);
  // A flush with nothing to do completes inside FlushAsync, on the connection's own thread: it
  // looks by itself.
  if (was_empty && std::this_thread::get_id() != owner_) channel_.Wake();
}

}  // namespace flashlun::nbd
