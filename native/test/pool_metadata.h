// What is in the metadata of a pool that nobody has open: for tests that damage it.
#pragma once

#include <doctest/doctest.h>

#include <cstdint>
#include <memory>
#include <set>
#include <string>
#include <utility>

#include "core/checkpoint.h"
#include "core/superblock.h"
#include "core/thread_io.h"

namespace flashlun {

// `meta`: path of the file.
inline Superblock SuperblockOf(const std::string& meta) {
  const std::unique_ptr<Io> io = MakeThreadIo();
  return ReadSuperblock(*io->OpenFile(meta, {}).value()).value();
}

// The pages of the current checkpoint or of the one before it.
inline std::set<uint64_t> PagesOfCheckpoint(const std::string& path, bool previous) {
  const std::unique_ptr<Io> io = MakeThreadIo();
  const std::unique_ptr<File> meta = std::move(io->OpenFile(path, {}).value());
  const Superblock superblock = ReadSuperblock(*meta).value();
  Checkpoints checkpoints(PageStore(*meta, PagesOffset(superblock.journal_blocks)),
                          superblock.pool_uuid);
  Map map(superblock.capacity_tracks);
  map.set_replaying(true);
  REQUIRE(checkpoints.Load(previous ? superblock.previous : superblock.current, map).ok());
  std::set<uint64_t> pages;
  for (const PageRun& run : checkpoints.Runs())
    for (uint64_t page = run.page; page < run.page + run.count; ++page) pages.insert(page);
  return pages;
}

}  // namespace flashlun
