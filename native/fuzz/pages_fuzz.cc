// One checkpoint page of each form, from any bytes: what is decoded can be written again and then
// decodes to the same.
#include "core/check.h"
#include "core/page_codec.h"
#include "fuzz/fuzz.h"

using namespace flashlun;

namespace {

std::vector<uint8_t> TakePages(FuzzInput& input, PageForm form) {
  std::vector<uint8_t> pages = input.TakeBytes(PagesOf(form) * kPageBytes);
  pages.resize(PagesOf(form) * kPageBytes);
  return pages;
}

void TablePage(FuzzInput& input) {
  const std::vector<uint8_t> page = TakePages(input, PageForm::kTable);
  std::vector<PageRef> refs(kRefsPerTablePage);
  if (!DecodeTablePage(page.data(), refs.data())) return;
  std::vector<PageRef> again(kRefsPerTablePage);
  FL_CHECK(DecodeTablePage(EncodeTablePage(refs, 0).data(), again.data()));
  FL_CHECK(refs == again);
}

void TableRefs(FuzzInput& input) {
  std::vector<uint8_t> bytes = input.Rest();
  const size_t before = bytes.size();
  std::vector<PageRef> table;
  if (!DecodeTableRefs(&bytes, &table)) return;
  FL_CHECK(bytes.size() < before);
  std::vector<uint8_t> run = EncodeManifestRun(table, Manifest{});
  std::vector<PageRef> again;
  FL_CHECK(DecodeTableRefs(&run, &again) && again == table);
  Manifest manifest;
  FL_CHECK(DecodeManifest(run, &manifest));
}

void IndexPage(FuzzInput& input) {
  const std::vector<uint8_t> page = TakePages(input, PageForm::kIndex);
  const std::vector<uint32_t> leaves = DecodeIndexPage(page.data());
  FL_CHECK(leaves.size() == kIndexLeaves);
  FL_CHECK(std::memcmp(leaves.data(), page.data(), kIndexLeaves * sizeof(uint32_t)) == 0);
}

void LeafPage(FuzzInput& input, PageForm form) {
  const std::vector<uint8_t> pages = TakePages(input, form);
  Leaf leaf;
  DecodeLeafPage(pages.data(), form, &leaf);
  const NodeImage image = ImageOf(leaf);
  FL_CHECK(form == PageForm::kWideLeaf || image.form == PageForm::kNarrowLeaf);
  Leaf again;
  DecodeLeafPage(image.bytes.data(), image.form, &again);
  uint32_t mapped = 0;
  for (uint32_t slot = 0; slot < kLeafTracks; ++slot) {
    const Entry entry = leaf.Get(slot);
    mapped += entry.mapped();
    FL_CHECK(entry == again.Get(slot));
    FL_CHECK(entry.mapped() || entry == Entry{});
  }
  FL_CHECK(leaf.mapped() == mapped && leaf.inherited() <= mapped);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  FuzzInput input(data, size);
  switch (input.Take<uint8_t>() % 5) {
    case 0:
      TablePage(input);
      break;
    case 1:
      TableRefs(input);
      break;
    case 2:
      IndexPage(input);
      break;
    case 3:
      LeafPage(input, PageForm::kNarrowLeaf);
      break;
    default:
      LeafPage(input, PageForm::kWideLeaf);
  }
  return 0;
}
