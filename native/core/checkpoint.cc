#include "core/checkpoint.h"

#include <algorithm>
#include <cstring>

#include "core/check.h"
#include "core/crc32c.h"

namespace flashlun {
namespace {

constexpr uint64_t kMagic = 0x3150434e554c5346;  // "FSLUNCP1"
constexpr size_t kBufferBytes = 1 << 20;

struct FileHeader {
  uint64_t magic;
  uint64_t generation;
  uint64_t lsn;
  char pool_uuid[40];
};

enum class SectionType : uint32_t { kLeaf = 1, kIndex = 2, kManifest = 3 };

struct SectionHeader {
  uint32_t type;
  uint32_t bytes;  // of the payload, a multiple of 8
  uint32_t crc;    // of the payload
  uint32_t reserved;
};

struct LeafPayload {
  uint32_t wide;  // 0: 512 x u64 follow; 1: 512 x WideEntry
  uint32_t mapped;
};

// A narrow entry: bits 0-39 physical track, bit 61 inherited, bit 63 mapped.
constexpr uint64_t kNarrowInherited = uint64_t{1} << 61;
constexpr uint64_t kNarrowMapped = uint64_t{1} << 63;

struct WideEntry {
  uint64_t own_and_mask;    // bits 0-39 own, 40 inherited, 48-63 mask
  uint64_t base_and_zmask;  // bits 0-39 base, 48-63 zmask
};
constexpr uint64_t kWideInherited = uint64_t{1} << 40;

struct IndexPayload {
  uint64_t slots;  // that many IndexSlot follow
};
struct IndexSlot {
  uint64_t slot;
  uint64_t leaf;  // number of the leaf, in file order
};

template <typename T>
void Put(std::vector<uint8_t>& out, const T& value) {
  const size_t at = out.size();
  out.resize(at + sizeof value);
  std::memcpy(out.data() + at, &value, sizeof value);
}

std::vector<uint8_t> Section(SectionType type, const std::vector<uint8_t>& payload) {
  std::vector<uint8_t> out;
  out.reserve(sizeof(SectionHeader) + payload.size());
  Put(out, SectionHeader{static_cast<uint32_t>(type), static_cast<uint32_t>(payload.size()),
                         Crc32c(0, payload.data(), payload.size()), 0});
  out.insert(out.end(), payload.begin(), payload.end());
  return out;
}

uint64_t NarrowOf(const Entry& entry) {
  if (!entry.mapped()) return 0;
  return entry.own | kNarrowMapped | (entry.inherited ? kNarrowInherited : 0);
}

WideEntry WideOf(const Entry& entry) {
  return {entry.own | (entry.inherited ? kWideInherited : 0) | (uint64_t{entry.mask} << 48),
          entry.base | (uint64_t{entry.zmask} << 48)};
}

Entry EntryOf(const WideEntry& wide) {
  Entry entry;
  entry.own = wide.own_and_mask & kNoTrack;
  entry.inherited = (wide.own_and_mask & kWideInherited) != 0;
  entry.mask = static_cast<uint16_t>(wide.own_and_mask >> 48);
  entry.base = wide.base_and_zmask & kNoTrack;
  entry.zmask = static_cast<uint16_t>(wide.base_and_zmask >> 48);
  return entry;
}

}  // namespace

LeafImage ImageOfLeaf(const Map& map, const Leaf& leaf) {
  Entry entries[kLeafTracks];
  LeafPayload payload{0, 0};
  for (uint32_t i = 0; i < kLeafTracks; ++i) {
    entries[i] = map.Decode(leaf.entries[i].load(std::memory_order_relaxed));
    payload.mapped += entries[i].mapped() ? 1 : 0;
    if (entries[i].partial()) payload.wide = 1;
  }
  std::vector<uint8_t> bytes;
  bytes.reserve(sizeof payload +
                kLeafTracks * (payload.wide ? sizeof(WideEntry) : sizeof(uint64_t)));
  Put(bytes, payload);
  for (const Entry& entry : entries) {
    if (payload.wide)
      Put(bytes, WideOf(entry));
    else
      Put(bytes, NarrowOf(entry));
  }
  return Section(SectionType::kLeaf, bytes);
}

void Capture::Begin(Map& map, const std::vector<VolumeState*>& volumes,
                    const std::vector<RelationState>& relations, const std::vector<AreaSpec>& areas,
                    uint64_t lsn, uint64_t next_relation) {
  FL_CHECK(leaves_.empty() && manifest_.volumes.empty());
  lsn_ = lsn;
  manifest_.next_relation = next_relation;
  manifest_.relations = relations;
  manifest_.areas = areas;
  for (const VolumeState* volume : volumes) {
    ManifestVolume described = Describe(*volume);
    for (const auto& place : volume->root) {
      const IndexNode* index = place.load(std::memory_order_relaxed);
      described.root.push_back(index == nullptr ? 0 : NumberIndex(index) + 1);
    }
    manifest_.volumes.push_back(std::move(described));
  }
  map.before_change = [this, &map](Leaf* leaf) { Take(map, leaf); };
}

uint64_t Capture::NumberIndex(const IndexNode* index) {
  const auto [it, added] = numbers_.try_emplace(index, indexes_.size());
  if (!added) return it->second;
  const uint64_t number = it->second;
  std::vector<std::pair<uint32_t, uint64_t>> slots;
  for (uint32_t i = 0; i < kIndexLeaves; ++i)
    if (Leaf* leaf = index->leaves[i].load(std::memory_order_relaxed))
      slots.emplace_back(i, NumberLeaf(leaf));
  indexes_.push_back(std::move(slots));
  return number;
}

uint64_t Capture::NumberLeaf(Leaf* leaf) {
  const auto [it, added] = numbers_.try_emplace(leaf, leaves_.size());
  if (added) {
    leaves_.push_back(leaf);
    leaf->capture_pending = true;
  }
  return it->second;
}

void Capture::Take(const Map& map, Leaf* leaf) {
  FL_CHECK(leaf->capture_pending);
  leaf->capture_pending = false;
  early_.emplace(numbers_.at(leaf), ImageOfLeaf(map, *leaf));
}

LeafImage Capture::TakeOut(const Map& map, size_t leaf_number) {
  const auto it = early_.find(leaf_number);
  if (it != early_.end()) {
    LeafImage image = std::move(it->second);
    early_.erase(it);
    return image;
  }
  Leaf* leaf = leaves_[leaf_number];
  FL_CHECK(leaf->capture_pending);
  leaf->capture_pending = false;
  return ImageOfLeaf(map, *leaf);
}

std::vector<uint8_t> Capture::TailSections() const {
  std::vector<uint8_t> out;
  const auto append = [&out](SectionType type, const std::vector<uint8_t>& payload) {
    const std::vector<uint8_t> section = Section(type, payload);
    out.insert(out.end(), section.begin(), section.end());
  };
  for (const auto& slots : indexes_) {
    std::vector<uint8_t> payload;
    Put(payload, IndexPayload{slots.size()});
    for (const auto& [slot, leaf] : slots) Put(payload, IndexSlot{slot, leaf});
    append(SectionType::kIndex, payload);
  }
  append(SectionType::kManifest, EncodeManifest(manifest_));
  return out;
}

CheckpointWriter::CheckpointWriter(File& file, const std::string& pool_uuid, uint64_t generation,
                                   uint64_t lsn)
    : file_(file) {
  FileHeader header{};
  header.magic = kMagic;
  header.generation = generation;
  header.lsn = lsn;
  std::memcpy(header.pool_uuid, pool_uuid.data(),
              std::min(pool_uuid.size(), sizeof header.pool_uuid - 1));
  Put(buffer_, header);
}

Status CheckpointWriter::Append(const std::vector<uint8_t>& bytes) {
  buffer_.insert(buffer_.end(), bytes.begin(), bytes.end());
  return buffer_.size() < kBufferBytes ? Status::Ok() : Drain();
}

Status CheckpointWriter::Drain() {
  crc_ = Crc32c(crc_, buffer_.data(), buffer_.size());
  Status status = file_.Pwrite(written_, buffer_.data(), buffer_.size());
  written_ += buffer_.size();
  buffer_.clear();
  return status;
}

Status CheckpointWriter::Finish(CheckpointRef* ref) {
  if (Status status = Drain(); !status.ok()) return status;
  ref->bytes = written_;
  ref->crc = crc_;
  // Before the superblock may name this file, every byte of it must be on the disk.
  return file_.Fdatasync();
}

namespace {

// Reads sections from a buffer that was verified as a whole; still checks every length, because a
// bug in an older version is damage too.
class Loader {
 public:
  Loader(const std::vector<uint8_t>& bytes, Map& map) : bytes_(bytes), map_(map) {}

