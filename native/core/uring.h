// Ring: an io_uring, by its system calls. Three calls and two shared rings are all we use of it, so
// the library (liburing) would be one more package to install for two hundred lines of headers.
//
// Thread safety: everything but Open belongs to the one thread that called Enable.
#pragma once

#include <linux/io_uring.h>

#include <atomic>
#include <cstdint>
#include <memory>

#include "core/status.h"

namespace flashlun {

class Ring {
 public:
  // A ring with room for `entries` submissions. kInvalid, with the reason, where there is none.
  static Result<std::unique_ptr<Ring>> Open(uint32_t entries);
  ~Ring();
  Ring(const Ring&) = delete;
  Ring& operator=(const Ring&) = delete;

  // Makes the calling thread the ring's. Once, before anything else.
  void Enable();
  // A cleared entry to fill in, nullptr when the ring is full; submitted by the next Enter.
  io_uring_sqe* Next();
  // Submits, and waits for one completion if `wait`.
  void Enter(bool wait);
  // Takes one completion. False: none is there.
  bool Take(uint64_t* user_data, int32_t* result);

 private:
  Ring(int fd, const io_uring_params& params) : fd_(fd), params_(params) {}
  Status Map();
  uint32_t* SqField(uint32_t offset) const;
  uint32_t* CqField(uint32_t offset) const;

  const int fd_;
  const io_uring_params params_;
  uint8_t* rings_ = nullptr;
  size_t rings_bytes_ = 0;
  io_uring_sqe* sqes_ = nullptr;
  uint32_t unsubmitted_ = 0;
};

}  // namespace flashlun
