// Loading a checkpoint: refs from the manifest down, every page against the checksum in its parent.
#include <algorithm>
#include <cstring>
#include <unordered_set>

#include "core/checkpoint.h"
#include "core/page_codec.h"

namespace flashlun {
namespace {

// Nodes are read in runs of up to this many pages; a gap of a few is read along.
constexpr uint64_t kReadPages = 256;
constexpr uint64_t kReadGap = 16;

// A run of pages in memory.
struct Window {
  std::vector<uint8_t> bytes;
  uint64_t page = 0;
  uint64_t end = 0;

  bool Has(const PageRef& ref) const {
    return ref.page >= page && ref.page + PagesOf(ref.form) <= end;
  }
  const uint8_t* At(const PageRef& ref) const {
    return bytes.data() + (ref.page - page) * kPageBytes;
  }
};

// The run that begins with ids[first] and takes in what follows close behind.
Status ReadWindow(PageStore& pages, const CheckpointTree& tree, const std::vector<uint32_t>& ids,
                  size_t first, uint64_t most, Window* window) {
  const PageRef& ref = tree.nodes[ids[first]];
  window->page = ref.page;
  window->end = ref.page + PagesOf(ref.form);
  for (size_t i = first + 1; i < ids.size(); ++i) {
    const PageRef& other = tree.nodes[ids[i]];
    const uint64_t end = other.page + PagesOf(other.form);
    if (other.page > window->end + kReadGap || end - window->page > most) break;
    window->end = std::max(window->end, end);
  }
  window->bytes.resize((window->end - window->page) * kPageBytes);
  return pages.Read(window->page, window->bytes.data(), window->end - window->page);
}

}  // namespace

Status Checkpoints::ReadManifest(const CheckpointRef& ref, std::vector<uint8_t>* bytes,
                                 CheckpointTree* tree) {
  tree->manifest = {ref.manifest_page, (ref.manifest_bytes + kPageBytes - 1) / kPageBytes};
  bytes->resize(tree->manifest.count * kPageBytes);
  Status status = pages_.Read(ref.manifest_page, bytes->data(), tree->manifest.count);
  if (!status.ok()) return status;
  bytes->resize(ref.manifest_bytes);
  if (!Checks(bytes->data(), bytes->size(), ref.manifest_crc) ||
      !DecodeTableRefs(bytes, &tree->table))
    return Damaged("the manifest", ref.manifest_page);
  return Status::Ok();
}

// With `found`, everything that is wrong is told and the rest is read all the same.
Status Checkpoints::LoadTree(const CheckpointRef& ref, std::vector<uint8_t>* manifest,
                             CheckpointTree* tree, const Found* found) {
  if (Status status = ReadManifest(ref, manifest, tree); !status.ok()) return status;
  tree->nodes.resize(tree->table.size() * kRefsPerTablePage);
  for (size_t i = 0; i < tree->table.size(); ++i) {
    const PageRef& page = tree->table[i];
    if (!page.used()) continue;
    uint8_t bytes[kPageBytes];
    Status status = pages_.Read(page.page, bytes, 1);
    if (status.ok() && (!Checks(bytes, sizeof bytes, page.crc) ||
                        !DecodeTablePage(bytes, &tree->nodes[i * kRefsPerTablePage])))
      status = Damaged("a table page", page.page);
    if (status.ok()) continue;
    if (found == nullptr) return status;
    (*found)(page.page, status.message());
    std::fill_n(tree->nodes.begin() + static_cast<std::ptrdiff_t>(i * kRefsPerTablePage),
                kRefsPerTablePage, PageRef{});
  }
  return Status::Ok();
}

// Two refs to one page would let the next checkpoint free a page that is in use.
bool Checkpoints::MarkTree(const CheckpointTree& tree, const Found* found) {
  bool sound = true;
  const auto mark = [&](uint64_t page, uint64_t count) {
    if (pages_.MarkUsed(page, count)) return;
    sound = false;
    if (found != nullptr)
      (*found)(page, "page " + std::to_string(page) + " has two places in one checkpoint");
  };
  mark(tree.manifest.page, tree.manifest.count);
  for (const std::vector<PageRef>* refs : {&tree.table, &tree.nodes})
    for (const PageRef& ref : *refs)
      if (ref.used()) mark(ref.page, PagesOf(ref.form));
  return sound;
}

Result<Checkpoints::Loaded> Checkpoints::Load(const CheckpointRef& ref, Map& map) {
  Loaded loaded;
  if (ref.manifest_bytes == 0) return loaded;
  std::vector<uint8_t> bytes;
  CheckpointTree tree;
  if (Status status = LoadTree(ref, &bytes, &tree); !status.ok()) return status;
  Manifest manifest;
  if (!DecodeManifest(bytes, &manifest) || !MarkTree(tree))
    return Damaged("the manifest", ref.manifest_page);
  if (Status status = LoadNodes(tree, map); !status.ok()) return status;
  std::vector<VolumeState*> volumes;
  for (const ManifestVolume& described : manifest.volumes) {
    loaded.volumes.push_back(Instantiate(described));
    volumes.push_back(loaded.volumes.back().get());
    for (size_t i = 0; i < described.root.size(); ++i) {
      if (described.root[i] == 0) continue;
      const uint64_t id = described.root[i] - 1;
      Node* node = id < map.nodes().size() ? map.nodes().Find(static_cast<uint32_t>(id)) : nullptr;
      if (node == nullptr || node->kind != NodeKind::kIndex)
        return Damaged("the manifest", ref.manifest_page);
      volumes.back()->root[i].store(static_cast<IndexNode*>(node));
    }
  }
  for (const ManifestChanges& changes : manifest.changes)
    for (VolumeState* volume : volumes)
      if (volume->id == changes.volume) volume->changed.Restore(changes.block, changes.words);
  if (Status status = LinkSeals(ref, tree, manifest, map); !status.ok()) return status;
  map.CountOwners(volumes);
  loaded.relations = std::move(manifest.relations);
  loaded.areas = std::move(manifest.areas);
  loaded.next_relation = manifest.next_relation;
  current_ = std::move(tree);
  return loaded;
}

// Reads all nodes in page order, in long runs. `visit` gets each one whose checksum fits, or why it
// could not be read; it decides whether that ends the walk.
Status Checkpoints::VisitNodes(const CheckpointTree& tree, const NodeVisitor& visit) {
  std::vector<uint32_t> ids;
  for (size_t id = 0; id < tree.nodes.size(); ++id)
    if (tree.nodes[id].used()) ids.push_back(static_cast<uint32_t>(id));
  std::sort(ids.begin(), ids.end(),
            [&tree](uint32_t a, uint32_t b) { return tree.nodes[a].page < tree.nodes[b].page; });
  Window window;
  for (size_t i = 0; i < ids.size(); ++i) {
    const PageRef& ref = tree.nodes[ids[i]];
    Status read;
    if (!window.Has(ref)) read = ReadWindow(pages_, tree, ids, i, kReadPages, &window);
    // One bad place of the disk must not hide what is around it.
    if (!read.ok()) read = ReadWindow(pages_, tree, ids, i, 0, &window);
    if (!read.ok()) window = Window{};
    const uint8_t* bytes = read.ok() ? window.At(ref) : nullptr;
    if (read.ok() && !Checks(bytes, PagesOf(ref.form) * kPageBytes, ref.crc))
      read = Damaged("a node", ref.page);
    if (Status status = visit(ids[i], std::move(read), bytes); !status.ok()) return status;
  }
  return Status::Ok();
}

// Reads all nodes, then connects index nodes and leaves.
Status Checkpoints::LoadNodes(const CheckpointTree& tree, Map& map) {
  map.nodes().BeginRestore(tree.nodes.size());
  std::vector<LoadedIndex> indexes;
  Status status = VisitNodes(tree, [&](uint32_t id, Status read, const uint8_t* bytes) {
    if (!read.ok()) return read;
    if (tree.nodes[id].form == PageForm::kIndex) {
      indexes.push_back({new IndexNode, DecodeIndexPage(bytes)});
      map.nodes().Restore(id, indexes.back().index);
    } else if (tree.nodes[id].form == PageForm::kSeal) {
      auto* seals = new SealNode(0);  // which tracks they are of, the manifest says
      DecodeSealPage(bytes, seals);
      map.nodes().Restore(id, seals);
    } else {
      auto* leaf = new Leaf;
      map.nodes().Restore(id, leaf);
      DecodeLeafPage(bytes, tree.nodes[id].form, leaf);
    }
    return Status::Ok();
  });
  if (!status.ok()) return status;
  map.nodes().EndRestore();
  return LinkLeaves(tree, indexes, map);
}

void Checkpoints::Survey(const CheckpointRef& ref, const Found& found) {
  std::vector<uint8_t> manifest;
  CheckpointTree tree;
  if (Status status = LoadTree(ref, &manifest, &tree, &found); !status.ok())
    return found(ref.manifest_page, status.message());
  MarkTree(tree, &found);
  (void)VisitNodes(tree, [&](uint32_t id, Status read, const uint8_t*) {
    if (!read.ok()) found(tree.nodes[id].page, read.message());
    return Status::Ok();
  });
}

// Nodes of seals that the manifest does not name have none that count.
Status Checkpoints::LinkSeals(const CheckpointRef& ref, const CheckpointTree& tree,
                              const Manifest& manifest, Map& map) {
  std::unordered_set<const Node*> linked;
  for (const ManifestSeals& seals : manifest.seals) {
    Node* node = map.nodes().Find(static_cast<uint32_t>(seals.node));
    if (node == nullptr || node->kind != NodeKind::kSeal || !linked.insert(node).second)
      return Damaged("the manifest", ref.manifest_page);
    auto* seal_node = static_cast<SealNode*>(node);
    seal_node->first = seals.first_track;
    if (!map.seals().Install(seal_node)) return Damaged("the manifest", ref.manifest_page);
  }
  for (size_t id = 0; id < tree.nodes.size(); ++id) {
    if (tree.nodes[id].form != PageForm::kSeal) continue;
    Node* node = map.nodes().Find(static_cast<uint32_t>(id));
    if (linked.contains(node)) continue;
    map.nodes().Remove(node);
    delete static_cast<SealNode*>(node);
  }
  return Status::Ok();
}

Status Checkpoints::LinkLeaves(const CheckpointTree& tree, const std::vector<LoadedIndex>& indexes,
                               Map& map) {
  for (const auto& [index, leaves] : indexes) {
    for (uint32_t slot = 0; slot < kIndexLeaves; ++slot) {
      if (leaves[slot] == 0) continue;
      Node* leaf = map.nodes().Find(leaves[slot] - 1);
      if (leaf == nullptr || leaf->kind != NodeKind::kLeaf)
        return Damaged("an index node", tree.nodes[index->id].page);
      index->leaves[slot].store(static_cast<Leaf*>(leaf), std::memory_order_relaxed);
    }
  }
  return Status::Ok();
}

void Checkpoints::KeepPrevious(const CheckpointRef& ref) {
  if (ref.manifest_bytes == 0) return;
  std::vector<uint8_t> manifest;
  CheckpointTree tree;
  if (!LoadTree(ref, &manifest, &tree).ok()) return;
  const auto keep = [this](const PageRef& old, const std::vector<PageRef>& now, size_t at) {
    if (!old.used() || (at < now.size() && now[at] == old)) return;
    if (pages_.MarkUsed(old.page, PagesOf(old.form)))
      retired_.push_back({old.page, PagesOf(old.form)});
  };
  for (size_t i = 0; i < tree.table.size(); ++i) keep(tree.table[i], current_.table, i);
  for (size_t i = 0; i < tree.nodes.size(); ++i) keep(tree.nodes[i], current_.nodes, i);
  if (pages_.MarkUsed(tree.manifest.page, tree.manifest.count)) retired_.push_back(tree.manifest);
}

}  // namespace flashlun
