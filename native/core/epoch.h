// Epochs: who may still be looking at something that was just taken out of the map.
//
// Every volume operation runs inside a slot that says in which epoch it began. To retire a node, a
// partial record or a track: unlink it, then Advance() gives a stamp; when Passed(stamp) is true,
// every operation that could have seen it has ended. The same slots answer "is anyone still working
// on this volume?" for an establish.
//
// Why it is safe: an operation stores its slot (seq_cst) before it reads the map; the retirer
// unlinks, then scans the slots (seq_cst). Either the scan sees the slot, or the operation's reads
// come after the unlink.
//
// Thread safety: all methods, from any thread. A slot belongs to one thread (fiber) at a time.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdint>
#include <memory>

#include "core/check.h"
#include "core/limits.h"
#include "core/store.h"

namespace flashlun {

class Epochs {
 public:
  OpSlot* AcquireSlot() {
    for (size_t i = 0; i < kMaxOpSlots; ++i) {
      bool expected = false;
      if (!slots_[i].taken.load(std::memory_order_relaxed) &&
          slots_[i].taken.compare_exchange_strong(expected, true)) {
        size_t seen = used_.load();
        while (seen < i + 1 && !used_.compare_exchange_weak(seen, i + 1)) {
        }
        return &slots_[i];
      }
    }
    return nullptr;
  }

  void ReleaseSlot(OpSlot* slot) {
    FL_CHECK(slot->epoch.load() == 0);
    slot->taken.store(false);
  }

  void Enter(OpSlot& slot, const VolumeState* volume) {
    FL_CHECK(slot.epoch.load(std::memory_order_relaxed) == 0);
    slot.volume.store(volume, std::memory_order_relaxed);
    slot.epoch.store(now_.load(std::memory_order_acquire), std::memory_order_relaxed);
    // The slot before everything the operation reads: a store-load order, which needs a full fence.
    std::atomic_thread_fence(std::memory_order_seq_cst);
  }

  void Leave(OpSlot& slot) { slot.epoch.store(0, std::memory_order_release); }

  // Begins a new epoch and returns its number: operations that began earlier have a smaller one.
  uint64_t Advance() { return now_.fetch_add(1, std::memory_order_seq_cst) + 1; }

  // True when no operation that began before the epoch `stamp` is still running.
  bool Passed(uint64_t stamp) const {
    return !Any([stamp](uint64_t epoch, const VolumeState*) { return epoch < stamp; });
  }

  // True when no operation on `volume` that began before the epoch `stamp` is still running.
  bool VolumePassed(const VolumeState* volume, uint64_t stamp) const {
    return !Any([stamp, volume](uint64_t epoch, const VolumeState* v) {
      return epoch < stamp && v == volume;
    });
  }

 private:
  template <typename Predicate>
  bool Any(Predicate predicate) const {
    const size_t used = used_.load(std::memory_order_seq_cst);
    for (size_t i = 0; i < used; ++i) {
      const uint64_t epoch = slots_[i].epoch.load(std::memory_order_seq_cst);
      if (epoch != 0 && predicate(epoch, slots_[i].volume.load(std::memory_order_relaxed)))
        return true;
    }
    return false;
  }

  std::atomic<uint64_t> now_{1};
  std::atomic<size_t> used_{0};  // slots ever taken: bounds the scan
  std::unique_ptr<std::array<OpSlot, kMaxOpSlots>> storage_ =
      std::make_unique<std::array<OpSlot, kMaxOpSlots>>();
  std::array<OpSlot, kMaxOpSlots>& slots_ = *storage_;
};

}  // namespace flashlun
