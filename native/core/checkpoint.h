// Checkpoint: the whole map at one LSN, as a tree of pages in the meta file.
//
//   superblock -> manifest (volumes, relationships, refs of the table pages)
//              -> table pages: 256 refs each, by node id
//              -> nodes: narrow leaf 1 page, wide leaf 2 pages, index node 1 page, seals 1 page
//
// A ref holds the checksum of what it points to, so a page that was written to the wrong place, or
// not at all, does not check. Only nodes that changed since the last checkpoint are written, each
// to a free page; the tree before it stays whole until the one after it is durable (pages.h).
//
// Exact at one LSN without stopping writers: Capture::Begin, under the state lock, takes the list
// of changed nodes and starts a new epoch. A node of the captured epoch that is about to change or
// die first hands its image to the capture (Map::before_change). The capture is not an owner, so
// tracks do not look shared (trap T10). Begin costs O(volumes and index nodes), not O(leaves).
//
// Thread safety: Capture under the state lock; the rest belongs to the checkpoint task.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "core/manifest.h"
#include "core/map.h"
#include "core/pages.h"
#include "core/superblock.h"

namespace flashlun {

enum class PageForm : uint8_t {
  kNone = 0,        // no such node
  kNarrowLeaf = 1,  // 512 x 8 bytes
  kWideLeaf = 2,    // 512 x 16 bytes: it has partial tracks
  kIndex = 3,       // 256 x 4 bytes: ids of leaves + 1
  kTable = 4,       // 256 refs
  kSeal = 5,        // 1024 x 4 bytes: checksums of tracks
};
uint64_t PagesOf(PageForm form);

struct PageRef {
  uint64_t page = 0;
  PageForm form = PageForm::kNone;
  uint32_t crc = 0;

  bool used() const { return form != PageForm::kNone; }
  bool operator==(const PageRef&) const = default;
};

inline constexpr size_t kRefsPerTablePage = 256;

// A run of pages.
struct PageRun {
  uint64_t page = 0;
  uint64_t count = 0;
};

// The pages of one checkpoint.
struct CheckpointTree {
  std::vector<PageRef> nodes;  // by node id
  std::vector<PageRef> table;
  PageRun manifest;
};

// The bytes of one node: stay valid however the node changes.
struct NodeImage {
  PageForm form = PageForm::kNone;
  std::vector<uint8_t> bytes;
};
NodeImage ImageOf(const Node& node);

class Capture {
 public:
  // `volumes` in id order.
  void Begin(Map& map, const std::vector<VolumeState*>& volumes,
             const std::vector<RelationState>& relations, const std::vector<AreaSpec>& areas,
             uint64_t lsn, uint64_t next_relation);
  // The node's image as of Begin, which may have been taken earlier; no form: there was no such
  // node.
  NodeImage TakeOut(Map& map, uint32_t id);
  // After the last TakeOut, or when the checkpoint is given up: then its nodes are dirty again.
  void End(Map& map, bool written);

  // Ids of the nodes to write, ascending.
  const std::vector<uint32_t>& ids() const { return ids_; }
  uint64_t lsn() const { return lsn_; }
  const Manifest& manifest() const { return manifest_; }
  size_t node_count() const { return node_count_; }

 private:
  uint64_t lsn_ = 0;
  uint32_t epoch_ = 0;
  size_t node_count_ = 0;
  std::vector<uint32_t> ids_;
  std::unordered_map<uint32_t, NodeImage> early_;
  Manifest manifest_;
};

// The checkpoints of an open pool and the pages they take.
class Checkpoints {
 public:
  Checkpoints(PageStore pages, std::string pool_uuid);

  struct Loaded {
    std::vector<std::shared_ptr<VolumeState>> volumes;
    std::vector<RelationState> relations;
    std::vector<AreaSpec> areas;
    uint64_t next_relation = 1;
  };
  // Loads `ref` into the map, which is empty, and marks its pages. kCorrupt names the page.
  Result<Loaded> Load(const CheckpointRef& ref, Map& map);
  // Reads every page of `ref`, which did not load, and tells all that are wrong, not only the
  // first.
  using Found = std::function<void(uint64_t page, const std::string& what)>;
  void Survey(const CheckpointRef& ref, const Found& found);
  // Keeps the pages of the checkpoint before the loaded one from being written. A damaged one has
  // none that matter: nothing can be opened with it.
  void KeepPrevious(const CheckpointRef& ref);

  // A new checkpoint: Begin, AddNode for each id, Finish; then Commit when a superblock that names
  // it is durable, or Abort.
  void Begin();
  Status AddNode(uint32_t id, const NodeImage& image);
  // Writes what is left and makes all of it durable.
  Status Finish(const Capture& capture, CheckpointRef* ref);
  void Commit();
  void Abort();

  uint64_t used_pages() const { return pages_.used_pages(); }
  // The pages of the current checkpoint.
  std::vector<PageRun> Runs() const;

 private:
  struct LoadedIndex {
    IndexNode* index;
    std::vector<uint32_t> leaves;  // ids + 1, by slot
  };
  Status ReadManifest(const CheckpointRef& ref, std::vector<uint8_t>* bytes, CheckpointTree* tree);
  Status LoadTree(const CheckpointRef& ref, std::vector<uint8_t>* manifest, CheckpointTree* tree,
                  const Found* found = nullptr);
  bool MarkTree(const CheckpointTree& tree, const Found* found = nullptr);
  using NodeVisitor = std::function<Status(uint32_t id, Status read, const uint8_t* bytes)>;
  Status VisitNodes(const CheckpointTree& tree, const NodeVisitor& visit);
  Status LoadNodes(const CheckpointTree& tree, Map& map);
  Status LinkSeals(const CheckpointRef& ref, const CheckpointTree& tree, const Manifest& manifest,
                   Map& map);
  Status LinkLeaves(const CheckpointTree& tree, const std::vector<LoadedIndex>& indexes, Map& map);
  Status Place(const uint8_t* bytes, uint64_t count, uint64_t* page);
  Status Drain();
  Status WriteTable();
  uint32_t Checksum(const void* bytes, size_t length) const;
  bool Checks(const void* bytes, size_t length, uint32_t crc) const;
  Status Damaged(const char* what, uint64_t page) const;

  PageStore pages_;
  const uint32_t uuid_crc_;
  CheckpointTree current_;
  std::vector<PageRun> retired_;  // of the previous checkpoint only: free after the next one

  // The checkpoint being written.
  CheckpointTree next_;
  std::vector<uint32_t> changed_;
  std::vector<PageRun> taken_;
  std::vector<PageRun> superseded_;
  std::vector<uint8_t> buffer_;
  uint64_t buffer_page_ = 0;
};

}  // namespace flashlun
