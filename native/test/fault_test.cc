// Makes every I/O call of a fixed workload fail in turn (fault.h).
//
//   fault_test                 EIO and ENOSPC, once, for one track, one file and the machine
//   fault_test --every N       the same for every Nth call
//   fault_test INDEX KIND REACH   one run: KIND eio or nospace, REACH once, track, file
//                                 or machine
//   --mirror in front of these: the metadata has a second copy
//
// Exit 1 when something is wrong.
#include "test/fault.h"

#include <malloc.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <utility>

namespace {

using flashlun::Fault;
using flashlun::FaultPlan;
using flashlun::FaultRun;

constexpr std::pair<Fault, const char*> kFaults[] = {{Fault::kEio, "eio"},
                                                     {Fault::kNoSpace, "nospace"}};
constexpr std::pair<FaultPlan::Reach, const char*> kReaches[] = {
    {FaultPlan::Reach::kOnce, "once"},
    {FaultPlan::Reach::kTrack, "track"},
    {FaultPlan::Reach::kFile, "file"},
    {FaultPlan::Reach::kMachine, "machine"}};

char g_current[128];  // said when the engine ends the process

void OnAbort(int) {
  (void)!::write(STDOUT_FILENO, g_current, sizeof g_current);
  std::signal(SIGABRT, SIG_DFL);
}

struct Totals {
  unsigned long long runs = 0, states = 0, stopped = 0;
};

// True when it went well.
bool RunOne(const FaultPlan& plan, const char* kind, const char* reach, Totals* totals) {
  const char* const mirror = plan.mirror ? "--mirror " : "";
  std::snprintf(g_current, sizeof g_current, "fault: aborted in: fault_test %s%llu %s %s\n", mirror,
                static_cast<unsigned long long>(plan.index), kind, reach);
  FaultRun run(plan);
  const std::string problem = run.Run();
  if (run.hit().empty()) return true;  // such a call cannot fail so
  ++totals->runs;
  totals->states += run.states();
  totals->stopped += run.poisoned();
  if (problem.empty()) return true;
  std::printf("fault: %s at call %llu (%s), %s: %s\nrepeat it: fault_test %s%llu %s %s\n", kind,
              static_cast<unsigned long long>(plan.index), run.hit().c_str(), reach,
              problem.c_str(), mirror, static_cast<unsigned long long>(plan.index), kind, reach);
  return false;
}

}  // namespace

int main(int argc, char** argv) {
  ::mallopt(M_MMAP_THRESHOLD, 1 << 20);  // as in simulation_test.cc
  std::signal(SIGABRT, OnAbort);
  const auto begin = std::chrono::steady_clock::now();
  FaultPlan plan;
  if (argc > 1 && std::string(argv[1]) == "--mirror") {
    plan.mirror = true;
    --argc;
    ++argv;
  }
  FaultRun whole(plan);
  if (const std::string problem = whole.Run(); !problem.empty()) {
    std::printf("fault: without a fault: %s\n", problem.c_str());
    return 1;
  }
  Totals totals;
  bool good = true;
  const bool some = argc == 3 && std::string(argv[1]) == "--every";
  const uint64_t step = some ? std::max(1ull, std::strtoull(argv[2], nullptr, 0)) : 1;
  for (uint64_t index = 0; index < whole.calls(); index += step)
    for (const auto& [fault, kind] : kFaults)
      for (const auto& [reach, far] : kReaches)
        if (argc != 4 || (std::strtoull(argv[1], nullptr, 0) == index &&
                          std::string(argv[2]) == kind && std::string(argv[3]) == far))
          good = RunOne({index, fault, reach, plan.mirror}, kind, far, &totals) && good;
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
  std::printf(
      "fault: %llu calls, %llu runs with a fault, %llu stopped the pool, %llu crash states, "
      "%.1f s\n",
      static_cast<unsigned long long>(whole.calls()), totals.runs, totals.stopped, totals.states,
      seconds.count());
  return good ? 0 : 1;
}
