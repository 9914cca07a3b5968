// The mirror of the metadata: a second file with the bytes of `meta`, on another disk.
//
//   copy 0   `meta` in the pool directory
//   copy 1   the mirror, wherever the user wants it
//
// Everything that is written goes to both, and a write or flush has succeeded when it did on every
// copy that counts. Which ones count is a durable fact, not a guess of the next open: the witness,
// a record in the first MiB of `tracks`, whose loss is the loss of the pool anyway. When one copy
// fails, the witness first says that only the other one counts; only then does anything go on. A
// copy that does not count is never read again until it was made equal to the one that does.
//
// Each copy carries its number and the pool's uuid, so that swapped or foreign files are noticed.
//
// Thread safety: MetaCopies any thread; a MirroredFile as its files; the rest: none.
#pragma once

#include <array>
#include <atomic>
#include <functional>
#include <memory>
#include <string>

#include "core/io.h"
#include "core/limits.h"
#include "core/superblock.h"
#include "core/sync.h"

namespace flashlun {

inline constexpr size_t kMetaCopies = 2;
inline constexpr const char* kMetaCopyNames[kMetaCopies] = {"the pool's own", "the mirror"};

// Which copies hold all that was ever acknowledged.
enum class Counts : uint32_t { kBoth = 0, kOnlyPrimary = 1, kOnlyMirror = 2 };
inline Counts OnlyCopy(size_t copy) {
  return copy == 0 ? Counts::kOnlyPrimary : Counts::kOnlyMirror;
}
inline bool CopyCounts(Counts counts, size_t copy) {
  return counts == Counts::kBoth || counts == OnlyCopy(copy);
}

struct Witness {
  uint64_t sequence = 0;  // +1 with every record; 0: there is none
  // The newest session that may have begun: a copy of a later one is not of this pool's past.
  uint64_t open_epoch = 0;
  Counts counts = Counts::kOnlyPrimary;
  std::string pool_uuid;
  std::string mirror_path;  // empty: no mirror

  bool attached() const { return !mirror_path.empty(); }
};

// Where the two places of the witness are in `tracks`.
inline constexpr uint64_t kWitnessOffsets[2] = {256 << 10, 768 << 10};

// The newest record; sequence 0 when neither place holds one.
Result<Witness> ReadWitness(File& tracks);
// Both places, one behind the other and each durable before the next: a crash leaves the old record
// or the new one, and damage to one place takes nothing. `lost`: a flush failed, and with it
// perhaps data of the file.
Status WriteWitness(File& tracks, const Witness& witness, bool* lost);

// The block of a copy that differs from the other's.
inline constexpr uint64_t kIdentityOffset = 8192;
enum class Identity { kMatches, kNone, kOther };
Result<Identity> ReadIdentity(File& meta, const std::string& pool_uuid, size_t copy);
Status WriteIdentity(File& meta, const std::string& pool_uuid, size_t copy);
// Whether a file may become the mirror: empty, a former mirror of this pool, or what an interrupted
// creation left. kExists.
Status CheckMirrorUnused(File& file, const std::string& pool_uuid);

// OK, or why an open cannot begin with this copy: the witness does not count it, it is another one,
// of another pool or of another time, or has no superblock.
Status CheckMetaCopy(const Witness& witness, size_t copy, File& file, Access access,
                     Superblock* superblock);

// Whether two copies hold the same bytes, but for the identity block.
Result<bool> SameContent(File& a, File& b);
// Makes `to` equal to `from`, but for the identity block, and reserves its space. What differs is
// rewritten; what cannot be read of `to` differs. Not durable yet. `fresh`: everything up to byte
// `solid` is written, not only what differs, so that its extents are.
Status MakeEqual(File& from, File& to, bool fresh, uint64_t solid);

// What is known of the copies of an open pool.
class MetaCopies {
 public:
  // Makes a new state of the witness durable.
  using Declare = std::function<Status(Counts)>;
  explicit MetaCopies(Declare declare) : declare_(std::move(declare)) {}

  bool live(size_t copy) const { return live_[copy].load(); }
  // Before the tasks of the pool begin.
  void SetLive(size_t copy, bool live) { live_[copy].store(live); }
  void SetProblem(std::string problem);
  // Empty, or why one copy does not count.
  std::string problem();

  // A copy failed: it counts no longer when this returns OK. Not OK: it was the last one, or that
  // could not be recorded; nothing may be acknowledged.
  Status Drop(size_t copy, const Status& why);

 private:
  const Declare declare_;
  std::array<std::atomic<bool>, kMetaCopies> live_{};
  Monitor monitor_;
  Condition declared_;
  bool declaring_ = false;
  bool broken_ = false;  // the witness could not be written
  std::string problem_;
};

// The copies as one file. Both get every change; reads come from the first one that counts.
class MirroredFile final : public File {
 public:
  MirroredFile(std::string path, MetaCopies& copies) : File(std::move(path)), copies_(copies) {}
  // Before the file is used by more than one thread.
  void SetCopy(size_t copy, std::unique_ptr<File> file) { files_[copy] = std::move(file); }
  File* copy(size_t copy) const { return files_[copy].get(); }

  Status Pread(uint64_t offset, void* buf, size_t len) override;
  Status PreadNoWait(uint64_t offset, void* buf, size_t len) override;
  Status Pwrite(uint64_t offset, const void* buf, size_t len) override;
  Status Fdatasync() override;
  Status Allocate(uint64_t offset, uint64_t len) override;
  Status Discard(uint64_t offset, uint64_t len) override;
  void StartWriteOut(uint64_t offset, uint64_t len) override;
  void DropCache() override;
  Result<uint64_t> Size() override;
  Status Truncate(uint64_t size) override;

 private:
  using Change = std::function<Status(File&)>;
  Status OnEach(const Change& change);

  MetaCopies& copies_;
  std::array<std::unique_ptr<File>, kMetaCopies> files_;
};

}  // namespace flashlun