  bool Load(LoadedCheckpoint* out) {
    at_ = sizeof(FileHeader);
    bool ended = false;
    while (!ended) {
      SectionHeader header;
      if (!Get(&header) || header.bytes % 8 != 0 || header.bytes > bytes_.size() - at_)
        return false;
      section_end_ = at_ + header.bytes;
      if (Crc32c(0, bytes_.data() + at_, header.bytes) != header.crc) return false;
      if (!LoadSection(static_cast<SectionType>(header.type), out, &ended)) return false;
      if (at_ != section_end_) return false;
    }
    return at_ == bytes_.size();
  }

 private:
  template <typename T>
  bool Get(T* value) {
    if (bytes_.size() - at_ < sizeof *value) return false;
    std::memcpy(value, bytes_.data() + at_, sizeof *value);
    at_ += sizeof *value;
    return true;
  }

  bool LoadSection(SectionType type, LoadedCheckpoint* out, bool* ended) {
    switch (type) {
      case SectionType::kLeaf:
        return LoadLeaf();
      case SectionType::kIndex:
        return LoadIndex();
      case SectionType::kManifest:
        *ended = true;
        return LoadManifest(out);
    }
    return false;
  }

  bool LoadLeaf() {
    LeafPayload payload;
    if (!Get(&payload)) return false;
    auto* leaf = new Leaf;
    leaf->owners.store(0);
    leaves_.push_back(leaf);
    for (auto& place : leaf->entries) {
      Entry entry;
      if (payload.wide) {
        WideEntry wide;
        if (!Get(&wide)) return false;
        entry = EntryOf(wide);
      } else {
        uint64_t narrow;
        if (!Get(&narrow)) return false;
        if (narrow & kNarrowMapped) {
          entry = Entry::Full(narrow & kNoTrack);
          entry.inherited = (narrow & kNarrowInherited) != 0;
        }
      }
      place.store(map_.Encode(entry), std::memory_order_relaxed);
      if (entry.mapped()) ++leaf->mapped;
      if (entry.inherited) ++leaf->inherited;
    }
    return leaf->mapped == payload.mapped;
  }

