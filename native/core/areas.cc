#include "core/areas.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "core/crc32c.h"
#include "core/mutation.h"
#include "core/superblock.h"

namespace flashlun {
namespace {

constexpr uint64_t kLabelMagic = 0x31534b4354534c46;  // "FLSTCKS1"

// First bytes of an area.
struct AreaLabel {
  uint64_t magic;
  uint32_t version;
  uint32_t crc;  // over the label with crc = 0
  char pool_uuid[40];
  uint32_t area;
  uint32_t reserved;
};

AreaLabel MakeLabel(const std::string& uuid, uint32_t area) {
  AreaLabel label{};
  label.magic = kLabelMagic;
  label.version = kFormatVersion;
  std::memcpy(label.pool_uuid, uuid.data(), std::min(uuid.size(), sizeof label.pool_uuid - 1));
  label.area = area;
  label.crc = Crc32c(0, &label, sizeof label);
  return label;
}

bool AllZero(const std::vector<uint8_t>& bytes) {
  return std::all_of(bytes.begin(), bytes.end(), [](uint8_t byte) { return byte == 0; });
}

// Whether a file may become an area: new, zeroed, or what an interrupted creation of this very area
// left.
Status CheckUnused(File& file, const AreaLabel& label) {
  std::vector<uint8_t> begin(Areas::kTracksOffset);
  if (Status status = file.Pread(0, begin.data(), begin.size()); !status.ok()) return status;
  AreaLabel found;
  std::memcpy(&found, begin.data(), sizeof found);
  if (std::memcmp(&found, &label, sizeof found) == 0) return Status::Ok();
  if (found.magic == kLabelMagic)
    return Status(Code::kExists,
                  file.path() + " refused: it belongs to pool " +
                      std::string(found.pool_uuid, sizeof found.pool_uuid - 1).c_str() +
                      "; name another file, or wipe its first MiB if it is unused");
  bool zeroes = AllZero(begin);
  if (zeroes && file.fixed_size()) {
    // Copies of partition tables and labels of RAID members are at the end.
    Result<uint64_t> size = file.Size();
    if (!size.ok()) return size.TakeStatus();
    const uint64_t end = size.value() - std::min<uint64_t>(size.value(), begin.size());
    if (Status status = file.Pread(end, begin.data(), begin.size()); !status.ok()) return status;
    zeroes = AllZero(begin);
  }
  if (zeroes) return Status::Ok();
  return Status(Code::kExists, file.path() +
                                   " refused: it holds data in its first or last MiB; name "
                                   "another file or device, or wipe this one first (wipefs -a, "
                                   "blkdiscard)");
}

}  // namespace

Status Areas::Create(Io& io, const AreaSpec& area, const std::string& path,
                     const std::string& pool_uuid) {
  Result<std::unique_ptr<File>> opened = io.OpenFile(path, {.create = true, .exclusive = true});
  if (!opened.ok()) return opened.TakeStatus();
  File& file = *opened.value();
  const AreaLabel label = MakeLabel(pool_uuid, area.number);
  if (Status status = CheckUnused(file, label); !status.ok()) return status;
  Status status;
  if (file.fixed_size()) {
    Result<uint64_t> size = file.Size();
    if (!size.ok()) return size.TakeStatus();
    if (size.value() < kTracksOffset ||
        (size.value() - kTracksOffset) / kTrackBytes < area.capacity_tracks)
      return Status(Code::kInvalid, path + " refused: the device has " +
                                        std::to_string(size.value()) +
                                        " bytes, 1 MiB of them for the label; name a smaller size");
  } else {
    status = file.Truncate(kTracksOffset);
  }
  if (status.ok()) status = file.Pwrite(0, &label, sizeof label);
  if (Mutated(Mutation::kPoolNotSynced)) return status;
  if (status.ok()) status = file.Fdatasync();
  if (status.ok() && !file.fixed_size())
    status =
        io.SyncDir(path.find('/') == std::string::npos ? "." : path.substr(0, path.rfind('/') + 1));
  return status;
}

Status Areas::Open(Io& io, const AreaSpec& area, const std::string& path,
                   const std::string& pool_uuid, const AreaOptions& how) {
  Result<std::unique_ptr<File>> opened = io.OpenFile(
      path, {.direct = how.direct, .read_only = how.read_only, .exclusive = !how.read_only});
  if (!opened.ok() && io.Exists(path)) return opened.TakeStatus();  // not missing
  if (!opened.ok())
    return Status(Code::kCorrupt,
                  opened.status().message() +
                      "; it holds tracks of the pool, which cannot be opened without it: bring the "
                      "file or device back");
  std::unique_ptr<File> file = std::move(opened.value());
  if (!how.read_only)
    if (Status status = file->Fdatasync(); !status.ok()) return status;
  if (how.drop_cache) file->DropCache();
  AreaLabel label;
  if (Status status = file->Pread(0, &label, sizeof label); !status.ok()) return status;
  const AreaLabel expected = MakeLabel(pool_uuid, area.number);
  if (std::memcmp(&label, &expected, sizeof label) != 0 && !Mutated(Mutation::kLabelUnchecked))
    return Status(Code::kCorrupt,
                  path + ": damaged, or of another pool: its label does not match pool " +
                      pool_uuid + "; nothing was changed: restore the file from a backup");
  areas_[area.number].file = std::move(file);
  areas_[area.number].open.store(true);
  return Status::Ok();
}

bool Areas::dirty() const {
  return std::any_of(areas_.begin(), areas_.end(), [](const Area& a) { return a.dirty.load(); });
}

uint32_t Areas::TakeDirty() {
  uint32_t taken = 0;
  for (uint32_t i = 0; i < kMaxAreas; ++i)
    if (areas_[i].dirty.load() && areas_[i].dirty.exchange(false)) taken |= 1u << i;
  return taken;
}

uint32_t Areas::All() const {
  uint32_t all = 0;
  for (uint32_t i = 0; i < kMaxAreas; ++i)
    if (areas_[i].open.load()) all |= 1u << i;
  return all;
}

void Areas::StartWriteOut() {
  for (Area& area : areas_)
    if (area.open.load()) area.file->StartWriteOut(0, 0);
}

Status Areas::Fdatasync(uint32_t areas) {
  for (uint32_t i = 0; i < kMaxAreas; ++i) {
    if (!(areas >> i & 1)) continue;
    Status status = areas_[i].file->Fdatasync();
    if (!status.ok() || Mutated(Mutation::kFlushOneArea)) return status;
  }
  return Status::Ok();
}

}  // namespace flashlun
