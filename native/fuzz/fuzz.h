// What the fuzz targets share: how an input is read, and checksums that can be switched off.
//
// A target is one function, LLVMFuzzerTestOneInput: libFuzzer calls it with inputs of its own
// making, replay_main.cc with the kept ones of corpus/. It must not crash, hang or break a
// FL_CHECK whatever the bytes say: damage is a Status.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace flashlun {

// While false, every Crc32c is 0, so bytes made in that time check after any change: the decoder
// behind the checksum sees what the fuzzer wrote. crc_switch.cc replaces the function.
extern bool g_checksums;

class FuzzInput {
 public:
  FuzzInput(const uint8_t* data, size_t size) : data_(data), left_(size) {}
  size_t left() const { return left_; }

  // Little-endian; zero when nothing is left.
  template <typename T>
  T Take() {
    T value = 0;
    const size_t n = left_ < sizeof value ? left_ : sizeof value;
    if (n != 0) std::memcpy(&value, data_, n);
    data_ += n;
    left_ -= n;
    return value;
  }
  std::vector<uint8_t> TakeBytes(size_t count) {
    const size_t n = left_ < count ? left_ : count;
    std::vector<uint8_t> bytes(data_, data_ + n);
    data_ += n;
    left_ -= n;
    return bytes;
  }
  std::vector<uint8_t> Rest() { return TakeBytes(left_); }

 private:
  const uint8_t* data_;
  size_t left_;
};

}  // namespace flashlun
