// A load like fsx's: random writes, reads, truncations, holes and mappings of one file, every read
// compared with a model in memory. For guests, so it is linked statically and needs nothing.
//
//   file_exerciser FILE SEED OPERATIONS MAX_BYTES
//
// Prints "exercised N operations" and ends with 0; or says which operation found what, and ends
// with 1. The same seed does the same.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

namespace {

constexpr uint64_t kMaxTransfer = 128 * 1024;

class Exerciser {
 public:
  Exerciser(std::string path, uint64_t seed, uint64_t max_bytes)
      : path_(std::move(path)), state_(seed * 2 + 1), max_bytes_(max_bytes) {
    Open(O_CREAT | O_TRUNC);
  }

  void Run(uint64_t operations) {
    for (operation_ = 1; operation_ <= operations; ++operation_) Step();
    Compare(0, model_.size());
    Sync();
    Forget();
    Compare(0, model_.size());
    std::printf("exercised %llu operations\n", static_cast<unsigned long long>(operations));
  }

 private:
  struct Range {
    uint64_t offset;
    uint64_t length;
  };

  void Step() {
    switch (Below(20)) {
      case 0:
        return Truncate();
      case 1:
        return Punch();
      case 2:
        return WriteMapped();
      case 3:
        return Sync();
      case 4:
        Sync();
        return Forget();
      case 5:
        Check(::close(fd_) == 0, "close");
        return Open(0);
      default:
        return Below(2) == 0 ? Write() : Compare();
    }
  }

  void Write() {
    const Range range = Pick(max_bytes_);
    std::vector<uint8_t> data(range.length);
    for (uint8_t& byte : data) byte = static_cast<uint8_t>(Next() >> 56);
    const ssize_t written = ::pwrite(fd_, data.data(), data.size(), Offset(range.offset));
    Check(written == static_cast<ssize_t>(data.size()), "write");
    model_.resize(std::max(model_.size(), range.offset + range.length));
    std::copy(data.begin(), data.end(), At(range.offset));
  }

  void WriteMapped() {
    if (model_.empty()) return;
    const Range range = Pick(model_.size());
    void* place = ::mmap(nullptr, model_.size(), PROT_READ | PROT_WRITE, MAP_SHARED, fd_, 0);
    Check(place != MAP_FAILED, "mmap");
    const auto value = static_cast<uint8_t>(Next() >> 56);
    std::memset(static_cast<uint8_t*>(place) + range.offset, value, range.length);
    Check(::munmap(place, model_.size()) == 0, "munmap");
    std::fill_n(At(range.offset), range.length, value);
  }

  void Compare() {
    if (model_.empty()) return;
    const Range range = Pick(model_.size());
    Compare(range.offset, range.length);
  }

  void Compare(uint64_t offset, uint64_t length) {
    struct stat about {};
    Check(::fstat(fd_, &about) == 0, "fstat");
    Check(static_cast<uint64_t>(about.st_size) == model_.size(), "the size");
    std::vector<uint8_t> data(length);
    const ssize_t got = ::pread(fd_, data.data(), length, Offset(offset));
    Check(got == static_cast<ssize_t>(length), "read");
    const auto wrong = std::mismatch(data.begin(), data.end(), At(offset));
    if (wrong.first == data.end()) return;
    std::printf("operation %llu: byte %llu of %s is %u, not %u\n",
                static_cast<unsigned long long>(operation_),
                static_cast<unsigned long long>(offset) + (wrong.first - data.begin()),
                path_.c_str(), *wrong.first, *wrong.second);
    std::exit(1);
  }

  void Truncate() {
    const uint64_t size = Below(max_bytes_ + 1);
    Check(::ftruncate(fd_, Offset(size)) == 0, "ftruncate");
    model_.resize(size);
  }

  void Punch() {
    if (model_.empty()) return;
    const Range range = Pick(model_.size());
    const int mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
    Check(::fallocate(fd_, mode, Offset(range.offset), Offset(range.length)) == 0, "punch");
    std::fill_n(At(range.offset), range.length, 0);
  }

  void Sync() { Check((Below(2) == 0 ? ::fsync(fd_) : ::fdatasync(fd_)) == 0, "fsync"); }

  /// What was synced leaves the page cache, so that the next reads ask the disk.
  void Forget() { Check(::posix_fadvise(fd_, 0, 0, POSIX_FADV_DONTNEED) == 0, "fadvise"); }

  void Open(int flags) {
    fd_ = ::open(path_.c_str(), O_RDWR | flags, 0600);
    Check(fd_ >= 0, "open");
  }

  void Check(bool good, const char* what) const {
    if (good) return;
    std::printf("operation %llu: %s of %s: %s\n", static_cast<unsigned long long>(operation_), what,
                path_.c_str(), std::strerror(errno));
    std::exit(1);
  }

  /// A range inside the first `size` bytes, at least one byte long.
  Range Pick(uint64_t size) {
    const uint64_t offset = Below(size);
    return {offset, 1 + Below(std::min(kMaxTransfer, size - offset))};
  }

  uint64_t Below(uint64_t bound) { return (Next() >> 16) % bound; }

  /// Of Knuth's MMIX generator; its upper bits are used.
  uint64_t Next() { return state_ = state_ * 6364136223846793005U + 1442695040888963407U; }

  std::vector<uint8_t>::iterator At(uint64_t offset) { return model_.begin() + Offset(offset); }

  static off_t Offset(uint64_t value) { return static_cast<off_t>(value); }

  const std::string path_;
  uint64_t state_;
  const uint64_t max_bytes_;
  /// What the file must hold.
  std::vector<uint8_t> model_;
  uint64_t operation_ = 0;
  int fd_ = -1;
};

}  // namespace

int main(int count, char** arguments) {
  if (count != 5) return 2;
  const auto number = [&](int at) { return std::strtoull(arguments[at], nullptr, 10); };
  Exerciser(arguments[1], number(2), number(4)).Run(number(3));
  return 0;
}
