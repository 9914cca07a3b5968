// Every limit of the native side, with its reason. src/base/limits.ts holds the TypeScript side's.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>

namespace flashlun {

// A track is the unit of mapping, sharing and copying: 64 KiB, the ESS's
// (shared/reference/ess.md 2.4).
inline constexpr uint32_t kTrackShift = 16;
inline constexpr uint32_t kTrackBytes = 1u << kTrackShift;
// A sub-block is the unit of the own/zero masks and of old-or-new atomicity: one page, what file
// systems write.
inline constexpr uint32_t kSubShift = 12;
inline constexpr uint32_t kSubBytes = 1u << kSubShift;
inline constexpr uint32_t kSubsPerTrack = kTrackBytes / kSubBytes;
inline constexpr uint16_t kFullMask = 0xffff;
static_assert(kSubsPerTrack == 16, "masks are 16 bits wide");

// Map fan-out: a leaf of 512 entries covers 32 MiB and is one 4 KiB page; an index node covers 8
// GiB.
inline constexpr uint32_t kLeafTracks = 512;
inline constexpr uint32_t kIndexLeaves = 256;
inline constexpr uint64_t kIndexTracks = uint64_t{kLeafTracks} * kIndexLeaves;

// 16 fixed-block LSSs (10-1F) of 256 volumes each (ess.md 2.2).
inline constexpr uint32_t kMaxVolumes = 4096;
// 64 TiB: a root of 8192 index nodes, far above the ESS's 2 TB, and safe as a JavaScript number.
inline constexpr uint64_t kMaxVolumeBytes = uint64_t{64} << 40;
inline constexpr uint64_t kMinVolumeBytes = kTrackBytes;
// UTF-8 bytes of a volume's name; NBD allows 4096 for an export name, people read 64.
inline constexpr size_t kMaxNameBytes = 64;
// Pairs of one establish: one transaction must fit one journal group (16,384 records) with room to
// spare.
inline constexpr size_t kMaxPairsPerEstablish = 1024;
// Asynchronous reads and writes of a pool under way at once; each takes an OpSlot. More wait on
// their connection's thread.
inline constexpr size_t kMaxAsyncOps = 512;
// Operations on volumes at the same time: threads (and fibers of the simulation) of connections and
// workers, and the asynchronous ones.
inline constexpr size_t kMaxOpSlots = 1024 + kMaxAsyncOps;
// Transfers of one asynchronous operation in flight at once: what a read of 256 KiB needs when its
// tracks lie apart. The rest follows when they have ended.
inline constexpr size_t kAsyncPieces = 8;
// Longest asynchronous write; it is not cut, so this is also what it may need of the above.
inline constexpr size_t kMaxAsyncWriteBytes = 128u << 10;
static_assert(kMaxAsyncWriteBytes / kTrackBytes + 1 <= kAsyncPieces);
// Threads of the `threads` backend: the queue depth the disk sees.
inline constexpr size_t kIoThreads = 16;
// Transfers in an io_uring at once; more than the disks there are have places for.
inline constexpr uint32_t kRingDepth = 255;
// Pairs whose T0 came since the oldest deferred drop that still counts: an establish or resync more
// waits (StoreImpl::WaitForDrops).
inline constexpr uint64_t kMaxPendingPairs = 16384;
static_assert(kMaxPendingPairs >= kMaxPairsPerEstablish);
// Trap T19: reference counts are 16 bits. A track is referred to at most once by each volume (as
// own or as base, always at its own place), once by each copy of a leaf that is being made ahead,
// and by what was dropped and still counts: each T0 of a pair makes its two volumes drop at most
// one leaf each, and an incremental one the track itself.
static_assert(kMaxVolumes + kMaxOpSlots + 3 * kMaxPendingPairs < 65535, "ref[] is 16 bits");
// Places of the map that one block status call looks at: a track, or all tracks of a missing node.
// About half a millisecond; 2 GiB of tracks with data, any amount of nothing.
inline constexpr uint32_t kMaxStatusSteps = 32768;
// Relationships whose changes a volume offers to its hosts; the oldest ones.
inline constexpr size_t kMaxRecordings = 64;
// Read-ahead of one call: what a client asks for beyond is not fetched.
inline constexpr uint64_t kMaxPrefetchBytes = uint64_t{32} << 20;
// Longest NBD payload we accept: 32 MiB, what QEMU, nbd.ko and libnbd send at most (proto.md "Size
// constraints").
inline constexpr uint32_t kMaxPayloadBytes = 32u << 20;
// Physical tracks are 40-bit numbers in entries: bits 32-39 are the data area, bits 0-31 the track
// in it, so an area has at most 256 TiB. The last track of the last possible area would be
// kNoTrack; with 16 areas it cannot be named.
inline constexpr uint64_t kMaxAreaTracks = uint64_t{1} << 32;
inline constexpr uint64_t kMaxPoolTracks = kMaxAreaTracks;
inline constexpr uint32_t kMaxAreas = 16;
// Time limit of a freeze: the ESS's timer is 120 s by default; an hour is longer than any host
// waits.
inline constexpr std::chrono::milliseconds kMinFreeze{1};
inline constexpr std::chrono::milliseconds kMaxFreeze{3600 * 1000};
// How long a freeze waits for writes that have begun; as an establish for its targets.
inline constexpr std::chrono::seconds kFreezeDrain{2};
// A pool's name, and the path of its file or device.
inline constexpr size_t kMaxPoolNameBytes = 64;
inline constexpr size_t kMaxPoolPathBytes = 512;

}  // namespace flashlun
