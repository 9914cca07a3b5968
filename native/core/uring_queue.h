// UringQueue: an IoQueue on io_uring: one thread, many transfers in flight, none of them a thread.
//
// The ring belongs to its thread: others link their requests into a list and wake it by an eventfd,
// which the ring itself reads. Not one ring for each connection, which would save two switches of
// threads: a connection's thread may wait for a gate or a track lock that one of its own transfers
// holds up, and could not end that transfer meanwhile.
//
// The ring carries out reads that go in one piece. One that ends short, is interrupted or does not
// fit the rules of direct I/O is done again, whole, by blocking calls (TaskQueue), which know all
// of that already. No links, no order between requests: what must come later is submitted later.
//
// Writes go to the TaskQueue at once. 4 KiB at queue depth 32, --cache none, ext4 on virtio, 2
// cores, medians of 12 alternating rounds (IOPS, microseconds of our CPU per request):
//   read    ring 24,500, 6.4    threads 26,200, 14.3     as fast, at less than half the CPU
//   write   ring 10,500, 12.2   threads 19,500, 25.0     half as fast
// Probably because ext4 may not wait for its journal inside a submission, so that the kernel hands
// most writes to workers of its own; that was not traced.
//
// Only for files of the operating system (ThreadFile). Thread safety: Submit from any thread.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "core/io.h"
#include "core/task_queue.h"

namespace flashlun {

class Ring;

class UringQueue final : public IoQueue {
 public:
  // kInvalid, with the reason, where io_uring is missing or forbidden.
  static Result<std::unique_ptr<IoQueue>> Make(Io& io);
  ~UringQueue() override;
  UringQueue(const UringQueue&) = delete;
  UringQueue& operator=(const UringQueue&) = delete;

  void Submit(IoRequest* request) override;
  const char* name() const override { return "io_uring"; }
  const std::string& note() const override { return note_; }

 private:
  UringQueue(Io& io, std::unique_ptr<Ring> ring, int wake_fd);
  void Loop();
  bool TakeSubmitted();
  void Prepare();
  void ArmWake();
  void Complete(IoRequest* request, int32_t result);

  TaskQueue blocking_;  // writes, and what the ring cannot do
  const std::unique_ptr<Ring> ring_;
  const int wake_fd_;
  const std::string note_;

  // Of the ring's thread.
  IoRequest* head_ = nullptr;  // taken over, not yet in the ring
  IoRequest* tail_ = nullptr;
  uint32_t in_ring_ = 0;
  bool wake_armed_ = false;
  uint64_t wake_count_ = 0;  // where the ring puts the eventfd's value

  // State below is protected by mutex_.
  std::mutex mutex_;
  IoRequest* submitted_head_ = nullptr;
  IoRequest* submitted_tail_ = nullptr;
  bool stopping_ = false;

  std::thread thread_;
};

}  // namespace flashlun
