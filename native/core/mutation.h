// Rules of the engine that the simulation switches off one at a time, to prove that it would notice
// (track-store.md 4).
//
// In the product every question is answered `false` at compile time. Only the test build defines
// FLASHLUN_MUTATIONS.
#pragma once

namespace flashlun {

enum class Mutation {
  kNone,
  kNoDataFlush,         // T3: journal durable, data not
  kLateCut,             // T4: records that completed during the data flush join the group
  kEarlyReuse,          // T5: a dropped track is free at once
  kEarlyExclusive,      // T1: a dropped reference stops counting at once
  kEarlyPublish,        // the map changes before the data write completed
  kNoDrain,             // T22: target readable before writes in flight at T0 are done
  kNoMask,              // T6: an unwritten sub-block reads from the fresh track
  kBaseNotCounted,      // T20: the base of a partial track holds no reference
  kTornGate,            // T23: a group is flipped pair by pair, gates open
  kCopyWithoutQuiesce,  // T2: copying out of a track while in-place writes are in flight
  kNoGrace,             // a drop takes effect while readers that looked up before it still run
  kLateKillRing,        // a map change reaches the kill ring only at commit
  kCheckpointNoFlush,   // the superblock points at a checkpoint whose data was not flushed
  kZeroFallsThrough,    // T21: a zeroed sub-block of a partial track reads from the base
};

#ifdef FLASHLUN_MUTATIONS
inline Mutation g_mutation = Mutation::kNone;
inline bool Mutated(Mutation mutation) { return g_mutation == mutation; }
#else
constexpr bool Mutated(Mutation) { return false; }
#endif

}  // namespace flashlun
