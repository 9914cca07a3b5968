// Checkpoint: the whole map at one LSN, in a file of its own.
//
// Three files take turns, so the current and the previous one stay intact while the next is
// written. The format is a header, then sections (each with its CRC): leaves, index nodes, volumes,
// relationships, end. docs/format.md has the bytes.
//
// Exact at one LSN without stopping writers: Capture::Begin, under the state lock, notes the roots,
// index nodes and the list of leaves (pointers only) and marks every leaf. A leaf that is about to
// change or die while marked first hands its image to the capture (Map::before_change). The capture
// is not an owner, so tracks do not look shared (trap T10).
//
// Thread safety: Begin and ImageOf under the state lock; the writer runs on the checkpoint thread.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "core/io.h"
#include "core/manifest.h"
#include "core/map.h"
#include "core/superblock.h"

namespace flashlun {

// The serialized content of one leaf: stays valid however the leaf changes.
using LeafImage = std::vector<uint8_t>;
LeafImage ImageOfLeaf(const Map& map, const Leaf& leaf);

class Capture {
 public:
  // Under the state lock. `volumes` in id order.
  void Begin(Map& map, const std::vector<VolumeState*>& volumes,
             const std::vector<RelationState>& relations, const std::vector<AreaSpec>& areas,
             uint64_t lsn, uint64_t next_relation);
  // Under the state lock: takes the leaf's image now if that has not happened yet.
  void Take(const Map& map, Leaf* leaf);
  // Under the state lock: the leaf's image, taking it now if it was not taken earlier.
  LeafImage TakeOut(const Map& map, size_t leaf_number);

  size_t leaf_count() const { return leaves_.size(); }
  uint64_t lsn() const { return lsn_; }
  // Everything but the leaves: the bytes that follow them in the file.
  std::vector<uint8_t> TailSections() const;

 private:
  uint64_t NumberIndex(const IndexNode* index);
  uint64_t NumberLeaf(Leaf* leaf);

  uint64_t lsn_ = 0;
  std::vector<Leaf*> leaves_;  // an entry is only dereferenced while the leaf is marked
  std::unordered_map<const void*, uint64_t> numbers_;
  std::unordered_map<uint64_t, LeafImage> early_;
  std::vector<std::vector<std::pair<uint32_t, uint64_t>>> indexes_;  // slot -> leaf number
  Manifest manifest_;
};

// Streams sections into a checkpoint file and keeps its length and CRC.
class CheckpointWriter {
 public:
  CheckpointWriter(File& file, const std::string& pool_uuid, uint64_t generation, uint64_t lsn);
  Status Append(const std::vector<uint8_t>& bytes);
  // Writes what is buffered and makes the file durable.
  Status Finish(CheckpointRef* ref);

 private:
  Status Drain();
  File& file_;
  std::vector<uint8_t> buffer_;
  uint64_t written_ = 0;
  uint32_t crc_ = 0;
};

struct LoadedCheckpoint {
  std::vector<std::shared_ptr<VolumeState>> volumes;
  std::vector<RelationState> relations;
  std::vector<AreaSpec> areas;
  uint64_t next_relation = 1;
};

// kCorrupt when the file is not exactly what `ref` says.
Result<LoadedCheckpoint> LoadCheckpoint(File& file, const CheckpointRef& ref,
                                        const std::string& pool_uuid, Map& map);

}  // namespace flashlun
