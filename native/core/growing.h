// Growing: an array that grows while others read it, without a lock and without moving an element.
//
// Segment k holds the 2^k elements from index 2^k - 1 on. Growth adds segments (or fills the last
// one); an element keeps its address until the array ends. That is what makes an online resize of a
// volume safe: a running operation that looked up a place goes on using the same place, and there
// is no old copy that a late writer could still change, so nothing needs a grace period.
//
// Thread safety: operator[] from any thread for an index below a size() that the thread has seen,
// or learned from something stored (release) after GrowTo. GrowTo by one thread at a time.
#pragma once

#include <array>
#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <memory>

#include "core/check.h"

namespace flashlun {

template <typename T>
class Growing {
 public:
  explicit Growing(size_t size) { GrowTo(size); }
  ~Growing() {
    for (auto& segment : segments_) delete[] segment.load(std::memory_order_relaxed);
  }
  Growing(const Growing&) = delete;
  Growing& operator=(const Growing&) = delete;

  size_t size() const { return size_.load(std::memory_order_acquire); }

  T& operator[](size_t index) const {
    const auto segment = static_cast<size_t>(std::bit_width(index + 1) - 1);
    return segments_[segment].load(std::memory_order_acquire)[index + 1 - (size_t{1} << segment)];
  }

  // New elements are value-initialized. Never shrinks.
  void GrowTo(size_t size) {
    for (size_t segment = 0; (size_t{1} << segment) - 1 < size; ++segment) {
      FL_CHECK(segment < kSegments);
      if (segments_[segment].load(std::memory_order_relaxed) == nullptr)
        segments_[segment].store(new T[size_t{1} << segment]{}, std::memory_order_release);
    }
    if (size > this->size()) size_.store(size, std::memory_order_release);
  }

  class Iterator {
   public:
    Iterator(const Growing& array, size_t index) : array_(&array), index_(index) {}
    T& operator*() const { return (*array_)[index_]; }
    Iterator& operator++() {
      ++index_;
      return *this;
    }
    bool operator!=(const Iterator& other) const { return index_ != other.index_; }

   private:
    const Growing* array_;
    size_t index_;
  };
  Iterator begin() const { return Iterator(*this, 0); }
  Iterator end() const { return Iterator(*this, size()); }

 private:
  // Up to 2^16 - 1 elements: the inherited-leaf words of a 64 TiB volume are 2^15.
  static constexpr size_t kSegments = 16;
  std::array<std::atomic<T*>, kSegments> segments_{};
  std::atomic<size_t> size_{0};
};

}  // namespace flashlun
