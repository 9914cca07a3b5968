// The bytes of checkpoint pages (docs/format.md "Checkpoint pages"). Pure: no I/O, no locks but
// those that reading the map needs.
//
// Decoders get pages whose checksum fits. They still trust no number in them: a bug in an older
// version is damage too.
#pragma once

#include <cstdint>
#include <vector>

#include "core/checkpoint.h"

namespace flashlun {

// The 256 refs from node `first` on; missing ones are empty.
std::vector<uint8_t> EncodeTablePage(const std::vector<PageRef>& nodes, size_t first);
// Fills 256 refs. False: a ref of no known form.
bool DecodeTablePage(const uint8_t* page, PageRef* refs);

// The refs of the table pages, then the manifest.
std::vector<uint8_t> EncodeManifestRun(const std::vector<PageRef>& table, const Manifest& manifest);
// Takes the refs off the front of the bytes.
bool DecodeTableRefs(std::vector<uint8_t>* bytes, std::vector<PageRef>* table);

// Ids of leaves + 1, by slot.
std::vector<uint32_t> DecodeIndexPage(const uint8_t* page);
// Fills a new leaf. Tracks are checked later, when they are counted (Map::RebuildCounts).
void DecodeSealPage(const uint8_t* page, SealNode* seals);
void DecodeLeafPage(const uint8_t* pages, PageForm form, Leaf* leaf);

}  // namespace flashlun
