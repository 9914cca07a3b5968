#include "core/page_codec.h"

#include <cstring>

namespace flashlun {
namespace {

struct DiskRef {
  uint64_t page_and_form;  // bits 0-39 page, 40-47 form
  uint32_t crc;
  uint32_t reserved;
};
static_assert(sizeof(DiskRef) * kRefsPerTablePage == kPageBytes);

constexpr uint64_t kPageMask = (uint64_t{1} << 40) - 1;

// Narrow entry: bits 0-39 physical track, bit 61 inherited, bit 63 mapped; 0: unmapped.
constexpr uint64_t kNarrowInherited = uint64_t{1} << 61;
constexpr uint64_t kNarrowMapped = uint64_t{1} << 63;
static_assert(kLeafTracks * sizeof(uint64_t) == kPageBytes);

struct WideEntry {
  uint64_t own_and_mask;    // bits 0-39 own, 40 inherited, 48-63 mask
  uint64_t base_and_zmask;  // bits 0-39 base, 48-63 zmask
};
static_assert(kLeafTracks * sizeof(WideEntry) == 2 * kPageBytes);
constexpr uint64_t kWideInherited = uint64_t{1} << 40;

uint64_t NarrowOf(const Entry& entry) {
  if (!entry.mapped()) return 0;
  return entry.own | kNarrowMapped | (entry.inherited ? kNarrowInherited : 0);
}

WideEntry WideOf(const Entry& entry) {
  return {entry.own | (entry.inherited ? kWideInherited : 0) | (uint64_t{entry.mask} << 48),
          entry.base | (uint64_t{entry.zmask} << 48)};
}

Entry FromNarrow(uint64_t narrow) {
  if (!(narrow & kNarrowMapped)) return Entry{};
  Entry entry = Entry::Full(narrow & kNoTrack);
  entry.inherited = (narrow & kNarrowInherited) != 0;
  return entry;
}

Entry FromWide(const WideEntry& wide) {
  Entry entry;
  entry.own = wide.own_and_mask & kNoTrack;
  entry.inherited = (wide.own_and_mask & kWideInherited) != 0;
  entry.mask = static_cast<uint16_t>(wide.own_and_mask >> 48);
  entry.base = wide.base_and_zmask & kNoTrack;
  entry.zmask = static_cast<uint16_t>(wide.base_and_zmask >> 48);
  return entry;
}

NodeImage ImageOfIndex(const IndexNode& index) {
  NodeImage image{PageForm::kIndex, std::vector<uint8_t>(kPageBytes)};
  for (uint32_t slot = 0; slot < kIndexLeaves; ++slot) {
    const Leaf* leaf = index.leaves[slot].load(std::memory_order_relaxed);
    const uint32_t id = leaf == nullptr ? 0 : leaf->id + 1;
    std::memcpy(image.bytes.data() + slot * sizeof id, &id, sizeof id);
  }
  return image;
}

static_assert(kSealTracks * sizeof(uint32_t) == kPageBytes);

NodeImage ImageOfSeals(const SealNode& seals) {
  NodeImage image{PageForm::kSeal, std::vector<uint8_t>(kPageBytes)};
  for (size_t i = 0; i < kSealTracks; ++i) {
    const uint32_t crc = seals.crcs[i].load(std::memory_order_relaxed);
    std::memcpy(image.bytes.data() + i * sizeof crc, &crc, sizeof crc);
  }
  return image;
}

NodeImage ImageOfLeaf(const Leaf& leaf) {
  NodeImage image;
  image.form = leaf.wide() ? PageForm::kWideLeaf : PageForm::kNarrowLeaf;
  image.bytes.resize(PagesOf(image.form) * kPageBytes);
  for (uint32_t i = 0; i < kLeafTracks; ++i) {
    if (leaf.wide()) {
      const WideEntry entry = WideOf(leaf.Get(i));
      std::memcpy(image.bytes.data() + i * sizeof entry, &entry, sizeof entry);
    } else {
      const uint64_t entry = NarrowOf(leaf.Get(i));
      std::memcpy(image.bytes.data() + i * sizeof entry, &entry, sizeof entry);
    }
  }
  return image;
}

DiskRef ToDisk(const PageRef& ref) {
  return {ref.page | (static_cast<uint64_t>(ref.form) << 40), ref.crc, 0};
}

bool FromDisk(const DiskRef& disk, PageRef* ref) {
  const uint64_t form = disk.page_and_form >> 40;
  if (form > static_cast<uint64_t>(PageForm::kSeal)) return false;
  ref->page = disk.page_and_form & kPageMask;
  ref->form = static_cast<PageForm>(form);
  ref->crc = disk.crc;
  return true;
}

}  // namespace

NodeImage ImageOf(const Node& node) {
  switch (node.kind) {
    case NodeKind::kIndex:
      return ImageOfIndex(static_cast<const IndexNode&>(node));
    case NodeKind::kLeaf:
      return ImageOfLeaf(static_cast<const Leaf&>(node));
    case NodeKind::kSeal:
      break;
  }
  return ImageOfSeals(static_cast<const SealNode&>(node));
}

std::vector<uint8_t> EncodeTablePage(const std::vector<PageRef>& nodes, size_t first) {
  std::vector<uint8_t> page(kPageBytes);
  for (size_t i = 0; i < kRefsPerTablePage && first + i < nodes.size(); ++i) {
    const DiskRef disk = ToDisk(nodes[first + i]);
    std::memcpy(page.data() + i * sizeof disk, &disk, sizeof disk);
  }
  return page;
}

bool DecodeTablePage(const uint8_t* page, PageRef* refs) {
  for (size_t i = 0; i < kRefsPerTablePage; ++i) {
    DiskRef disk;
    std::memcpy(&disk, page + i * sizeof disk, sizeof disk);
    if (!FromDisk(disk, &refs[i]) || refs[i].form == PageForm::kTable) return false;
  }
  return true;
}

std::vector<uint8_t> EncodeManifestRun(const std::vector<PageRef>& table,
                                       const Manifest& manifest) {
  const uint64_t count = table.size();
  std::vector<uint8_t> bytes(sizeof count + count * sizeof(DiskRef));
  std::memcpy(bytes.data(), &count, sizeof count);
  for (size_t i = 0; i < count; ++i) {
    const DiskRef disk = ToDisk(table[i]);
    std::memcpy(bytes.data() + sizeof count + i * sizeof disk, &disk, sizeof disk);
  }
  const std::vector<uint8_t> rest = EncodeManifest(manifest);
  bytes.insert(bytes.end(), rest.begin(), rest.end());
  return bytes;
}

bool DecodeTableRefs(std::vector<uint8_t>* bytes, std::vector<PageRef>* table) {
  uint64_t count;
  if (bytes->size() < sizeof count) return false;
  std::memcpy(&count, bytes->data(), sizeof count);
  if ((bytes->size() - sizeof count) / sizeof(DiskRef) < count) return false;
  table->resize(count);
  for (size_t i = 0; i < count; ++i) {
    DiskRef disk;
    std::memcpy(&disk, bytes->data() + sizeof count + i * sizeof disk, sizeof disk);
    PageRef& ref = (*table)[i];
    if (!FromDisk(disk, &ref) || (ref.used() && ref.form != PageForm::kTable)) return false;
  }
  const auto end = static_cast<std::ptrdiff_t>(sizeof count + count * sizeof(DiskRef));
  bytes->erase(bytes->begin(), bytes->begin() + end);
  return true;
}

std::vector<uint32_t> DecodeIndexPage(const uint8_t* page) {
  std::vector<uint32_t> leaves(kIndexLeaves);
  std::memcpy(leaves.data(), page, kIndexLeaves * sizeof(uint32_t));
  return leaves;
}

void DecodeSealPage(const uint8_t* page, SealNode* seals) {
  for (size_t i = 0; i < kSealTracks; ++i) {
    uint32_t crc;
    std::memcpy(&crc, page + i * sizeof crc, sizeof crc);
    seals->crcs[i].store(crc, std::memory_order_relaxed);
    seals->sealed += crc == 0 ? 0 : 1;
  }
}

void DecodeLeafPage(const uint8_t* pages, PageForm form, Leaf* leaf) {
  for (uint32_t i = 0; i < kLeafTracks; ++i) {
    Entry entry;
    if (form == PageForm::kWideLeaf) {
      WideEntry wide;
      std::memcpy(&wide, pages + i * sizeof wide, sizeof wide);
      entry = FromWide(wide);
    } else {
      uint64_t narrow;
      std::memcpy(&narrow, pages + i * sizeof narrow, sizeof narrow);
      entry = FromNarrow(narrow);
    }
    if (entry.mapped()) (void)leaf->Set(i, entry);
  }
}

}  // namespace flashlun
