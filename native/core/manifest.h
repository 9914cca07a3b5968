// Manifest: everything of a checkpoint that is not a node of the map: volumes with their roots,
// relationships, data areas, counters.
//
// One byte string of items, each with type and length (docs/format.md). The checkpoint guards it
// with a CRC; Decode still checks every length, because a bug in an older version is damage too.
//
// Thread safety: none; Describe needs the store's state lock.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/areas.h"
#include "core/map.h"

namespace flashlun {

struct RelationState {
  uint64_t id = 0;
  uint16_t source_id = 0;
  uint16_t target_id = 0;
  uint32_t flags = 0;
  int64_t t0_unix_ms = 0;
};

struct ManifestVolume {
  uint16_t id = 0;
  std::string name;
  uint64_t size_bytes = 0;
  int64_t created_unix_ms = 0;
  uint32_t pool = 0;
  uint16_t flags = 0;  // VolumeFlag bits
  uint64_t inherited_tracks = 0;
  uint64_t inherit_limit_tracks = 0;
  uint64_t target_of = 0;
  std::vector<uint64_t> root;  // numbers of index nodes + 1; 0: none
  std::vector<uint64_t> inherited_leaf_bits;
};

// Changed tracks of one volume: a block of ChangedTracks.
struct ManifestChanges {
  uint16_t volume = 0;
  uint64_t block = 0;
  std::vector<uint64_t> words;
};

// Where the seals of 1024 tracks are.
struct ManifestSeals {
  uint64_t first_track = 0;
  uint64_t node = 0;
};

struct Manifest {
  uint64_t next_relation = 1;
  std::vector<ManifestVolume> volumes;
  std::vector<RelationState> relations;
  std::vector<AreaSpec> areas;  // all, area 0 too
  std::vector<ManifestChanges> changes;
  std::vector<ManifestSeals> seals;
};

// The volume's properties as VolumeFlag bits, and back.
uint16_t FlagsOf(const VolumeState& volume);
void SetFlags(VolumeState& volume, uint16_t flags);

// All of a volume but its root.
ManifestVolume Describe(const VolumeState& volume);
// Its changed tracks, when it records them.
void DescribeChanges(const VolumeState& volume, std::vector<ManifestChanges>* changes);
// A volume without its tree.
std::shared_ptr<VolumeState> Instantiate(const ManifestVolume& volume);

std::vector<uint8_t> EncodeManifest(const Manifest& manifest);
// False when the bytes are not a manifest.
bool DecodeManifest(std::span<const uint8_t> bytes, Manifest* manifest);

}  // namespace flashlun