  bool LoadIndex() {
    IndexPayload payload;
    if (!Get(&payload) || payload.slots > kIndexLeaves) return false;
    auto* index = new IndexNode;
    index->owners.store(0);
    indexes_.push_back(index);
    for (uint64_t i = 0; i < payload.slots; ++i) {
      IndexSlot slot;
      if (!Get(&slot) || slot.slot >= kIndexLeaves || slot.leaf >= leaves_.size()) return false;
      index->leaves[slot.slot].store(leaves_[slot.leaf]);
      leaves_[slot.leaf]->owners.fetch_add(1);
    }
    return true;
  }

  bool LoadManifest(LoadedCheckpoint* out) {
    Manifest manifest;
    if (!DecodeManifest({bytes_.data() + at_, section_end_ - at_}, &manifest)) return false;
    at_ = section_end_;
    for (const ManifestVolume& described : manifest.volumes) {
      std::shared_ptr<VolumeState> volume = Instantiate(described);
      for (size_t i = 0; i < volume->root.size(); ++i) {
        const uint64_t number = described.root[i];
        if (number > indexes_.size()) return false;
        if (number == 0) continue;
        volume->root[i].store(indexes_[number - 1]);
        indexes_[number - 1]->owners.fetch_add(1);
      }
      out->volumes.push_back(std::move(volume));
    }
    out->relations = std::move(manifest.relations);
    out->areas = std::move(manifest.areas);
    out->next_relation = manifest.next_relation;
    return true;
  }

  const std::vector<uint8_t>& bytes_;
  Map& map_;
  size_t at_ = 0;
  size_t section_end_ = 0;
  std::vector<Leaf*> leaves_;
  std::vector<IndexNode*> indexes_;
};

}  // namespace

Result<LoadedCheckpoint> LoadCheckpoint(File& file, const CheckpointRef& ref,
                                        const std::string& pool_uuid, Map& map) {
  LoadedCheckpoint loaded;
  if (ref.bytes == 0) return loaded;
  Result<uint64_t> size = file.Size();
  if (!size.ok()) return size.TakeStatus();
  const auto corrupt = [&file] {
    return Status(Code::kCorrupt,
                  file.path() + ": damaged: the checkpoint does not match its checksum");
  };
  if (size.value() < ref.bytes || ref.bytes < sizeof(FileHeader)) return corrupt();
  std::vector<uint8_t> bytes(ref.bytes);
  if (Status status = file.Pread(0, bytes.data(), bytes.size()); !status.ok()) return status;
  const auto header = ReadRecord<FileHeader>(bytes.data());
  if (Crc32c(0, bytes.data(), bytes.size()) != ref.crc || header.magic != kMagic ||
      header.lsn != ref.lsn || pool_uuid.compare(0, std::string::npos, header.pool_uuid) != 0)
    return corrupt();
  if (!Loader(bytes, map).Load(&loaded)) return corrupt();
  return loaded;
}

}  // namespace flashlun
