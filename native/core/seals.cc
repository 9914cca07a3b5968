#include "core/seals.h"

#include <algorithm>

#include "core/check.h"

namespace flashlun {

SealNode* Seals::Find(uint64_t track) const {
  const Middle* middle = top_[Slot(track, 3)].load(std::memory_order_acquire);
  if (middle == nullptr) return nullptr;
  const Lower* lower = (*middle)[Slot(track, 2)].load(std::memory_order_acquire);
  return lower == nullptr ? nullptr : (*lower)[Slot(track, 1)].load(std::memory_order_acquire);
}

bool Seals::Install(SealNode* node) {
  FL_CHECK(node->first % kSealTracks == 0);
  std::atomic<Middle*>& top = top_[Slot(node->first, 3)];
  if (top.load(std::memory_order_relaxed) == nullptr) {
    middles_.push_back(std::make_unique<Middle>());
    top.store(middles_.back().get(), std::memory_order_release);
  }
  std::atomic<Lower*>& middle = (*top.load(std::memory_order_relaxed))[Slot(node->first, 2)];
  if (middle.load(std::memory_order_relaxed) == nullptr) {
    lowers_.push_back(std::make_unique<Lower>());
    middle.store(lowers_.back().get(), std::memory_order_release);
  }
  std::atomic<SealNode*>& place = (*middle.load(std::memory_order_relaxed))[Slot(node->first, 1)];
  if (place.load(std::memory_order_relaxed) != nullptr) return false;
  place.store(node, std::memory_order_release);
  nodes_.push_back(node);
  count_.fetch_add(node->sealed, std::memory_order_release);
  return true;
}

void Seals::Set(SealNode& node, uint64_t track, uint32_t seal) {
  const uint32_t old = node.crcs[track % kSealTracks].exchange(seal, std::memory_order_acq_rel);
  if (old == 0 && seal != 0) {
    ++node.sealed;
    count_.fetch_add(1, std::memory_order_release);
  } else if (old != 0 && seal == 0) {
    --node.sealed;
    count_.fetch_sub(1, std::memory_order_release);
  }
}

void Seals::Remove(const SealNode& node) {
  const Middle* middle = top_[Slot(node.first, 3)].load(std::memory_order_relaxed);
  Lower* lower = (*middle)[Slot(node.first, 2)].load(std::memory_order_relaxed);
  (*lower)[Slot(node.first, 1)].store(nullptr, std::memory_order_release);
  nodes_.erase(std::find(nodes_.begin(), nodes_.end(), &node));
}

}  // namespace flashlun
