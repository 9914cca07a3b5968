#include "core/checkpoint.h"

#include <algorithm>
#include <cstring>

#include "core/check.h"
#include "core/crc32c.h"
#include "core/mutation.h"
#include "core/page_codec.h"

namespace flashlun {
namespace {

// Pages are written in runs of up to this many bytes.
constexpr size_t kBufferBytes = 1 << 20;

}  // namespace

uint64_t PagesOf(PageForm form) {
  if (form == PageForm::kNone) return 0;
  return form == PageForm::kWideLeaf ? 2 : 1;
}

void Capture::Begin(Map& map, const std::vector<VolumeState*>& volumes,
                    const std::vector<RelationState>& relations, const std::vector<AreaSpec>& areas,
                    uint64_t lsn, uint64_t next_relation) {
  FL_CHECK(ids_.empty() && manifest_.volumes.empty() && map.capture_epoch == 0);
  lsn_ = lsn;
  manifest_.next_relation = next_relation;
  manifest_.relations = relations;
  manifest_.areas = areas;
  for (const VolumeState* volume : volumes) {
    ManifestVolume described = Describe(*volume);
    for (const auto& place : volume->root) {
      const IndexNode* index = place.load(std::memory_order_relaxed);
      described.root.push_back(index == nullptr ? 0 : uint64_t{index->id} + 1);
    }
    manifest_.volumes.push_back(std::move(described));
    if (!Mutated(Mutation::kChangesLost)) DescribeChanges(*volume, &manifest_.changes);
  }
  for (const SealNode* node : map.seals().nodes())
    if (node->sealed != 0) manifest_.seals.push_back({node->first, node->id});
  epoch_ = map.nodes().epoch();
  node_count_ = map.nodes().size();
  ids_ = map.nodes().TakeDirty();
  std::sort(ids_.begin(), ids_.end());
  ids_.erase(std::unique(ids_.begin(), ids_.end()), ids_.end());
  map.capture_epoch = epoch_;
  map.before_change = [this](Node* node) {
    node->dirty_epoch = 0;
    early_.emplace(node->id, ImageOf(*node));
  };
}

NodeImage Capture::TakeOut(Map& map, uint32_t id) {
  if (const auto it = early_.find(id); it != early_.end()) {
    NodeImage image = std::move(it->second);
    early_.erase(it);
    return image;
  }
  Node* node = map.nodes().Find(id);
  // A node of a later epoch was made after Begin, under an id that was free then.
  if (node == nullptr || node->dirty_epoch != epoch_) return NodeImage{};
  node->dirty_epoch = 0;
  return ImageOf(*node);
}

void Capture::End(Map& map, bool written) {
  map.before_change = nullptr;
  map.capture_epoch = 0;
  if (!written) map.nodes().GiveBackDirty(ids_);
}

Checkpoints::Checkpoints(PageStore pages, std::string pool_uuid)
    : pages_(std::move(pages)), uuid_crc_(Crc32c(0, pool_uuid.data(), pool_uuid.size())) {}

uint32_t Checkpoints::Checksum(const void* bytes, size_t length) const {
  return Crc32c(uuid_crc_, bytes, length);
}

bool Checkpoints::Checks(const void* bytes, size_t length, uint32_t crc) const {
  return Checksum(bytes, length) == crc || Mutated(Mutation::kPageUnchecked);
}

Status Checkpoints::Damaged(const char* what, uint64_t page) const {
  return Status(Code::kCorrupt, pages_.file().path() + ": damaged: " + what + " in page " +
                                    std::to_string(page) + " of the checkpoint does not match " +
                                    "its checksum");
}

void Checkpoints::Begin() {
  next_ = current_;
  changed_.clear();
  taken_.clear();
  superseded_.clear();
  buffer_.clear();
}

// Takes pages for the bytes and writes them, together with what follows.
Status Checkpoints::Place(const uint8_t* bytes, uint64_t count, uint64_t* page) {
  Result<uint64_t> place = pages_.Allocate(count);
  if (!place.ok()) return place.TakeStatus();
  *page = place.value();
  taken_.push_back({*page, count});
  const bool adjacent = buffer_page_ + buffer_.size() / kPageBytes == *page;
  if (!adjacent || buffer_.size() + count * kPageBytes > kBufferBytes)
    if (Status status = Drain(); !status.ok()) return status;
  if (buffer_.empty()) buffer_page_ = *page;
  buffer_.insert(buffer_.end(), bytes, bytes + count * kPageBytes);
  return Status::Ok();
}

Status Checkpoints::Drain() {
  if (buffer_.empty()) return Status::Ok();
  Status status = pages_.Write(buffer_page_, buffer_.data(), buffer_.size() / kPageBytes);
  buffer_.clear();
  return status;
}

Status Checkpoints::AddNode(uint32_t id, const NodeImage& image) {
  if (next_.nodes.size() <= id) next_.nodes.resize(id + 1);
  PageRef& ref = next_.nodes[id];
  if (!ref.used() && image.form == PageForm::kNone) return Status::Ok();
  if (ref.used()) superseded_.push_back({ref.page, PagesOf(ref.form)});
  ref = PageRef{};
  changed_.push_back(id);
  if (image.form == PageForm::kNone) return Status::Ok();
  ref.form = image.form;
  ref.crc = Checksum(image.bytes.data(), image.bytes.size());
  return Place(image.bytes.data(), PagesOf(image.form), &ref.page);
}

Status Checkpoints::WriteTable() {
  next_.table.resize((next_.nodes.size() + kRefsPerTablePage - 1) / kRefsPerTablePage);
  std::sort(changed_.begin(), changed_.end());
  uint64_t last = UINT64_MAX;
  for (const uint32_t id : changed_) {
    const uint64_t number = id / kRefsPerTablePage;
    if (number == last) continue;
    last = number;
    PageRef& ref = next_.table[number];
    if (ref.used()) superseded_.push_back({ref.page, 1});
    const std::vector<uint8_t> bytes = EncodeTablePage(next_.nodes, number * kRefsPerTablePage);
    ref.form = PageForm::kTable;
    ref.crc = Checksum(bytes.data(), bytes.size());
    if (Status status = Place(bytes.data(), 1, &ref.page); !status.ok()) return status;
  }
  return Status::Ok();
}

Status Checkpoints::Finish(const Capture& capture, CheckpointRef* ref) {
  Status status = WriteTable();
  if (!status.ok()) return status;
  std::vector<uint8_t> bytes = EncodeManifestRun(next_.table, capture.manifest());
  ref->manifest_bytes = bytes.size();
  ref->manifest_crc = Checksum(bytes.data(), bytes.size());
  bytes.resize((bytes.size() + kPageBytes - 1) / kPageBytes * kPageBytes);
  if (next_.manifest.count != 0) superseded_.push_back(next_.manifest);
  next_.manifest.count = bytes.size() / kPageBytes;
  status = Place(bytes.data(), next_.manifest.count, &next_.manifest.page);
  ref->manifest_page = next_.manifest.page;
  if (status.ok()) status = Drain();
  // Before the superblock may name this tree, every page of it must be on the disk.
  return status.ok() ? pages_.Sync() : std::move(status);
}

void Checkpoints::Commit() {
  for (const PageRun& run : retired_) pages_.Free(run.page, run.count);
  retired_ = std::exchange(superseded_, {});
  current_ = std::exchange(next_, {});
  // A stock for a whole tree of wide leaves, so that the next checkpoint does not meet a full file
  // system. Without it, that one has to see.
  (void)pages_.Reserve(2 * current_.nodes.size());
}

std::vector<PageRun> Checkpoints::Runs() const {
  std::vector<PageRun> runs{current_.manifest};
  for (const std::vector<PageRef>* refs : {&current_.table, &current_.nodes})
    for (const PageRef& ref : *refs)
      if (ref.used()) runs.push_back({ref.page, PagesOf(ref.form)});
  return runs;
}

void Checkpoints::Abort() {
  for (const PageRun& run : taken_) pages_.Free(run.page, run.count);
  next_ = {};
}

}  // namespace flashlun
