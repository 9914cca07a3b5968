// Buffered files: the page cache plays the ESS cache (track-store.md 3.0, cache mode writeback). A
// completed pwrite survives SIGKILL because the page cache belongs to the kernel; fdatasync makes
// it survive power loss.
#include "core/thread_io.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <fstream>
#include <system_error>
#include <thread>

namespace flashlun {
namespace {

Status FromErrno(int error, const std::string& path, const char* what) {
  const bool full = error == ENOSPC || error == EDQUOT || error == EFBIG;
  return Status(full ? Code::kNoSpace : Code::kIo, std::string(what) + " of " + path + " failed: " +
                                                       std::system_category().message(error));
}

class ThreadFile final : public File {
 public:
  ThreadFile(std::string path, int fd, bool device)
      : File(std::move(path)), fd_(fd), device_(device) {}
  ~ThreadFile() override { ::close(fd_); }
  ThreadFile(const ThreadFile&) = delete;
  ThreadFile& operator=(const ThreadFile&) = delete;

  Status Pread(uint64_t offset, void* buf, size_t len) override {
    auto* p = static_cast<uint8_t*>(buf);
    while (len != 0) {
      const ssize_t n = ::pread(fd_, p, len, static_cast<off_t>(offset));
      if (n < 0) {
        if (errno == EINTR) continue;
        return FromErrno(errno, path(), "read");
      }
      if (n == 0) {
        std::memset(p, 0, len);  // beyond the end of a sparse file
        return Status::Ok();
      }
      p += n;
      offset += static_cast<uint64_t>(n);
      len -= static_cast<size_t>(n);
    }
    return Status::Ok();
  }

  Status PreadNoWait(uint64_t offset, void* buf, size_t len) override {
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

  Status Pwrite(uint64_t offset, const void* buf, size_t len) override {
    const auto* p = static_cast<const uint8_t*>(buf);
    while (len != 0) {
      const ssize_t n = ::pwrite(fd_, p, len, static_cast<off_t>(offset));
      if (n < 0) {
        if (errno == EINTR) continue;
        return FromErrno(errno, path(), "write");
      }
      p += n;
      offset += static_cast<uint64_t>(n);
      len -= static_cast<size_t>(n);
    }
    return Status::Ok();
  }

  Status Fdatasync() override {
    // Never retried: after a failure the kernel marks the pages clean and a second call lies (trap
    // T12).
    if (::fdatasync(fd_) != 0) return FromErrno(errno, path(), "fdatasync");
    return Status::Ok();
  }

  Status Allocate(uint64_t offset, uint64_t len) override {
    while (::fallocate(fd_, 0, static_cast<off_t>(offset), static_cast<off_t>(len)) != 0) {
      if (errno == EINTR) continue;
      // Block devices and some file systems have nothing to allocate.
      if (errno == EOPNOTSUPP || errno == ENODEV) return Status::Ok();
      return FromErrno(errno, path(), "allocation");
    }
    return Status::Ok();
  }

  Status Discard(uint64_t offset, uint64_t len) override {
    const int mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
    while (::fallocate(fd_, mode, static_cast<off_t>(offset), static_cast<off_t>(len)) != 0) {
      if (errno == EINTR) continue;
      if (errno == EOPNOTSUPP || errno == ENODEV) return Status::Ok();
      return FromErrno(errno, path(), "discard");
    }
    return Status::Ok();
  }

  void StartWriteOut(uint64_t offset, uint64_t len) override {
    (void)::sync_file_range(fd_, static_cast<off_t>(offset), static_cast<off_t>(len),
                            SYNC_FILE_RANGE_WRITE);
  }

  void DropCache() override { (void)::posix_fadvise(fd_, 0, 0, POSIX_FADV_DONTNEED); }

  Result<uint64_t> Size() override {
    struct stat st;
    if (::fstat(fd_, &st) != 0) return FromErrno(errno, path(), "stat");
    if (!device_) return static_cast<uint64_t>(st.st_size);
    const off_t end = ::lseek(fd_, 0, SEEK_END);
    if (end < 0) return FromErrno(errno, path(), "seek");
    return static_cast<uint64_t>(end);
  }

  Status Truncate(uint64_t size) override {
    if (::ftruncate(fd_, static_cast<off_t>(size)) != 0) return FromErrno(errno, path(), "resize");
    return Status::Ok();
  }

  bool fixed_size() const override { return device_; }

 private:
  const int fd_;
  const bool device_;
  std::atomic<bool> nowait_{true};
};

class MappedMemory final : public SharedMemory {
 public:
  MappedMemory(uint8_t* data, size_t size) : data_(data), size_(size) {}
  ~MappedMemory() override { ::munmap(data_, size_); }
  MappedMemory(const MappedMemory&) = delete;
  MappedMemory& operator=(const MappedMemory&) = delete;
  uint8_t* data() override { return data_; }
  size_t size() const override { return size_; }

