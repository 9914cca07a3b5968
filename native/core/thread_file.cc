#include "core/thread_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <system_error>

#include "core/check.h"
#include "core/limits.h"

namespace flashlun {
namespace {

// Bounce buffers live on the stack; a track is what nearly every transfer is at most.
constexpr size_t kBounceBytes = kTrackBytes;
static_assert(kBounceBytes % kDirectAlign == 0);

}  // namespace

Status FromErrno(int error, const std::string& path, const char* what) {
  const bool full = error == ENOSPC || error == EDQUOT || error == EFBIG;
  return Status(full ? Code::kNoSpace : Code::kIo, std::string(what) + " of " + path + " failed: " +
                                                       std::system_category().message(error));
}

ThreadFile::ThreadFile(std::string path, int fd, bool direct, bool device)
    : File(std::move(path)), fd_(fd), direct_(direct), device_(device), nowait_(!direct) {}

ThreadFile::~ThreadFile() { ::close(fd_); }

Status ThreadFile::Pread(uint64_t offset, void* buf, size_t len) {
  auto* to = static_cast<uint8_t*>(buf);
  return Fits(offset, buf, len) ? ReadWhole(offset, to, len) : BouncedRead(offset, to, len);
}

Status ThreadFile::ReadWhole(uint64_t offset, uint8_t* buf, size_t len) {
  while (len != 0) {
    const ssize_t n = ::pread(fd_, buf, len, static_cast<off_t>(offset));
    if (n < 0) {
      if (errno == EINTR) continue;
      return FromErrno(errno, path(), "read");
    }
    buf += n;
    offset += static_cast<uint64_t>(n);
    len -= static_cast<size_t>(n);
    if (len == 0) break;
    Result<bool> ended = EndedAt(offset, static_cast<size_t>(n));
    if (!ended.ok()) return ended.TakeStatus();
    if (!ended.value()) continue;
    std::memset(buf, 0, len);  // beyond the end of a sparse file
    break;
  }
  return Status::Ok();
}

// A short read ends at the end of the file, or before a bad sector. A direct one cannot go on where
// it stopped if that is off a boundary, so the two must be told apart: zeroes for what the disk
// cannot give would be a false answer.
Result<bool> ThreadFile::EndedAt(uint64_t offset, size_t got) {
  if (got == 0) return true;
  if (!direct_ || offset % kDirectAlign == 0) return false;
  Result<uint64_t> size = Size();
  if (!size.ok()) return size.TakeStatus();
  if (offset >= size.value()) return true;
  return Status(Code::kIo,
                "read of " + path() + " failed: it stopped at byte " + std::to_string(offset));
}

Status ThreadFile::BouncedRead(uint64_t offset, uint8_t* buf, size_t len) {
  alignas(kDirectAlign) uint8_t bounce[kBounceBytes];
  while (len != 0) {
    const size_t within = offset % kDirectAlign;
    const size_t n = std::min(len, kBounceBytes - within);
    const size_t whole = (within + n + kDirectAlign - 1) / kDirectAlign * kDirectAlign;
    if (Status status = ReadWhole(offset - within, bounce, whole); !status.ok()) return status;
    std::memcpy(buf, bounce + within, n);
    buf += n;
    offset += n;
    len -= n;
  }
  return Status::Ok();
}

Status ThreadFile::PreadNoWait(uint64_t offset, void* buf, size_t len) {
  // A direct read always waits for the disk.
  if (direct_) return Status(Code::kWouldBlock);
  // File systems that do not know RWF_NOWAIT (tmpfs on older kernels) answer EOPNOTSUPP: read
  // there as usual.
  if (!nowait_.load(std::memory_order_relaxed)) return Pread(offset, buf, len);
  const iovec vec{buf, len};
  const ssize_t n = ::preadv2(fd_, &vec, 1, static_cast<off_t>(offset), RWF_NOWAIT);
  if (n == static_cast<ssize_t>(len)) [[likely]]
    return Status::Ok();
  if (n < 0 && errno == EOPNOTSUPP) {
    nowait_.store(false, std::memory_order_relaxed);
    return Pread(offset, buf, len);
  }
  // Nothing, or only a part, was at hand (or the end of the file is near): the blocking call
  // sorts it out.
  return Status(Code::kWouldBlock);
}

Status ThreadFile::Pwrite(uint64_t offset, const void* buf, size_t len) {
  const auto* from = static_cast<const uint8_t*>(buf);
  if (Fits(offset, buf, len)) [[likely]]
    return WriteWhole(offset, from, len);
  return BouncedWrite(offset, from, len);
}

Status ThreadFile::WriteWhole(uint64_t offset, const uint8_t* buf, size_t len) {
  while (len != 0) {
    const ssize_t n = ::pwrite(fd_, buf, len, static_cast<off_t>(offset));
    if (n < 0) {
      if (errno == EINTR) continue;
      return FromErrno(errno, path(), "write");
    }
    buf += n;
    offset += static_cast<uint64_t>(n);
    len -= static_cast<size_t>(n);
  }
  return Status::Ok();
}

// Only the memory may be out of place.
Status ThreadFile::BouncedWrite(uint64_t offset, const uint8_t* buf, size_t len) {
  FL_CHECK((offset | len) % kDirectAlign == 0);
  alignas(kDirectAlign) uint8_t bounce[kBounceBytes];
  while (len != 0) {
    const size_t n = std::min(len, kBounceBytes);
    std::memcpy(bounce, buf, n);
    if (Status status = WriteWhole(offset, bounce, n); !status.ok()) return status;
    buf += n;
    offset += n;
    len -= n;
  }
  return Status::Ok();
}

Status ThreadFile::Fdatasync() {
  // Never retried: after a failure the kernel marks the pages clean and a second call lies (trap
  // T12).
  if (::fdatasync(fd_) != 0) return FromErrno(errno, path(), "fdatasync");
  return Status::Ok();
}

Status ThreadFile::Allocate(uint64_t offset, uint64_t len) {
  while (::fallocate(fd_, 0, static_cast<off_t>(offset), static_cast<off_t>(len)) != 0) {
    if (errno == EINTR) continue;
    // Block devices and some file systems have nothing to allocate.
    if (errno == EOPNOTSUPP || errno == ENODEV) return Status::Ok();
    return FromErrno(errno, path(), "allocation");
  }
  return Status::Ok();
}

Status ThreadFile::Discard(uint64_t offset, uint64_t len) {
  const int mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
  while (::fallocate(fd_, mode, static_cast<off_t>(offset), static_cast<off_t>(len)) != 0) {
    if (errno == EINTR) continue;
    if (errno == EOPNOTSUPP || errno == ENODEV) return Status::Ok();
    return FromErrno(errno, path(), "discard");
  }
  return Status::Ok();
}

void ThreadFile::StartWriteOut(uint64_t offset, uint64_t len) {
  (void)::sync_file_range(fd_, static_cast<off_t>(offset), static_cast<off_t>(len),
                          SYNC_FILE_RANGE_WRITE);
}

void ThreadFile::DropCache() { (void)::posix_fadvise(fd_, 0, 0, POSIX_FADV_DONTNEED); }

void ThreadFile::Uncache(uint64_t offset, uint64_t len) {
  if (direct_) return;
  (void)::posix_fadvise(fd_, static_cast<off_t>(offset), static_cast<off_t>(len),
                        POSIX_FADV_DONTNEED);
}

void ThreadFile::WillNeed(uint64_t offset, uint64_t len) {
  if (direct_) return;
  (void)::posix_fadvise(fd_, static_cast<off_t>(offset), static_cast<off_t>(len),
                        POSIX_FADV_WILLNEED);
}

Result<uint64_t> ThreadFile::Size() {
  struct stat st;
  if (::fstat(fd_, &st) != 0) return FromErrno(errno, path(), "stat");
  if (!device_) return static_cast<uint64_t>(st.st_size);
  const off_t end = ::lseek(fd_, 0, SEEK_END);
  if (end < 0) return FromErrno(errno, path(), "seek");
  return static_cast<uint64_t>(end);
}

Status ThreadFile::Truncate(uint64_t size) {
  if (::ftruncate(fd_, static_cast<off_t>(size)) != 0) return FromErrno(errno, path(), "resize");
  return Status::Ok();
}

}  // namespace flashlun
