#include "core/manifest.h"

#include <cstring>

namespace flashlun {
namespace {

enum class ItemType : uint32_t {
  kEnd = 0,
  kVolume = 1,
  kRelation = 2,
  kArea = 3,
  kSeals = 4,
  kChanges = 5
};

struct ItemHeader {
  uint32_t type;
  uint32_t bytes;  // behind this header, a multiple of 8
};

struct VolumeItem {
  uint16_t id;
  uint16_t name_bytes;
  uint16_t pool;
  uint16_t flags;  // VolumeFlag bits
  uint64_t size_bytes;
  int64_t created_unix_ms;
  uint64_t inherited_tracks;
  uint64_t inherit_limit_tracks;
  uint64_t target_of;
  char name[kMaxNameBytes];
  // root: u64 each, then the inherited leaf bits, u64 each; both counts follow from the size
};

struct RelationItem {
  uint64_t id;
  uint16_t source_id;
  uint16_t target_id;
  uint32_t flags;
  int64_t t0_unix_ms;
};

struct AreaItem {
  uint32_t number;
  uint32_t name_bytes;
  uint64_t capacity_tracks;
  char name[kMaxPoolNameBytes];
  char path[kMaxPoolPathBytes];  // ends with a zero byte; empty: in the pool directory
};

struct SealsItem {
  uint64_t first_track;
  uint64_t node;
};

struct ChangesItem {
  uint64_t volume;
  uint64_t block;
  uint64_t words[kChangeBlockWords];
};

struct EndItem {
  uint64_t next_relation;
  uint64_t volumes;
  uint64_t relations;
};

template <typename T>
void Put(std::vector<uint8_t>& out, const T& value) {
  const auto* bytes = reinterpret_cast<const uint8_t*>(&value);
  out.insert(out.end(), bytes, bytes + sizeof value);
}

void PutVolume(std::vector<uint8_t>& out, const ManifestVolume& volume) {
  VolumeItem item{};
  item.id = volume.id;
  item.name_bytes = static_cast<uint16_t>(volume.name.size());
  item.pool = static_cast<uint16_t>(volume.pool);
  item.flags = volume.flags;
  item.size_bytes = volume.size_bytes;
  item.created_unix_ms = volume.created_unix_ms;
  item.inherited_tracks = volume.inherited_tracks;
  item.inherit_limit_tracks = volume.inherit_limit_tracks;
  item.target_of = volume.target_of;
  std::memcpy(item.name, volume.name.data(), volume.name.size());
  const size_t words = volume.root.size() + volume.inherited_leaf_bits.size();
  Put(out, ItemHeader{static_cast<uint32_t>(ItemType::kVolume),
                      static_cast<uint32_t>(sizeof item + words * sizeof(uint64_t))});
  Put(out, item);
  for (const uint64_t node : volume.root) Put(out, node);
  for (const uint64_t bits : volume.inherited_leaf_bits) Put(out, bits);
}

void PutArea(std::vector<uint8_t>& out, const AreaSpec& area) {
  AreaItem item{};
  item.number = area.number;
  item.name_bytes = static_cast<uint32_t>(area.name.size());
  item.capacity_tracks = area.capacity_tracks;
  std::memcpy(item.name, area.name.data(), area.name.size());
  std::memcpy(item.path, area.path.data(), area.path.size());
  Put(out, ItemHeader{static_cast<uint32_t>(ItemType::kArea), sizeof item});
  Put(out, item);
}

// The items of one manifest, read with every length checked.
class Decoder {
 public:
  explicit Decoder(std::span<const uint8_t> bytes) : bytes_(bytes) {}

