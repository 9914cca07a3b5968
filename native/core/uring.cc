#include "core/uring.h"

#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string>
#include <system_error>

#include "core/check.h"

namespace flashlun {
namespace {

#ifndef IORING_SETUP_SINGLE_ISSUER
constexpr uint32_t kSingleIssuer = 1u << 12;  // headers of Linux 5.19 and earlier
constexpr uint32_t kDeferTaskrun = 1u << 13;
#else
constexpr uint32_t kSingleIssuer = IORING_SETUP_SINGLE_ISSUER;
constexpr uint32_t kDeferTaskrun = IORING_SETUP_DEFER_TASKRUN;
#endif

// Completions are worked on only when the thread asks for them (Linux 6.1); older kernels do it at
// once, with an interrupt of the thread.
constexpr uint32_t kFlagSets[] = {
    IORING_SETUP_R_DISABLED | IORING_SETUP_CLAMP | kSingleIssuer | kDeferTaskrun,
    IORING_SETUP_R_DISABLED | IORING_SETUP_CLAMP,
};

std::string Reason(int error) {
  if (error == ENOSYS) return "this kernel has no io_uring";
  if (error == EPERM || error == EACCES)
    return "the system forbids it (kernel.io_uring_disabled, or a container's seccomp profile)";
  if (error == EINVAL) return "this kernel's io_uring is older than Linux 5.10";
  return std::system_category().message(error);
}

Status Unusable(int error) { return Status(Code::kInvalid, "io_uring: " + Reason(error)); }

std::atomic_ref<uint32_t> Shared(uint32_t* field) { return std::atomic_ref<uint32_t>(*field); }

}  // namespace

Result<std::unique_ptr<Ring>> Ring::Open(uint32_t entries) {
  int error = 0;
  for (const uint32_t flags : kFlagSets) {
    io_uring_params params{};
    params.flags = flags;
    const long fd = ::syscall(__NR_io_uring_setup, entries, &params);
    if (fd >= 0) {
      std::unique_ptr<Ring> ring(new Ring(static_cast<int>(fd), params));
      if (Status status = ring->Map(); !status.ok()) return status;
      return ring;
    }
    error = errno;
    if (error != EINVAL) break;
  }
  return Unusable(error);
}

Status Ring::Map() {
  const uint32_t needed = IORING_FEAT_SINGLE_MMAP | IORING_FEAT_NODROP;
  if ((params_.features & needed) != needed) return Unusable(EINVAL);
  rings_bytes_ = std::max<size_t>(params_.sq_off.array + params_.sq_entries * sizeof(uint32_t),
                                  params_.cq_off.cqes + params_.cq_entries * sizeof(io_uring_cqe));
  const auto map = [this](size_t bytes, uint64_t what) {
    void* at = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd_,
                      static_cast<off_t>(what));
    return at == MAP_FAILED ? nullptr : at;
  };
  rings_ = static_cast<uint8_t*>(map(rings_bytes_, IORING_OFF_SQ_RING));
  if (rings_ == nullptr) return Unusable(errno);
  sqes_ =
      static_cast<io_uring_sqe*>(map(params_.sq_entries * sizeof(io_uring_sqe), IORING_OFF_SQES));
  return sqes_ == nullptr ? Unusable(errno) : Status::Ok();
}

Ring::~Ring() {
  if (rings_ != nullptr) ::munmap(rings_, rings_bytes_);
  if (sqes_ != nullptr) ::munmap(sqes_, params_.sq_entries * sizeof(io_uring_sqe));
  ::close(fd_);
}

uint32_t* Ring::SqField(uint32_t offset) const {
  return reinterpret_cast<uint32_t*>(rings_ + offset);
}
uint32_t* Ring::CqField(uint32_t offset) const { return SqField(offset); }

void Ring::Enable() {
  FL_CHECK(::syscall(__NR_io_uring_register, fd_, IORING_REGISTER_ENABLE_RINGS, nullptr, 0) == 0);
}

io_uring_sqe* Ring::Next() {
  uint32_t* tail_field = SqField(params_.sq_off.tail);
  const uint32_t tail = *tail_field;  // only we write it
  const uint32_t head = Shared(SqField(params_.sq_off.head)).load(std::memory_order_acquire);
  if (tail - head == params_.sq_entries) return nullptr;
  const uint32_t index = tail & (params_.sq_entries - 1);
  SqField(params_.sq_off.array)[index] = index;
  std::memset(&sqes_[index], 0, sizeof sqes_[index]);
  // The kernel looks at it in Enter only, when the caller has filled the entry in.
  Shared(tail_field).store(tail + 1, std::memory_order_release);
  ++unsubmitted_;
  return &sqes_[index];
}

void Ring::Enter(bool wait) {
  // GETEVENTS also without waiting: it is what makes the kernel post deferred completions.
  const long submitted = ::syscall(__NR_io_uring_enter, fd_, unsubmitted_, wait ? 1 : 0,
                                   IORING_ENTER_GETEVENTS, nullptr, 0);
  if (submitted >= 0) {
    unsubmitted_ -= static_cast<uint32_t>(submitted);
    return;
  }
  // Interrupted, or short of memory or of room for completions: the caller takes completions and
  // comes again.
  FL_CHECK(errno == EINTR || errno == EAGAIN || errno == EBUSY);
}

bool Ring::Take(uint64_t* user_data, int32_t* result) {
  uint32_t* head_field = CqField(params_.cq_off.head);
  const uint32_t head = *head_field;  // only we write it
  if (head == Shared(CqField(params_.cq_off.tail)).load(std::memory_order_acquire)) return false;
  const auto* entries = reinterpret_cast<const io_uring_cqe*>(rings_ + params_.cq_off.cqes);
  const io_uring_cqe& entry = entries[head & (params_.cq_entries - 1)];
  *user_data = entry.user_data;
  *result = entry.res;
  Shared(head_field).store(head + 1, std::memory_order_release);
  return true;
}

}  // namespace flashlun
