#include "core/kill_ring.h"

#include <algorithm>
#include <cstring>

#include "core/check.h"
#include "core/crc32c.h"
#include "core/mutation.h"
#include "core/records.h"

namespace flashlun {

struct KillRing::Header {
  static constexpr uint64_t kMagic = 0x31676e6952694b46;  // "FKiRing1"
  uint64_t magic;
  uint32_t identity_crc;  // over uuid, boot id and session
  uint32_t session;       // +1 with every Reset
  char pool_uuid[40];
  char boot_id[40];
  std::atomic<uint64_t> tail;  // one aligned store, so a kill leaves the old or the new value
};

struct KillRing::RecordFrame {
  uint64_t position;
  uint64_t lsn;
  uint32_t length;
  uint32_t crc;  // seeded with the ring's identity; over the frame with crc = 0, then the record

  // The seed keeps bytes of an earlier boot out: after a power loss LSNs and positions begin again
  // where they were.
  uint32_t Checksum(uint32_t identity_crc, const void* record) const {
    RecordFrame copy = *this;
    copy.crc = 0;
    return Crc32c(Crc32c(identity_crc, &copy, sizeof copy), record, length);
  }
};

namespace {

// The session keeps out what an earlier one of the same boot left behind the new records: when its
// last records were lost with a failed flush, their LSNs come again, and frames may lie alike.
uint32_t IdentityCrc(const char (&uuid)[40], const char (&boot)[40], uint32_t session) {
  const uint32_t crc = Crc32c(Crc32c(0, uuid, sizeof uuid), boot, sizeof boot);
  return Crc32c(crc, &session, sizeof session);
}

void CopyString(char (&to)[40], const std::string& from) {
  std::memset(to, 0, sizeof to);
  std::memcpy(to, from.data(), std::min(from.size(), sizeof to - 1));
}

}  // namespace

KillRing::KillRing(std::unique_ptr<SharedMemory> memory)
    : memory_(std::move(memory)),
      ring_(memory_->data() + kHeaderBytes),
      capacity_(memory_->size() - kHeaderBytes) {
  static_assert(sizeof(Header) <= kHeaderBytes && sizeof(RecordFrame) == kRecordOverhead);
  FL_CHECK(memory_->size() >= 2 * kHeaderBytes);
}

KillRing::Header* KillRing::header() const { return reinterpret_cast<Header*>(memory_->data()); }

void KillRing::Reset(const std::string& pool_uuid, const std::string& boot_id) {
  Header* h = header();
  // The identity first becomes invalid: a kill in the middle leaves a ring that nobody believes.
  h->magic = 0;
  std::atomic_signal_fence(std::memory_order_seq_cst);
  CopyString(h->pool_uuid, pool_uuid);
  CopyString(h->boot_id, boot_id);
  ++h->session;
  h->identity_crc = IdentityCrc(h->pool_uuid, h->boot_id, h->session);
  h->tail.store(0);
  std::memset(ring_, 0, capacity_);
  head_ = 0;
  tail_.store(0);
  std::atomic_signal_fence(std::memory_order_seq_cst);
  h->magic = Header::kMagic;
}

void KillRing::Invalidate() {
  header()->magic = 0;
  std::atomic_signal_fence(std::memory_order_seq_cst);
}

void KillRing::Append(uint64_t lsn, const void* record, size_t length) {
  FL_CHECK(Fits(length));
  RecordFrame frame{head_, lsn, static_cast<uint32_t>(length), 0};
  frame.crc = frame.Checksum(header()->identity_crc, record);
  CopyIn(head_ + sizeof frame, record, length);
  CopyIn(head_, &frame, sizeof frame);
  head_ += sizeof frame + length;
  // The stores must be in memory, not in the compiler's registers, before the reply leaves. A
  // SIGKILL stops threads, not the memory: no fence for other CPUs is needed beyond that.
  std::atomic_signal_fence(std::memory_order_seq_cst);
}

void KillRing::SetTail(uint64_t position) {
  header()->tail.store(position, std::memory_order_release);
  tail_.store(position, std::memory_order_release);
}

KillRing::Owner KillRing::OwnerOf(const std::string& pool_uuid, const std::string& boot_id) const {
  const Header* h = header();
  if (h->magic == 0) return Owner::kVoid;
  if (h->magic != Header::kMagic ||
      h->identity_crc != IdentityCrc(h->pool_uuid, h->boot_id, h->session))
    return Owner::kDamaged;
  char uuid[40];
  char boot[40];
  CopyString(uuid, pool_uuid);
  CopyString(boot, boot_id);
  if (std::memcmp(uuid, h->pool_uuid, sizeof uuid) != 0) return Owner::kOtherPool;
  return std::memcmp(boot, h->boot_id, sizeof boot) == 0 ? Owner::kThisBoot : Owner::kOtherBoot;
}

bool KillRing::Recover(const std::string& pool_uuid, const std::string& boot_id, uint64_t after,
                       const std::function<void(uint64_t, const uint8_t*, size_t)>& visit) const {
  if (OwnerOf(pool_uuid, boot_id) != Owner::kThisBoot) return true;
  uint64_t position = header()->tail.load();
  const uint64_t end = position + capacity_;
  uint64_t expected = after + 1;
  RecordFrame frame;
  uint8_t record[kMaxRecordBytes];
  while (ReadFrame(position, end, &frame, record)) {
    if (frame.lsn > expected) return false;
    if (frame.lsn == expected) {
      visit(frame.lsn, record, frame.length);
      ++expected;
    }
    position += sizeof frame + frame.length;
  }
  return !FrameBehind(position, end, expected);
}

// The frame at `position`, when it checks.
bool KillRing::ReadFrame(uint64_t position, uint64_t end, RecordFrame* frame,
                         uint8_t* record) const {
  if (position + sizeof *frame > end) return false;
  CopyOut(position, frame, sizeof *frame);
  if (frame->position != position || frame->length > kMaxRecordBytes ||
      position + sizeof *frame + frame->length > end)
    return false;
  CopyOut(position + sizeof *frame, record, frame->length);
  return frame->crc == frame->Checksum(header()->identity_crc, record) ||
         Mutated(Mutation::kRingUnchecked);
}

// Whether a frame of an LSN from `lsn` on checks anywhere behind `position`.
bool KillRing::FrameBehind(uint64_t position, uint64_t end, uint64_t lsn) const {
  static_assert(sizeof(RecordFrame) % 8 == 0);  // and so are all records (records.h)
  RecordFrame frame;
  uint8_t record[kMaxRecordBytes];
  for (position += 8; position + sizeof frame <= end; position += 8)
    if (ReadFrame(position, end, &frame, record) && frame.lsn >= lsn) return true;
  return false;
}

void KillRing::CopyIn(uint64_t position, const void* data, size_t length) {
  const size_t at = position % capacity_;
  const size_t first = std::min<size_t>(length, capacity_ - at);
  std::memcpy(ring_ + at, data, first);
  std::memcpy(ring_, static_cast<const uint8_t*>(data) + first, length - first);
}

void KillRing::CopyOut(uint64_t position, void* data, size_t length) const {
  const size_t at = position % capacity_;
  const size_t first = std::min<size_t>(length, capacity_ - at);
  std::memcpy(data, ring_ + at, first);
  std::memcpy(static_cast<uint8_t*>(data) + first, ring_, length - first);
}

}  // namespace flashlun
