// What the programs that drive the engine over SimIo share: block contents as values, a small pool,
// and the comparison of a recovered pool with the oracle. One thread.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/store.h"
#include "test/oracle.h"
#include "test/sim_io.h"

namespace flashlun {

// What recycled and never written tracks hold: no host ever wrote it.
inline constexpr Value kForeign = 0xbadbadbadbadbad;

// A block whose eight-byte words are all `value`.
void FillBlock(uint8_t* block, Value value);
// The value of a block: the word it repeats, or a hash with the top bit set.
Value ValueOf(const uint8_t* block);
// True when Patched made it.
bool Known(Value value);
// The contents that Patched (oracle.h) remembers; between two runs nobody needs them.
void ForgetContents();

// A quiet machine with a durable, closed pool whose free tracks hold kForeign.
std::unique_ptr<SimIo> MakePool(const StoreOptions& options, SimIo::Rng& rng, Fibers* fibers);

// Fills the tracks of an area's file with kForeign.
void FillForeign(SimIo& io, const std::string& path, uint64_t tracks);

struct VolumeCheck {
  Store& store;
  OpSlot& slot;
  bool power_loss;
  std::vector<Value>* found = nullptr;  // gets every value read
};
// Reads every used track and compares. Empty, or what is wrong.
std::string VerifyVolume(const VolumeCheck& check, const SimVolume& volume);
// Compares a volume with its seals. Nothing rots in the simulation: a mismatch is a false alarm.
std::string Scrub(Store& store, uint16_t id);
// Empty, or the first mismatch.
std::string MismatchOf(const VerifyBatchResult& scrubbed);
// One sub-block of a volume.
std::string ReadValue(Store& store, OpSlot& slot, uint16_t id, uint64_t offset, Value* value);

}  // namespace flashlun
