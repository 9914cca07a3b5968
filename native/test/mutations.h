// The rules of the engine that tests switch off one at a time (core/mutation.h).
#pragma once

#include <cstdint>

namespace flashlun {

// Switches every rule off in turn, each in a process of its own, and looks for a seed of the
// simulation, or a run of the fault test, that notices. Returns how many nobody noticed.
// `only`: a part of the rule's name, or nullptr for all.
int RunMutations(uint64_t first_seed, uint64_t most_seeds, const char* only);

}  // namespace flashlun
