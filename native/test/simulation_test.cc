// Runs the simulation.
//
//   simulation_test --states 100000 [--seed FIRST]   until so many crash states were looked at
//   simulation_test --seconds 600 [--seed FIRST]     for so long
//   simulation_test --replay SEED                    one run
//   simulation_test --pools                          fixed sequences about pools
//   simulation_test --damage                         damaged metadata, each place in turn
//   simulation_test --mutations [--seeds 4000]       switches each rule off in turn; --only NAME
//
// Exit 1 on a violation, whose seed is printed, or when a mutation is not noticed.
#include "test/simulation.h"

#include <malloc.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#include "test/damage_run.h"
#include "test/mutations.h"
#include "test/pool_run.h"

namespace {

using flashlun::Simulation;

uint64_t OptionOr(int argc, char** argv, const char* name, uint64_t otherwise) {
  for (int i = 1; i + 1 < argc; ++i)
    if (std::strcmp(argv[i], name) == 0) return std::strtoull(argv[i + 1], nullptr, 0);
  return otherwise;
}

const char* TextOf(int argc, char** argv, const char* name) {
  for (int i = 1; i + 1 < argc; ++i)
    if (std::strcmp(argv[i], name) == 0) return argv[i + 1];
  return nullptr;
}

bool HasFlag(int argc, char** argv, const char* name) {
  for (int i = 1; i < argc; ++i)
    if (std::strcmp(argv[i], name) == 0) return true;
  return false;
}

// Until so many crash states were looked at, or for so long.
int RunStates(uint64_t first_seed, uint64_t wanted, double seconds) {
  const auto begin = std::chrono::steady_clock::now();
  uint64_t states = 0;
  uint64_t runs = 0;
  flashlun::DidCounts did{};
  std::printf("simulation: first seed %llu\n", static_cast<unsigned long long>(first_seed));
  const auto elapsed = [begin] {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  };
  while (states < wanted && elapsed() < seconds) {
    const uint64_t seed = first_seed + runs++;
    Simulation simulation(seed);
    const std::string problem = simulation.Run();
    states += simulation.crash_states();
    for (size_t i = 0; i < did.size(); ++i) did[i] += simulation.did()[i];
    if (problem.empty()) continue;
    std::printf("simulation: seed %llu: %s\nrepeat it: simulation_test --replay %llu\n",
                static_cast<unsigned long long>(seed), problem.c_str(),
                static_cast<unsigned long long>(seed));
    return 1;
  }
  std::printf("simulation: %llu runs, %llu crash states, 0 violations, %.1f s\n",
              static_cast<unsigned long long>(runs), static_cast<unsigned long long>(states),
              elapsed());
  for (size_t i = 0; i < did.size(); ++i)
    std::printf("%s%llu %s", i == 0 ? "simulation: did " : ", ",
                static_cast<unsigned long long>(did[i]), NameOf(static_cast<flashlun::Did>(i)));
  std::printf("\n");
  return 0;
}

int RunDamage() {
  flashlun::DamageRun run;
  const std::string problem = run.Run();
  std::printf("damage: %llu opens: %s\n", static_cast<unsigned long long>(run.opens()),
              problem.empty() ? "ok" : problem.c_str());
  return problem.empty() ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  // The engine's sparse tables stay mappings of their own: glibc would otherwise begin to take them
  // from the heap and zero 8 MiB for every crash state.
  ::mallopt(M_MMAP_THRESHOLD, 1 << 20);
  const uint64_t seed = OptionOr(argc, argv, "--seed", 1);
  if (const uint64_t replay = OptionOr(argc, argv, "--replay", 0); replay != 0) {
    const std::string problem = Simulation(replay).Run();
    std::printf("seed %llu: %s\n", static_cast<unsigned long long>(replay),
                problem.empty() ? "ok" : problem.c_str());
    return problem.empty() ? 0 : 1;
  }
  if (HasFlag(argc, argv, "--damage")) return RunDamage();
  if (HasFlag(argc, argv, "--pools")) {
    const std::string problem = flashlun::PoolRun().Run();
    std::printf("pools: %s\n", problem.empty() ? "ok" : problem.c_str());
    return problem.empty() ? 0 : 1;
  }
  if (HasFlag(argc, argv, "--mutations")) {
    const uint64_t most = OptionOr(argc, argv, "--seeds", 4000);
    return flashlun::RunMutations(seed, most, TextOf(argc, argv, "--only")) == 0 ? 0 : 1;
  }
  if (const uint64_t seconds = OptionOr(argc, argv, "--seconds", 0); seconds != 0)
    return RunStates(seed, UINT64_MAX, static_cast<double>(seconds));
  return RunStates(seed, OptionOr(argc, argv, "--states", 10000), 1e9);
}
