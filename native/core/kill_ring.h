// KillRing: the records that are not in the journal yet, in memory that survives SIGKILL.
//
// A map change is stored here before its reply leaves, so a killed server loses no acknowledged
// write: the data is in the page cache, the change is in this MAP_SHARED file (track-store.md 3.0
// "Two kinds of crash"). After power loss the ring means nothing; the boot id in its header says
// which of the two happened.
//
//   page 0      header: magic, crc, pool uuid, boot id, tail offset
//   the rest    records as a byte ring: {u64 position, u64 lsn, u32 length, u32 crc} + record
//
// `position` counts bytes since the ring was made and never wraps, so a record of an older lap
// cannot be mistaken. The crc is written with the record; a writer killed in the middle leaves a
// record that does not check, and that one was not acknowledged.
//
// Thread safety: Append and used_bytes under the store's state lock, SetTail from the commit
// thread; tail is atomic.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "core/io.h"

namespace flashlun {

class KillRing {
 public:
  static constexpr size_t kHeaderBytes = 4096;
  static constexpr size_t kRecordOverhead = 24;

  explicit KillRing(std::unique_ptr<SharedMemory> memory);

  // Whose records the ring holds. kVoid: nobody's, it says so itself (Invalidate).
  enum class Owner { kThisBoot, kOtherBoot, kOtherPool, kVoid, kDamaged };
  Owner OwnerOf(const std::string& pool_uuid, const std::string& boot_id) const;

  // Calls `visit` for the records with an LSN above `after`, in order, as far as they are
  // contiguous from after + 1. Nothing when the ring is not this pool's of this boot. False: an
  // intact record stands behind one that is missing or damaged. A kill leaves no such thing: it
  // stops one writer, and records are written in order.
  bool Recover(
      const std::string& pool_uuid, const std::string& boot_id, uint64_t after,
      const std::function<void(uint64_t lsn, const uint8_t* record, size_t length)>& visit) const;

  // What a record of this length takes up.
  static constexpr uint64_t BytesFor(size_t length) { return kRecordOverhead + length; }
  // Makes the ring worthless for recovery: what its records point at may be lost (trap T12).
  void Invalidate();

  // Empties the ring and makes it this session's. All of it: a record that an earlier session left
  // unfinished must not be taken for one behind this session's.
  void Reset(const std::string& pool_uuid, const std::string& boot_id);

  // Precondition: Fits(length).
  void Append(uint64_t lsn, const void* record, size_t length);
  bool Fits(size_t length) const { return used_bytes() + BytesFor(length) <= capacity_; }
  uint64_t used_bytes() const { return head_ - tail_.load(std::memory_order_acquire); }
  uint64_t capacity_bytes() const { return capacity_; }
  // The position behind everything appended so far.
  uint64_t head() const { return head_; }
  // Everything before `position` is durable in the journal: its space may be used again.
  void SetTail(uint64_t position);

 private:
  struct Header;
  struct RecordFrame;

  bool ReadFrame(uint64_t position, uint64_t end, RecordFrame* frame, uint8_t* record) const;
  bool FrameBehind(uint64_t position, uint64_t end, uint64_t lsn) const;
  void CopyIn(uint64_t position, const void* data, size_t length);
  void CopyOut(uint64_t position, void* data, size_t length) const;
  Header* header() const;

  std::unique_ptr<SharedMemory> memory_;
  uint8_t* ring_;
  uint64_t capacity_;
  uint64_t head_ = 0;
  std::atomic<uint64_t> tail_{0};
};

}  // namespace flashlun