 private:
  uint8_t* const data_;
  const size_t size_;
};

class SystemThread final : public Task {
 public:
  explicit SystemThread(std::thread thread) : thread_(std::move(thread)) {}
  void Join() override {
    if (thread_.joinable()) thread_.join();
  }

 private:
  std::thread thread_;
};

struct LockedFd {
  explicit LockedFd(int descriptor) : fd(descriptor) {}
  ~LockedFd() { ::close(fd); }
  LockedFd(const LockedFd&) = delete;
  LockedFd& operator=(const LockedFd&) = delete;
  const int fd;
};

std::string FirstLine(const char* path) {
  std::ifstream in(path);
  std::string line;
  std::getline(in, line);
  return line;
}

class ThreadIo final : public Io {
 public:
  Status MakeDir(const std::string& path) override {
    if (::mkdir(path.c_str(), 0700) == 0 || errno == EEXIST) return Status::Ok();
    return FromErrno(errno, path, "mkdir");
  }

  bool Exists(const std::string& path) override { return ::access(path.c_str(), F_OK) == 0; }

  Result<std::unique_ptr<File>> OpenFile(const std::string& path,
                                         const OpenOptions& options) override {
    struct stat st;
    const bool device = ::stat(path.c_str(), &st) == 0 && S_ISBLK(st.st_mode);
    int flags = options.direct ? O_DIRECT : 0;
    if (options.create && !device) flags |= O_CREAT;
    // On a block device, without O_CREAT: fails while it is mounted or part of something else.
    if (options.exclusive && device) flags |= O_EXCL;
    const int fd = ::open(path.c_str(), O_RDWR | O_CLOEXEC | flags, 0600);
    if (fd < 0 && errno == EBUSY)
      return Status(Code::kLocked, path + " is in use (mounted, or part of another device)");
    if (fd < 0) return FromErrno(errno, path, "open");
    return std::unique_ptr<File>(std::make_unique<ThreadFile>(path, fd, device));
  }

  Status Rename(const std::string& from, const std::string& to) override {
    if (::rename(from.c_str(), to.c_str()) != 0) return FromErrno(errno, from, "rename");
    return Status::Ok();
  }

  Status SyncDir(const std::string& path) override {
    const int fd = ::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return FromErrno(errno, path, "open");
    const int rc = ::fsync(fd);
    const int error = errno;
    ::close(fd);
    return rc == 0 ? Status::Ok() : FromErrno(error, path, "fsync");
  }

  Result<std::shared_ptr<void>> Lock(const std::string& path) override {
    const int fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0) return FromErrno(errno, path, "open");
    auto held = std::make_shared<LockedFd>(fd);
    // flock belongs to the open file, so it also refuses a second open in the same process, and
    // dies with the process.
    if (::flock(fd, LOCK_EX | LOCK_NB) != 0) {
      if (errno != EWOULDBLOCK) return FromErrno(errno, path, "lock");
      return Status(Code::kLocked,
                    path + " is locked: another flashlun server has this pool open; stop it first");
    }
    return std::shared_ptr<void>(std::move(held));
  }

  Result<std::unique_ptr<SharedMemory>> MapShared(const std::string& path, size_t size) override {
    const int fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0) return FromErrno(errno, path, "open");
    const LockedFd closer(fd);
    // Allocated, not sparse: a store into a hole on a full file system would be SIGBUS.
    if (const int error = ::posix_fallocate(fd, 0, static_cast<off_t>(size)); error != 0)
      return FromErrno(error, path, "allocation");
    void* data = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (data == MAP_FAILED) return FromErrno(errno, path, "mmap");
    return std::unique_ptr<SharedMemory>(
        std::make_unique<MappedMemory>(static_cast<uint8_t*>(data), size));
  }

  std::string BootId() override { return FirstLine("/proc/sys/kernel/random/boot_id"); }
  std::string NewUuid() override { return FirstLine("/proc/sys/kernel/random/uuid"); }

  int64_t UnixMs() override {
    using std::chrono::duration_cast;
    using std::chrono::milliseconds;
    return duration_cast<milliseconds>(std::chrono::system_clock::now().time_since_epoch()).count();
  }

  std::unique_ptr<Task> Spawn(const char* name, std::function<void()> body) override {
    std::thread thread(std::move(body));
    ::pthread_setname_np(thread.native_handle(), name);
    return std::make_unique<SystemThread>(std::move(thread));
  }
};

}  // namespace

std::unique_ptr<Io> MakeThreadIo() { return std::make_unique<ThreadIo>(); }

}  // namespace flashlun
