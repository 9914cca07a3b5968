#include "core/pages.h"

#include <algorithm>

#include "core/check.h"

namespace flashlun {
namespace {

// One growth step: 4 MiB, the checkpoint of a gigabyte of scattered first writes.
constexpr uint64_t kGrowPages = 1024;
// 64 TiB of thin volumes with two whole checkpoints of wide leaves fit eight times.
constexpr uint64_t kMaxPages = uint64_t{1} << 32;

constexpr uint64_t kNoPage = UINT64_MAX;

}  // namespace

bool PageStore::MarkUsed(uint64_t page, uint64_t count) {
  if (page >= kMaxPages || count > kMaxPages - page) return false;
  if (used_bits_.size() < page + count) used_bits_.resize(page + count);
  for (uint64_t i = page; i < page + count; ++i) {
    if (used_bits_[i]) return false;
    used_bits_[i] = true;
  }
  used_ += count;
  return true;
}

uint64_t PageStore::FindRun(uint64_t from, uint64_t to, uint64_t count) const {
  uint64_t run = 0;
  for (uint64_t page = from; page < to; ++page) {
    run = used_bits_[page] ? 0 : run + 1;
    if (run == count) return page + 1 - count;
  }
  return kNoPage;
}

Result<uint64_t> PageStore::Allocate(uint64_t count) {
  FL_CHECK(count != 0);
  uint64_t page = FindRun(cursor_, used_bits_.size(), count);
  if (page == kNoPage) page = FindRun(0, used_bits_.size(), count);
  if (page == kNoPage) {
    page = used_bits_.size();
    while (page != 0 && !used_bits_[page - 1]) --page;  // free pages at the end belong to the run
    if (Status status = Grow(page + count - used_bits_.size()); !status.ok()) return status;
  }
  for (uint64_t i = page; i < page + count; ++i) used_bits_[i] = true;
  used_ += count;
  cursor_ = page + count;
  return page;
}

void PageStore::Free(uint64_t page, uint64_t count) {
  for (uint64_t i = page; i < page + count; ++i) {
    FL_CHECK(used_bits_[i]);
    used_bits_[i] = false;
  }
  used_ -= count;
}

Status PageStore::Reserve(uint64_t pages) {
  const uint64_t free = used_bits_.size() - used_;
  return free >= pages ? Status::Ok() : Grow(pages - free);
}

Status PageStore::Grow(uint64_t pages) {
  const uint64_t step = (pages + kGrowPages - 1) / kGrowPages * kGrowPages;
  const uint64_t begin = used_bits_.size();
  if (begin + step > kMaxPages)
    return Status(Code::kNoSpace, file_.path() + ": the page area has reached its limit of 16 TiB");
  Status status = file_.Allocate(offset_ + begin * kPageBytes, step * kPageBytes);
  if (status.ok()) used_bits_.resize(begin + step);
  return status;
}

}  // namespace flashlun
