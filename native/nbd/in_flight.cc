#include "nbd/in_flight.h"

#include <new>

namespace flashlun::nbd {
namespace {

// Status is move-only because its message is owned; a waiter gets it by reference.
Status Copy(const Status& status) {
  return status.ok() ? Status::Ok() : Status(status.code(), status.message());
}

}  // namespace

void Pending::Done(const Status& status_of_step) { table_->Complete(this, status_of_step); }

InFlight::InFlight(Channel& channel, ByteBudget& shared) : channel_(channel), shared_(shared) {
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
  return pending;
}

bool InFlight::MayBuffer(size_t bytes) const {
  return buffered_bytes_ == 0 || buffered_bytes_ + bytes <= kMaxBufferedBytes;
}

bool InFlight::AllocateBuffer(Pending* pending, size_t bytes) {
  const bool is_shared = own_bytes_ + bytes > kOwnBufferedBytes;
  if (is_shared && !shared_.TryTake(bytes)) return false;
  pending->buffer.reset(new (std::align_val_t{kDirectAlign}, std::nothrow)
                            uint8_t[kDirectAlign + bytes]);
  if (!pending->buffer) {
    if (is_shared) shared_.Give(bytes);
    return false;
  }
  pending->buffer_bytes = bytes;
  pending->buffer_is_shared = is_shared;
  if (!is_shared) own_bytes_ += bytes;
  buffered_bytes_ += bytes;
  return true;
}

void InFlight::FreeBuffer(Pending* pending) {
  const size_t bytes = pending->buffer_bytes;
  pending->buffer.reset();
  pending->buffer_bytes = 0;
  buffered_bytes_ -= bytes;
  if (!pending->buffer_is_shared) {
    own_bytes_ -= bytes;
  } else {
    shared_.Give(bytes);
  }
  pending->buffer_is_shared = false;
}

void InFlight::Release(Pending* pending) {
  FreeBuffer(pending);
  pending->status = Status::Ok();
  pending->flushing = false;
  pending->next_ = free_;
  free_ = pending;
  count_--;
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
