#include "core/uring_queue.h"

#include <pthread.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <system_error>
#include <utility>

#include "core/check.h"
#include "core/limits.h"
#include "core/thread_file.h"
#include "core/uring.h"

namespace flashlun {
namespace {

// No request has this address.
constexpr uint64_t kWake = 0;

}  // namespace

Result<std::unique_ptr<IoQueue>> UringQueue::Make(Io& io) {
  // One entry more, for the eventfd.
  Result<std::unique_ptr<Ring>> ring = Ring::Open(kRingDepth + 1);
  if (!ring.ok()) return ring.TakeStatus();
  const int wake_fd = ::eventfd(0, EFD_CLOEXEC);
  if (wake_fd < 0) return FromErrno(errno, "eventfd", "open");
  return std::unique_ptr<IoQueue>(new UringQueue(io, std::move(ring.value()), wake_fd));
}

UringQueue::UringQueue(Io& io, std::unique_ptr<Ring> ring, int wake_fd)
    : blocking_(io, kIoThreads), ring_(std::move(ring)), wake_fd_(wake_fd) {
  thread_ = std::thread([this] { Loop(); });
  ::pthread_setname_np(thread_.native_handle(), "fl-uring");
}

UringQueue::~UringQueue() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stopping_ = true;
  }
  const uint64_t one = 1;
  (void)!::write(wake_fd_, &one, sizeof one);
  thread_.join();
  ::close(wake_fd_);
}

void UringQueue::Submit(IoRequest* request) {
  const auto& file = static_cast<const ThreadFile&>(*request->file);
  if (request->kind == IoRequest::Kind::kWrite ||
      !file.Fits(request->offset, request->buf, request->len))
    return blocking_.Submit(request);
  request->next = nullptr;
  bool was_empty;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    was_empty = submitted_head_ == nullptr;
    (was_empty ? submitted_head_ : submitted_tail_->next) = request;
    submitted_tail_ = request;
  }
  // A list that is not empty has its wake on the way.
  const uint64_t one = 1;
  if (was_empty) (void)!::write(wake_fd_, &one, sizeof one);
}

// Returns whether the queue is to end.
bool UringQueue::TakeSubmitted() {
  std::lock_guard<std::mutex> lock(mutex_);
  if (submitted_head_ != nullptr) {
    (head_ == nullptr ? head_ : tail_->next) = submitted_head_;
    tail_ = submitted_tail_;
    submitted_head_ = nullptr;
  }
  return stopping_;
}

// The eventfd is always being read while the thread sleeps in Enter.
void UringQueue::ArmWake() {
  if (wake_armed_) return;
  io_uring_sqe* entry = ring_->Next();
  if (entry == nullptr) return;
  entry->opcode = IORING_OP_READ;
  entry->fd = wake_fd_;
  entry->addr = reinterpret_cast<uint64_t>(&wake_count_);
  entry->len = sizeof wake_count_;
  entry->user_data = kWake;
  wake_armed_ = true;
}

void UringQueue::Prepare() {
  while (head_ != nullptr && in_ring_ < kRingDepth) {
    io_uring_sqe* entry = ring_->Next();
    if (entry == nullptr) return;
    IoRequest* request = head_;
    head_ = request->next;
    entry->opcode = IORING_OP_READ;
    entry->fd = static_cast<const ThreadFile*>(request->file)->fd();
    entry->off = request->offset;
    entry->addr = reinterpret_cast<uint64_t>(request->buf);
    entry->len = static_cast<uint32_t>(request->len);  // at most kMaxPayloadBytes
    entry->user_data = reinterpret_cast<uint64_t>(request);
    ++in_ring_;
  }
}

void UringQueue::Complete(IoRequest* request, int32_t result) {
  --in_ring_;
  if (result == static_cast<int64_t>(request->len)) [[likely]]
    return request->Done(Status::Ok());
  if (result >= 0 || result == -EINTR || result == -EAGAIN) return blocking_.Submit(request);
  request->Done(FromErrno(-result, request->file->path(), "read"));
}

void UringQueue::Loop() {
  ring_->Enable();
  for (;;) {
    const bool stopping = TakeSubmitted();
    if (!stopping) ArmWake();
    Prepare();
    // The kernel owes nothing any more, not even the value of the eventfd.
    if (stopping && in_ring_ == 0 && head_ == nullptr && !wake_armed_) return;
    ring_->Enter(true);
    uint64_t user_data;
    int32_t result;
    while (ring_->Take(&user_data, &result)) {
      if (user_data == kWake)
        wake_armed_ = false;
      else
        Complete(reinterpret_cast<IoRequest*>(user_data), result);
    }
  }
}

}  // namespace flashlun
