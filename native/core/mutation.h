// Rules of the engine that the simulation switches off one at a time, to prove that it would notice
// (track-store.md 4).
//
// In the product every question is answered `false` at compile time. Only the test build defines
// FLASHLUN_MUTATIONS.
#pragma once

namespace flashlun {

enum class Mutation {
  kNone,
  kNoDataFlush,          // T3: journal durable, data not
  kLateCut,              // T4: records that completed during the data flush join the group
  kEarlyReuse,           // T5: a dropped track is free at once
  kEarlyExclusive,       // T1: a dropped reference stops counting at once
  kEarlyPublish,         // the map changes before the data write completed
  kNoDrain,              // T22: target readable before writes in flight at T0 are done
  kNoMask,               // T6: an unwritten sub-block reads from the fresh track
  kBaseNotCounted,       // T20: the base of a partial track holds no reference
  kTornGate,             // T23: a group is flipped pair by pair, gates open
  kCopyWithoutQuiesce,   // T2: copying out of a track while in-place writes are in flight
  kNoGrace,              // a drop takes effect while readers that looked up before it still run
  kLateKillRing,         // a map change reaches the kill ring only at commit
  kCheckpointNoFlush,    // the superblock points at a checkpoint whose data was not flushed
  kZeroFallsThrough,     // T21: a zeroed sub-block of a partial track reads from the base
  kLeafSharedIgnored,    // a leaf with two owners does not keep writes out of its tracks
  kIndexSharedIgnored,   // nor does an index node
  kLeafOwnersLost,       // the copy of an index node does not count as an owner of its leaves
  kCheckpointInexact,    // T9: a checkpoint's trees are of another moment than its LSN
  kJournalOverrun,       // T11: the journal takes back what the previous checkpoint still needs
  kRecoverOverJournal,   // T11, at the end of a recovery
  kJournalGap,           // a session begins behind a checkpoint that the journal does not lead to
  kCopyWithoutLock,      // T24: the background copy publishes whatever happened meanwhile
  kFlushTooEarly,        // a flush (and FUA) is answered before the commit
  kTrimNotRecorded,      // a trim changes the map and leaves no record
  kTrimRagged,           // a trim takes the ragged ends along
  kNoSpaceHalfDone,      // T18: a write that is refused for space has changed something
  kMergeWithoutLock,     // a write below 4 KiB reads what it completes before it has the track lock
  kRingTailEarly,        // the kill ring forgets records before they are durable
  kKeepRingAfterLoss,    // T12: records stay believed after the data flush failed
  kKeepCacheAfterLoss,   // T12: an open believes a page cache that the disk never got
  kSealIgnored,          // a sealed track is written in place
  kSealWithoutLock,      // a scrub seals a track while writes to it are in flight
  kStaleSeal,            // a replayed write to a fresh track leaves the seal that it had
  kRetrySync,            // T12: fdatasync once more after it failed
  kSuperblockAtOnce,     // T26: all four superblock copies are written before any is durable
  kOnlyPairFirst,        // T26: the only pair of superblock copies that is whole is written first
  kSuperblockUnchecked,  // T28: a superblock copy without its checksum
  kPageUnchecked,        // T28: a page of the checkpoint without the checksum in its parent
  kRingUnchecked,        // a frame of the kill ring without its checksum
  kJournalUnchecked,     // T7: a journal block without its checksum
  kJournalAnyPool,       // T7: one of another pool
  kJournalAnyPlace,      // T7: one of another pass over the ring
  kJournalStaleEpoch,    // T7: one of an older session behind those of a newer one
  kJournalAnyEpoch,      // T25: one of an epoch that the superblock does not know
  kJournalNoChain,       // T7: one that does not follow the one before it
  kTailUnchecked,        // T8: whole groups behind a damaged block are ignored
  kBadTrackReused,       // T13: a track that the disk does not take is given out again
  kLabelUnchecked,       // a data area without its label
  kTrimRace,             // T17: a track may be given out while its space is discarded
  kTrimUnderWaiter,      // what grew for somebody who waits is trimmed before he has it
  kGrowthUnchecked,      // T18: tracks are given out although there was no space for them
  kClaimsIgnored,        // thin volumes take what thick ones have claimed
  kClaimsForgotten,      // a recovery does not restore the claims
  kThickPartial,         // a thick volume's redirected track keeps a base, a second track
  kThickWaitsOnly,       // a thick volume's writer waits for a track that it no longer needs
  kThickMixed,           // thin copies of thick volumes hold their tracks
  kCopyKeepsArea,        // a background copy leaves a track in the source's pool
  kFlushOneArea,         // a flush covers the first data area that was written, not all
  kPoolNotSynced,        // a new pool's file is not durable before its record
  kDropUnwitnessed,      // T26: a copy of the metadata fails, the other goes on alone unrecorded
  kStaleCopyUsed,        // T26: a copy that was declared out of date counts at the next open
  kChangeNotRecorded,    // a volume that records its changes takes a first one in place
  kTargetChangeIgnored,  // an incremental resync leaves what hosts wrote to the target
  kChangesLost,          // a checkpoint forgets which tracks have changed
  kNoHeal,               // T26: a session begins with copies of different ends
};

#ifdef FLASHLUN_MUTATIONS
inline Mutation g_mutation = Mutation::kNone;
inline bool Mutated(Mutation mutation) { return g_mutation == mutation; }
#else
constexpr bool Mutated(Mutation) { return false; }
#endif

}  // namespace flashlun