  bool Run(Manifest* manifest) {
    for (;;) {
      ItemHeader header;
      if (!Get(&header) || header.bytes % 8 != 0 || header.bytes > bytes_.size()) return false;
      const size_t behind = bytes_.size() - header.bytes;
      bool ok = false;
      switch (static_cast<ItemType>(header.type)) {
        case ItemType::kVolume:
          ok = GetVolume(manifest);
          break;
        case ItemType::kRelation:
          ok = GetRelation(manifest);
          break;
        case ItemType::kArea:
          ok = GetArea(manifest);
          break;
        case ItemType::kSeals:
          ok = GetSeals(manifest);
          break;
        case ItemType::kChanges:
          ok = GetChanges(manifest);
          break;
        case ItemType::kEnd:
          return GetEnd(manifest) && bytes_.empty();
      }
      if (!ok || bytes_.size() != behind) return false;
    }
  }

 private:
  template <typename T>
  bool Get(T* value) {
    if (bytes_.size() < sizeof *value) return false;
    std::memcpy(value, bytes_.data(), sizeof *value);
    bytes_ = bytes_.subspan(sizeof *value);
    return true;
  }

  bool GetWords(std::vector<uint64_t>* words, size_t count) {
    if (bytes_.size() / sizeof(uint64_t) < count) return false;
    words->resize(count);
    for (uint64_t& word : *words) Get(&word);
    return true;
  }

  bool GetVolume(Manifest* manifest) {
    VolumeItem item;
    if (!Get(&item) || item.name_bytes > kMaxNameBytes || item.size_bytes < kMinVolumeBytes ||
        item.size_bytes > kMaxVolumeBytes || item.pool >= kMaxAreas)
      return false;
    ManifestVolume volume;
    volume.pool = item.pool;
    volume.flags = item.flags;
    volume.id = item.id;
    volume.name.assign(item.name, item.name_bytes);
    volume.size_bytes = item.size_bytes;
    volume.created_unix_ms = item.created_unix_ms;
    volume.inherited_tracks = item.inherited_tracks;
    volume.inherit_limit_tracks = item.inherit_limit_tracks;
    volume.target_of = item.target_of;
    const size_t nodes = IndexNodesFor(item.size_bytes);
    if (!GetWords(&volume.root, nodes) ||
        !GetWords(&volume.inherited_leaf_bits, nodes * kIndexLeaves / 64))
      return false;
    manifest->volumes.push_back(std::move(volume));
    return true;
  }

  bool GetRelation(Manifest* manifest) {
    RelationItem item;
    if (!Get(&item)) return false;
    manifest->relations.push_back(
        {item.id, item.source_id, item.target_id, item.flags, item.t0_unix_ms});
    return true;
  }

  bool GetArea(Manifest* manifest) {
    AreaItem item;
    if (!Get(&item) || item.number >= kMaxAreas || item.name_bytes > kMaxPoolNameBytes ||
        item.capacity_tracks == 0 || item.capacity_tracks > kMaxAreaTracks ||
        item.path[kMaxPoolPathBytes - 1] != 0)
      return false;
    manifest->areas.push_back(
        {item.number, std::string(item.name, item.name_bytes), item.path, item.capacity_tracks});
    return true;
  }

  bool GetSeals(Manifest* manifest) {
    SealsItem item;
    if (!Get(&item) || item.first_track % kSealTracks != 0 || item.first_track >= kNoTrack ||
        item.node > UINT32_MAX)
      return false;
    manifest->seals.push_back({item.first_track, item.node});
    return true;
  }

  bool GetChanges(Manifest* manifest) {
    ChangesItem item;
    if (!Get(&item) || item.volume > UINT16_MAX) return false;
    const auto id = static_cast<uint16_t>(item.volume);
    for (const ManifestVolume& volume : manifest->volumes) {
      if (volume.id != id) continue;
      if (item.block >= ChangedTracks::BlocksFor(volume.size_bytes / kTrackBytes)) return false;
      manifest->changes.push_back(
          {id, item.block, std::vector<uint64_t>(item.words, item.words + kChangeBlockWords)});
      return true;
    }
    return false;
  }

  bool GetEnd(Manifest* manifest) {
    EndItem item;
    if (!Get(&item)) return false;
    manifest->next_relation = item.next_relation;
    return item.volumes == manifest->volumes.size() && item.relations == manifest->relations.size();
  }

