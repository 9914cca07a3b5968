#include "core/mirror.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "core/crc32c.h"
#include "core/mutation.h"
#include "core/records.h"

namespace flashlun {
namespace {

constexpr uint64_t kWitnessMagic = 0x31544e54494d4c46;   // "FLMITNT1"
constexpr uint64_t kIdentityMagic = 0x3150434154454d46;  // "FMETACP1"
// Compared and copied at a time: what stays in a core's cache.
constexpr size_t kPieceBytes = 128 << 10;
static_assert(kIdentityOffset + kBlockBytes <= kPieceBytes);

struct DiskWitness {
  uint64_t magic;
  uint32_t version;
  uint32_t crc;  // of the block with crc = 0
  char pool_uuid[40];
  uint64_t sequence;
  uint64_t open_epoch;
  uint32_t place;
  uint32_t counts;
  char mirror_path[kMaxPoolPathBytes];  // ends with a zero byte
};
static_assert(sizeof(DiskWitness) <= kBlockBytes);

struct DiskIdentity {
  uint64_t magic;
  uint32_t copy;
  uint32_t crc;  // of the block with crc = 0
  char pool_uuid[40];
};

// The checksum of a block whose own is at byte `at`.
uint32_t CrcWithout(const uint8_t* block, size_t at) {
  const uint32_t zero = 0;
  const uint32_t crc = Crc32c(Crc32c(0, block, at), &zero, sizeof zero);
  return Crc32c(crc, block + at + sizeof zero, kBlockBytes - at - sizeof zero);
}

template <typename Record>
void Seal(const Record& record, uint8_t* block) {
  std::memset(block, 0, kBlockBytes);
  std::memcpy(block, &record, sizeof record);
  const uint32_t crc = CrcWithout(block, offsetof(Record, crc));
  std::memcpy(block + offsetof(Record, crc), &crc, sizeof crc);
}

template <size_t N>
void PutText(const std::string& text, char (&field)[N]) {
  std::memcpy(field, text.data(), std::min(text.size(), N - 1));
}

template <size_t N>
std::string TakeText(const char (&field)[N]) {
  return std::string(field, ::strnlen(field, N));
}

// The bytes of a piece that both copies have in common begin and end here: all but the identity.
bool SamePiece(uint64_t offset, const uint8_t* a, const uint8_t* b, size_t len) {
  if (offset > kIdentityOffset || offset + len <= kIdentityOffset)
    return std::memcmp(a, b, len) == 0;
  const size_t before = kIdentityOffset - offset;
  const size_t behind = before + kBlockBytes;
  return std::memcmp(a, b, before) == 0 && std::memcmp(a + behind, b + behind, len - behind) == 0;
}

Status WritePiece(File& to, uint64_t offset, const uint8_t* bytes, size_t len) {
  if (offset > kIdentityOffset || offset + len <= kIdentityOffset)
    return to.Pwrite(offset, bytes, len);
  const size_t before = kIdentityOffset - offset;
  const size_t behind = before + kBlockBytes;
  if (Status status = to.Pwrite(offset, bytes, before); !status.ok()) return status;
  return to.Pwrite(offset + behind, bytes + behind, len - behind);
}

Result<uint64_t> LargerSize(File& a, File& b) {
  Result<uint64_t> one = a.Size();
  if (!one.ok()) return one;
  Result<uint64_t> other = b.Size();
  if (!other.ok()) return other;
  return std::max(one.value(), other.value());
}

}  // namespace

Result<Witness> ReadWitness(File& tracks) {
  Witness newest;
  Status unreadable;
  for (uint32_t place = 0; place < std::size(kWitnessOffsets); ++place) {
    uint8_t block[kBlockBytes];
    if (Status status = tracks.Pread(kWitnessOffsets[place], block, kBlockBytes); !status.ok()) {
      unreadable = std::move(status);  // the other place may do
      continue;
    }
    const auto disk = ReadRecord<DiskWitness>(block);
    if (disk.magic != kWitnessMagic || disk.version != kFormatVersion || disk.place != place ||
        disk.crc != CrcWithout(block, offsetof(DiskWitness, crc)) ||
        disk.counts > static_cast<uint32_t>(Counts::kOnlyMirror) ||
        disk.mirror_path[kMaxPoolPathBytes - 1] != 0 || disk.sequence <= newest.sequence)
      continue;
    newest.sequence = disk.sequence;
    newest.open_epoch = disk.open_epoch;
    newest.counts = static_cast<Counts>(disk.counts);
    newest.pool_uuid = TakeText(disk.pool_uuid);
    newest.mirror_path = TakeText(disk.mirror_path);
  }
  if (newest.sequence == 0 && !unreadable.ok()) return unreadable;
  return newest;
}

Status WriteWitness(File& tracks, const Witness& witness, bool* lost) {
  *lost = false;
  for (uint32_t place = 0; place < std::size(kWitnessOffsets); ++place) {
    DiskWitness disk{};
    disk.magic = kWitnessMagic;
    disk.version = kFormatVersion;
    PutText(witness.pool_uuid, disk.pool_uuid);
    disk.sequence = witness.sequence;
    disk.open_epoch = witness.open_epoch;
    disk.place = place;
    disk.counts = static_cast<uint32_t>(witness.counts);
    PutText(witness.mirror_path, disk.mirror_path);
    uint8_t block[kBlockBytes];
    Seal(disk, block);
    if (Status status = tracks.Pwrite(kWitnessOffsets[place], block, kBlockBytes); !status.ok())
      return status;
    if (Status status = tracks.Fdatasync(); !status.ok()) {
      *lost = true;
      return status;
    }
  }
  return Status::Ok();
}

Result<Identity> ReadIdentity(File& meta, const std::string& pool_uuid, size_t copy) {
  uint8_t block[kBlockBytes];
  if (Status status = meta.Pread(kIdentityOffset, block, kBlockBytes); !status.ok()) return status;
  const auto disk = ReadRecord<DiskIdentity>(block);
  if (disk.magic != kIdentityMagic || disk.crc != CrcWithout(block, offsetof(DiskIdentity, crc)))
    return Identity::kNone;
  return disk.copy == copy && TakeText(disk.pool_uuid) == pool_uuid ? Identity::kMatches
                                                                    : Identity::kOther;
}

Status WriteIdentity(File& meta, const std::string& pool_uuid, size_t copy) {
  DiskIdentity disk{};
  disk.magic = kIdentityMagic;
  disk.copy = static_cast<uint32_t>(copy);
  PutText(pool_uuid, disk.pool_uuid);
  uint8_t block[kBlockBytes];
  Seal(disk, block);
  return meta.Pwrite(kIdentityOffset, block, kBlockBytes);
}

// The identity is durable before anything else is written to a new mirror: without it, what was
// begun is zeroes.
Status CheckMirrorUnused(File& file, const std::string& pool_uuid) {
  if (file.fixed_size())
    return Status(Code::kInvalid, file.path() + " refused: the mirror of the metadata is a file");
  Result<Identity> identity = ReadIdentity(file, pool_uuid, 1);
  if (!identity.ok()) return identity.TakeStatus();
  if (identity.value() == Identity::kMatches) return Status::Ok();
  Result<uint64_t> size = file.Size();
  if (!size.ok()) return size.TakeStatus();
  std::vector<uint8_t> begin(kJournalOffset);
  if (Status status = file.Pread(0, begin.data(), begin.size()); !status.ok()) return status;
  const auto zero = [](uint8_t byte) { return byte == 0; };
  const auto identity_at = begin.begin() + static_cast<std::ptrdiff_t>(kIdentityOffset);
  const bool unused = identity.value() == Identity::kNone && size.value() <= kJournalOffset &&
                      std::all_of(begin.begin(), identity_at, zero) &&
                      std::all_of(identity_at + kBlockBytes, begin.end(), zero);
  if (unused) return Status::Ok();
  return Status(Code::kExists, file.path() +
                                   " refused as the mirror of the metadata: it holds something "
                                   "else; name a new file on another disk, or remove this one");
}

Status CheckMetaCopy(const Witness& witness, size_t copy, File& file, Access access,
                     Superblock* superblock) {
  const auto refused = [&file](const char* why) {
    return Status(Code::kCorrupt, file.path() + " is " + why);
  };
  if (!CopyCounts(witness.counts, copy) && !Mutated(Mutation::kStaleCopyUsed))
    return refused("out of date: it failed or was missing while the other copy went on");
  Result<Superblock> read = ReadSuperblock(file, access);
  if (!read.ok()) return read.TakeStatus();
  *superblock = std::move(read.value());
  Result<Identity> identity = ReadIdentity(file, witness.pool_uuid, copy);
  if (superblock->pool_uuid != witness.pool_uuid ||
      (identity.ok() && identity.value() == Identity::kOther))
    return refused("of another pool, or the other copy of this one under a wrong name");
  // What is cut off reads as a journal in which nothing was ever written.
  Result<uint64_t> size = file.Size();
  if (!size.ok()) return size.TakeStatus();
  if (size.value() < PagesOffset(superblock->journal_blocks))
    return refused("damaged: it ends inside the journal");
  if (superblock->open_epoch > witness.open_epoch)
    return refused(
        "of a later session than the tracks (was the pool directory restored from a backup?)");
  if (superblock->open_epoch + 1 < witness.open_epoch)
    return refused("of an earlier session than the tracks (was it restored from a backup?)");
  return Status::Ok();
}

Result<bool> SameContent(File& a, File& b) {
  Result<uint64_t> size = LargerSize(a, b);
  if (!size.ok()) return size.TakeStatus();
  std::vector<uint8_t> of_a(kPieceBytes);
  std::vector<uint8_t> of_b(kPieceBytes);
  for (uint64_t at = 0; at < size.value(); at += kPieceBytes) {
    if (Status status = a.Pread(at, of_a.data(), kPieceBytes); !status.ok()) return status;
    if (Status status = b.Pread(at, of_b.data(), kPieceBytes); !status.ok()) return status;
    if (!SamePiece(at, of_a.data(), of_b.data(), kPieceBytes)) return false;
  }
  return true;
}

Status MakeEqual(File& from, File& to, bool fresh, uint64_t solid) {
  Result<uint64_t> size = from.Size();
  Result<uint64_t> larger = LargerSize(from, to);
  if (!size.ok() || !larger.ok()) return size.ok() ? larger.TakeStatus() : size.TakeStatus();
  // Before anything is written: what comes later then finds its space.
  if (Status status = to.Allocate(0, size.value()); !status.ok()) return status;
  std::vector<uint8_t> right(kPieceBytes);
  std::vector<uint8_t> there(kPieceBytes);
  for (uint64_t at = 0; at < larger.value(); at += kPieceBytes) {
    const size_t len = std::min<uint64_t>(kPieceBytes, larger.value() - at);
    if (Status status = from.Pread(at, right.data(), len); !status.ok()) return status;
    const bool written = (!fresh || at >= solid) && to.Pread(at, there.data(), len).ok();
    if (written && SamePiece(at, right.data(), there.data(), len)) continue;
    if (Status status = WritePiece(to, at, right.data(), len); !status.ok()) return status;
  }
  return Status::Ok();
}

void MetaCopies::SetProblem(std::string problem) {
  auto lock = monitor_.Acquire();
  problem_ = std::move(problem);
}

std::string MetaCopies::problem() {
  auto lock = monitor_.Acquire();
  return problem_;
}

Status MetaCopies::Drop(size_t copy, const Status& why) {
  auto lock = monitor_.Acquire();
  while (declaring_) declared_.Wait(lock);
  if (!live(copy)) return Status::Ok();  // somebody else met the same error
  if (!live(1 - copy) || broken_) return Status(why.code(), why.message());
  declaring_ = true;
  lock.unlock();
  Status status;
  if (!Mutated(Mutation::kDropUnwitnessed)) status = declare_(OnlyCopy(1 - copy));
  lock.lock();
  declaring_ = false;
  declared_.NotifyAll();
  if (!status.ok()) {
    broken_ = true;
    return Status(why.code(), why.message() +
                                  ", and it could not be recorded that only the other "
                                  "copy counts: " +
                                  status.message());
  }
  live_[copy].store(false);
  problem_ = std::string(kMetaCopyNames[copy]) + " copy failed: " + why.message();
  return Status::Ok();
}

// The change goes to every copy that counts. One that fails is dropped if another one has it. No
// space is no damage: the caller gives up or tries later, as it does without a mirror.
Status MirroredFile::OnEach(const Change& change) {
  std::array<Status, kMetaCopies> failed;
  size_t good = 0;
  const Status* first = nullptr;
  for (size_t copy = 0; copy < kMetaCopies; ++copy) {
    if (files_[copy] == nullptr || !copies_.live(copy)) continue;
    failed[copy] = change(*files_[copy]);
    if (failed[copy].ok())
      ++good;
    else if (first == nullptr || first->code() == Code::kNoSpace)
      first = &failed[copy];
  }
  if (first == nullptr) return Status::Ok();
  const bool full = std::any_of(failed.begin(), failed.end(), [](const Status& status) {
    return status.code() == Code::kNoSpace;
  });
  if (good == 0 || full) return Status(first->code(), first->message());
  for (size_t copy = 0; copy < kMetaCopies; ++copy)
    if (!failed[copy].ok())
      if (Status status = copies_.Drop(copy, failed[copy]); !status.ok()) return status;
  return Status::Ok();
}

Status MirroredFile::Pwrite(uint64_t offset, const void* buf, size_t len) {
  return OnEach([=](File& file) { return file.Pwrite(offset, buf, len); });
}
Status MirroredFile::Fdatasync() {
  return OnEach([](File& file) { return file.Fdatasync(); });
}
Status MirroredFile::Allocate(uint64_t offset, uint64_t len) {
  return OnEach([=](File& file) { return file.Allocate(offset, len); });
}
Status MirroredFile::Discard(uint64_t offset, uint64_t len) {
  return OnEach([=](File& file) { return file.Discard(offset, len); });
}
Status MirroredFile::Truncate(uint64_t size) {
  return OnEach([=](File& file) { return file.Truncate(size); });
}
void MirroredFile::StartWriteOut(uint64_t offset, uint64_t len) {
  for (const auto& file : files_)
    if (file) file->StartWriteOut(offset, len);
}
void MirroredFile::DropCache() {
  for (const auto& file : files_)
    if (file) file->DropCache();
}

Status MirroredFile::Pread(uint64_t offset, void* buf, size_t len) {
  Status status(Code::kIo, path() + ": no copy of the metadata counts");
  for (size_t copy = 0; copy < kMetaCopies; ++copy) {
    if (files_[copy] == nullptr || !copies_.live(copy)) continue;
    status = files_[copy]->Pread(offset, buf, len);
    if (status.ok()) return status;
  }
  return status;
}
Status MirroredFile::PreadNoWait(uint64_t offset, void* buf, size_t len) {
  return Pread(offset, buf, len);
}
Result<uint64_t> MirroredFile::Size() {
  for (size_t copy = 0; copy < kMetaCopies; ++copy)
    if (files_[copy] != nullptr && copies_.live(copy)) return files_[copy]->Size();
  return Status(Code::kIo, path() + ": no copy of the metadata counts");
}

}  // namespace flashlun
