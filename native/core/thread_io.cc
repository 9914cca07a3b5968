#include "core/thread_io.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <fstream>
#include <thread>

#include "core/limits.h"
#include "core/task_queue.h"
#include "core/thread_file.h"
#include "core/uring_queue.h"

namespace flashlun {
namespace {

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
    int flags = options.read_only ? O_RDONLY : O_RDWR;
    if (options.direct) flags |= O_DIRECT;
    if (options.create && !device) flags |= O_CREAT;
    // On a block device, without O_CREAT: fails while it is mounted or part of something else.
    if (options.exclusive && device) flags |= O_EXCL;
    const int fd = ::open(path.c_str(), O_CLOEXEC | flags, 0600);
    if (fd < 0 && errno == EBUSY)
      return Status(Code::kLocked, path + " is in use (mounted, or part of another device)");
    if (fd < 0 && errno == EINVAL && options.direct)
      return Status(Code::kInvalid, path +
                                        ": its file system has no direct I/O (O_DIRECT): use "
                                        "--cache writeback, or put the data directory on ext4 or "
                                        "XFS");
    if (fd < 0) return FromErrno(errno, path, "open");
    return std::unique_ptr<File>(std::make_unique<ThreadFile>(path, fd, options.direct, device));
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
    int fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    // A pool check of a read-only copy.
    if (fd < 0 && (errno == EROFS || errno == EACCES))
      fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
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

  Result<std::unique_ptr<IoQueue>> MakeQueue(IoBackend backend) override {
    std::string note;
    if (backend != IoBackend::kThreads) {
      Result<std::unique_ptr<IoQueue>> ring = UringQueue::Make(*this);
      if (ring.ok()) return ring;
      if (backend == IoBackend::kUring)
        return Status(ring.status().code(),
                      ring.status().message() + ": use --io auto or --io threads");
      note = ring.status().message();
    }
    return std::unique_ptr<IoQueue>(
        std::make_unique<TaskQueue>(*this, kIoThreads, std::move(note)));
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