  std::span<const uint8_t> bytes_;
};

}  // namespace

uint16_t FlagsOf(const VolumeState& volume) {
  return static_cast<uint16_t>((volume.thick ? kVolumeThick : 0) |
                               (volume.block_bytes == 4096 ? kVolume4Kn : 0) |
                               (volume.untouched.load() ? kVolumeUntouched : 0));
}

void SetFlags(VolumeState& volume, uint16_t flags) {
  volume.thick = (flags & kVolumeThick) != 0;
  volume.block_bytes = (flags & kVolume4Kn) != 0 ? 4096 : 512;
  volume.untouched.store((flags & kVolumeUntouched) != 0);
}

ManifestVolume Describe(const VolumeState& volume) {
  ManifestVolume described;
  described.id = volume.id;
  described.name = volume.name;
  described.size_bytes = volume.size_bytes;
  described.created_unix_ms = volume.created_unix_ms;
  described.pool = volume.pool;
  described.flags = FlagsOf(volume);
  described.inherited_tracks = volume.inherited_tracks;
  described.inherit_limit_tracks = volume.inherit_limit_tracks.load();
  described.target_of = volume.target_of;
  for (const auto& bits : volume.inherited_leaf_bits)
    described.inherited_leaf_bits.push_back(bits.load());
  return described;
}

void DescribeChanges(const VolumeState& volume, std::vector<ManifestChanges>* changes) {
  if (volume.recording.load() == 0) return;
  for (size_t block = 0; block < volume.changed.block_count(); ++block)
    if (volume.changed.AnyIn(block))
      changes->push_back({volume.id, block, volume.changed.Words(block)});
}

std::shared_ptr<VolumeState> Instantiate(const ManifestVolume& described) {
  auto volume = std::make_shared<VolumeState>(described.id, described.size_bytes);
  volume->name = described.name;
  volume->pool = described.pool;
  SetFlags(*volume, described.flags);
  volume->created_unix_ms = described.created_unix_ms;
  volume->inherited_tracks = described.inherited_tracks;
  volume->inherit_limit_tracks.store(described.inherit_limit_tracks);
  volume->target_of = described.target_of;
  for (size_t i = 0; i < volume->inherited_leaf_bits.size(); ++i)
    volume->inherited_leaf_bits[i].store(described.inherited_leaf_bits[i]);
  return volume;
}

std::vector<uint8_t> EncodeManifest(const Manifest& manifest) {
  std::vector<uint8_t> out;
  for (const AreaSpec& area : manifest.areas) PutArea(out, area);
  for (const ManifestVolume& volume : manifest.volumes) PutVolume(out, volume);
  for (const RelationState& relation : manifest.relations) {
    Put(out, ItemHeader{static_cast<uint32_t>(ItemType::kRelation), sizeof(RelationItem)});
    Put(out, RelationItem{relation.id, relation.source_id, relation.target_id, relation.flags,
                          relation.t0_unix_ms});
  }
  for (const ManifestChanges& changes : manifest.changes) {
    ChangesItem item{changes.volume, changes.block, {}};
    std::memcpy(item.words, changes.words.data(), sizeof item.words);
    Put(out, ItemHeader{static_cast<uint32_t>(ItemType::kChanges), sizeof item});
    Put(out, item);
  }
  for (const ManifestSeals& seals : manifest.seals) {
    Put(out, ItemHeader{static_cast<uint32_t>(ItemType::kSeals), sizeof(SealsItem)});
    Put(out, SealsItem{seals.first_track, seals.node});
  }
  Put(out, ItemHeader{static_cast<uint32_t>(ItemType::kEnd), sizeof(EndItem)});
  Put(out, EndItem{manifest.next_relation, manifest.volumes.size(), manifest.relations.size()});
  return out;
}

bool DecodeManifest(std::span<const uint8_t> bytes, Manifest* manifest) {
  return Decoder(bytes).Run(manifest);
}

}  // namespace flashlun
