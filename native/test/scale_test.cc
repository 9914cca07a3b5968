// A fully mapped 1 TiB volume: how long an open takes, and how much memory its map needs.
//
// The checkpoint is written straight from a map, because the way over a terabyte of writes would
// take hours; the open is the product's.
#include <malloc.h>

#include <chrono>
#include <cstdio>

#include "core/checkpoint.h"
#include "core/superblock.h"
#include "core/thread_io.h"
#include "test/pool_fixture.h"

namespace flashlun {
namespace {

constexpr uint64_t kTiB = uint64_t{1} << 40;
constexpr uint64_t kTracks = kTiB / kTrackBytes;
constexpr uint16_t kVolume = 0x1200;

class ScaleFixture : public PoolFixture {
 public:
  // A pool whose one volume has every track mapped, each as `entry` with its own track.
  void MakePool(const Entry& entry) {
    options().capacity_bytes = kTiB;
    Open();
    Close();
    const std::unique_ptr<Io> io = MakeThreadIo();
    std::unique_ptr<File> tracks = std::move(io->OpenFile(PathOf("tracks"), {}).value());
    REQUIRE(tracks->Truncate(kTiB + (1 << 20)).ok());
    std::unique_ptr<File> meta = std::move(io->OpenFile(PathOf("meta"), {}).value());
    Superblock superblock = ReadSuperblock(*meta).value();
    Map map(superblock.capacity_tracks);
    map.set_replaying(true);
    VolumeState volume(kVolume, kTiB);
    Entry mapped = entry;
    for (uint64_t track = 0; track < kTracks; ++track) {
      mapped.own = track;
      map.SetEntry(volume, track, mapped, 0);
    }
    WriteCheckpoint(*meta, map, volume, superblock);
  }

  // Seconds, and mebibytes of memory that the open pool takes.
  std::pair<double, double> MeasureOpen() {
    const double before = HeapMiB();
    const auto begin = std::chrono::steady_clock::now();
    Open();
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
    CHECK(store().GetVolume(kVolume).value().mapped_tracks == kTracks);
    return {seconds.count(), HeapMiB() - before};
  }

 private:
  static void WriteCheckpoint(File& meta, Map& map, VolumeState& volume, Superblock& superblock) {
    Checkpoints checkpoints(PageStore(meta, PagesOffset(superblock.journal_blocks)),
                            superblock.pool_uuid);
    Capture capture;
    capture.Begin(map, {&volume}, {}, {}, superblock.current.lsn, 1);
    checkpoints.Begin();
    for (const uint32_t id : capture.ids())
      REQUIRE(checkpoints.AddNode(id, capture.TakeOut(map, id)).ok());
    superblock.previous = superblock.current;
    REQUIRE(checkpoints.Finish(capture, &superblock.current).ok());
    capture.End(map, true);
    superblock.current.lsn = superblock.previous.lsn;
    superblock.current.replay = superblock.previous.replay;
    ++superblock.generation;
    REQUIRE(WriteSuperblock(meta, superblock).ok());
  }

  // What the heap has handed out. Not the resident set: that depends on what was freed before.
  static double HeapMiB() {
    const struct mallinfo2 heap = ::mallinfo2();
    return static_cast<double>(heap.uordblks + heap.hblkhd) / (1 << 20);
  }
};

TEST_CASE_FIXTURE(ScaleFixture,
                  "1 TiB of full tracks: at most 200 MiB of memory, open under 10 s") {
  MakePool(Entry::Full(0));
  const auto [seconds, mebibytes] = MeasureOpen();
  std::printf("scale: open of a fully mapped 1 TiB, full tracks: %.2f s, %.0f MiB\n", seconds,
              mebibytes);
  CHECK(mebibytes <= 200);
  CHECK(seconds < 10);
}

TEST_CASE_FIXTURE(ScaleFixture, "1 TiB of partial tracks: at most 300 MiB of memory") {
  Entry partial;
  partial.own = 0;
  partial.mask = 0x00ff;
  MakePool(partial);
  const auto [seconds, mebibytes] = MeasureOpen();
  std::printf("scale: open of a fully mapped 1 TiB, partial tracks: %.2f s, %.0f MiB\n", seconds,
              mebibytes);
  CHECK(mebibytes <= 300);
  CHECK(seconds < 10);
}

}  // namespace
}  // namespace flashlun
