#include "test/mutations.h"

#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstring>
#include <string>

#include "core/mutation.h"
#include "test/damage_run.h"
#include "test/fault.h"
#include "test/pool_run.h"
#include "test/simulation.h"

namespace flashlun {
namespace {

// kPools, kThick: the simulation's seeds that have several pools, those without and those with
// thick volumes; kJournal: those with a smaller journal (simulation.cc).
enum class Watch {
  kSimulation,
  kMirror,
  kPools,
  kThick,
  kJournal,
  kFaults,
  kMirrorFaults,
  kDamage,
  kPoolRun
};

struct Rule {
  Mutation off;
  Watch watch;
  const char* name;
};

using enum Mutation;
constexpr Rule kRules[] = {
    {kNoDataFlush, Watch::kSimulation, "journal durable before the data (T3)"},
    {kLateCut, Watch::kSimulation, "cut taken after the data flush (T4)"},
    {kEarlyReuse, Watch::kSimulation, "dropped track reusable at once (T5)"},
    {kEarlyExclusive, Watch::kSimulation, "dropped reference not counted (T1)"},
    {kEarlyPublish, Watch::kSimulation, "published before the data write completed"},
    {kNoDrain, Watch::kSimulation, "target readable before the drain (T22)"},
    {kNoMask, Watch::kSimulation, "no sub-block mask (T6)"},
    {kBaseNotCounted, Watch::kSimulation, "base not counted (T20)"},
    {kTornGate, Watch::kSimulation, "group flipped pair by pair (T23)"},
    {kCopyWithoutQuiesce, Watch::kSimulation, "copy without quiescing in-place writes (T2)"},
    {kNoGrace, Watch::kSimulation, "drop applied while older readers run"},
    {kLateKillRing, Watch::kSimulation, "map change not in the kill ring"},
    {kCheckpointNoFlush, Watch::kSimulation, "checkpoint names data that was not flushed"},
    {kZeroFallsThrough, Watch::kSimulation, "zeroed sub-block reads from the base (T21)"},
    {kLeafSharedIgnored, Watch::kSimulation, "shared leaf taken for exclusive"},
    {kIndexSharedIgnored, Watch::kSimulation, "shared index node taken for exclusive"},
    {kLeafOwnersLost, Watch::kSimulation, "owners of a leaf not counted"},
    {kChangeNotRecorded, Watch::kSimulation, "change of a recorded track made in place"},
    {kTargetChangeIgnored, Watch::kSimulation, "incremental resync without the target's changes"},
    {kChangesLost, Watch::kSimulation, "changed tracks not in the checkpoint"},
    {kCheckpointInexact, Watch::kSimulation, "checkpoint not of one LSN (T9)"},
    {kJournalOverrun, Watch::kSimulation, "journal over the previous checkpoint's blocks (T11)"},
    {kRecoverOverJournal, Watch::kSimulation, "recovery over a full journal (T11)"},
    {kJournalGap, Watch::kJournal, "session behind a checkpoint ahead of the journal (T11)"},
    {kCopyWithoutLock, Watch::kSimulation, "background copy publishes without comparing (T24)"},
    {kFlushTooEarly, Watch::kSimulation, "flush, FUA answered before the commit (T29)"},
    {kTrimNotRecorded, Watch::kSimulation, "trim leaves no record"},
    {kTrimRagged, Watch::kSimulation, "trim takes ragged ends along"},
    {kNoSpaceHalfDone, Watch::kSimulation, "write refused for space changes something (T18)"},
    {kMergeWithoutLock, Watch::kSimulation, "write below 4 KiB merged without the lock"},
    {kRingTailEarly, Watch::kSimulation, "kill ring forgets records before they are durable"},
    {kSealIgnored, Watch::kSimulation, "sealed track written in place"},
    {kSealWithoutLock, Watch::kSimulation, "track sealed while it is written"},
    {kStaleSeal, Watch::kSimulation, "seal of what a track held before its replayed write"},
    {kSuperblockAtOnce, Watch::kPoolRun, "superblock copies not two by two (T26)"},
    {kOnlyPairFirst, Watch::kPoolRun, "only whole pair of superblock copies written first (T26)"},
    {kTrimRace, Watch::kSimulation, "track given out while it is discarded (T17)"},
    {kTrimUnderWaiter, Watch::kPoolRun, "space trimmed that somebody waits for"},
    {kGrowthUnchecked, Watch::kPools, "tracks given out that have no space (T18)"},
    {kClaimsIgnored, Watch::kThick, "thin volumes take what thick ones claim"},
    {kClaimsForgotten, Watch::kThick, "claims not restored by a recovery"},
    {kThickPartial, Watch::kThick, "thick track with a base"},
    {kThickWaitsOnly, Watch::kThick, "thick writer waits for what it no longer needs"},
    {kThickMixed, Watch::kPoolRun, "thin copy of a thick volume"},
    {kCopyKeepsArea, Watch::kPoolRun, "copy left in the source's pool"},
    {kFlushOneArea, Watch::kPools, "flush of one data area only"},
    {kPoolNotSynced, Watch::kPools, "new pool recorded before it is durable"},
    {kSuperblockUnchecked, Watch::kDamage, "superblock copy without checksum (T28)"},
    {kPageUnchecked, Watch::kDamage, "checkpoint page without its parent's checksum (T28)"},
    {kRingUnchecked, Watch::kDamage, "kill ring frame without checksum"},
    {kJournalUnchecked, Watch::kDamage, "torn journal block accepted (T7)"},
    {kJournalAnyPool, Watch::kDamage, "journal block of another pool accepted (T7)"},
    {kJournalAnyPlace, Watch::kDamage, "journal block of another pass accepted (T7)"},
    {kJournalStaleEpoch, Watch::kDamage, "stale journal block accepted (T7)"},
    {kJournalAnyEpoch, Watch::kDamage, "journal block of an unknown epoch accepted (T25)"},
    {kJournalNoChain, Watch::kDamage, "journal block out of the chain accepted (T7)"},
    {kTailUnchecked, Watch::kDamage, "later groups behind a damaged one ignored (T8)"},
    {kLabelUnchecked, Watch::kDamage, "data area of another number accepted"},
    {kBadTrackReused, Watch::kFaults, "track that the disk does not take given out again (T13)"},
    {kKeepRingAfterLoss, Watch::kFaults, "records believed after a failed data flush (T12)"},
    {kKeepCacheAfterLoss, Watch::kFaults, "page cache believed after a failed flush (T12)"},
    {kRetrySync, Watch::kFaults, "fdatasync tried again after it failed (T12)"},
    {kDropUnwitnessed, Watch::kMirrorFaults, "copy of the metadata dropped without a record (T26)"},
    {kStaleCopyUsed, Watch::kMirrorFaults, "copy that is out of date used again (T26)"},
    {kNoHeal, Watch::kMirror, "session with two different copies (T26)"},
};

// A run of a mutated engine that takes longer than this hangs, which is a way to be noticed. A
// simulation takes a quarter of a second, all of a fault or damage run a few.
constexpr unsigned kHangSeconds = 20;
// So is to fill the memory.
constexpr rlim_t kMostBytes = rlim_t{1} << 30;

std::string NoticedByFaults(bool mirror, uint64_t* used) {
  const uint64_t calls = [mirror] {
    FaultRun whole({.mirror = mirror});
    (void)whole.Run();
    return whole.calls();
  }();
  for (uint64_t index = 0; index < calls; ++index) {
    for (const auto reach : {FaultPlan::Reach::kOnce, FaultPlan::Reach::kTrack,
                             mirror ? FaultPlan::Reach::kFile : FaultPlan::Reach::kMachine}) {
      ++*used;
      const std::string problem = FaultRun({index, Fault::kEio, reach, mirror}).Run();
      if (!problem.empty()) return problem;
    }
  }
  return {};
}

uint64_t SeedFor(Watch watch, uint64_t n) {
  if (watch == Watch::kPools) return n / 4 * 16 + 4 + n % 4;
  if (watch == Watch::kThick) return n / 4 * 16 + 12 + n % 4;
  if (watch == Watch::kJournal) return n * 3 + 1;
  return n;
}

std::string Noticed(const Rule& rule, uint64_t first_seed, uint64_t most_seeds, uint64_t* used) {
  if (rule.watch == Watch::kFaults || rule.watch == Watch::kMirrorFaults)
    return NoticedByFaults(rule.watch == Watch::kMirrorFaults, used);
  if (rule.watch == Watch::kPoolRun) {
    ++*used;
    return PoolRun().Run();
  }
  if (rule.watch == Watch::kDamage) {
    DamageRun run;
    std::string problem = run.Run();
    *used = run.opens();
    return problem;
  }
  std::string problem;
  while (problem.empty() && *used < most_seeds) {
    ::alarm(kHangSeconds);
    const uint64_t seed = SeedFor(rule.watch, first_seed + (*used)++);
    problem = Simulation(seed, rule.watch == Watch::kMirror).Run();
  }
  return problem;
}

struct Report {
  uint64_t used;
  char problem[160];
};

// In a process of its own: an engine without a rule may well crash.
Report Try(const Rule& rule, uint64_t first_seed, uint64_t most_seeds) {
  Report report{};
  int ends[2];
  std::fflush(stdout);
  if (::pipe(ends) != 0) return report;
  const pid_t child = ::fork();
  if (child == 0) {
    ::alarm(kHangSeconds);
    const rlimit memory{kMostBytes, kMostBytes};
    (void)::setrlimit(RLIMIT_AS, &memory);
    g_mutation = rule.off;
    std::freopen("/dev/null", "w", stderr);
    const std::string problem = Noticed(rule, first_seed, most_seeds, &report.used);
    std::snprintf(report.problem, sizeof report.problem, "%s", problem.c_str());
    (void)!::write(ends[1], &report, sizeof report);
    ::_exit(0);
  }
  ::close(ends[1]);
  const bool told = ::read(ends[0], &report, sizeof report) == sizeof report;
  ::close(ends[0]);
  int ended = 0;
  ::waitpid(child, &ended, 0);
  if (!told)
    std::snprintf(report.problem, sizeof report.problem, "the process ended: %s",
                  WIFSIGNALED(ended) ? ::strsignal(WTERMSIG(ended)) : "by itself");
  return report;
}

}  // namespace

int RunMutations(uint64_t first_seed, uint64_t most_seeds, const char* only) {
  int missed = 0;
  for (const Rule& rule : kRules) {
    if (only != nullptr && std::strstr(rule.name, only) == nullptr) continue;
    const auto begin = std::chrono::steady_clock::now();
    const Report report = Try(rule, first_seed, most_seeds);
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
    const bool noticed = report.problem[0] != '\0';
    if (!noticed) ++missed;
    std::printf("mutation: %-53s %s after %llu runs, %.1f s: %.110s\n", rule.name,
                noticed ? "noticed" : "NOT NOTICED", static_cast<unsigned long long>(report.used),
                seconds.count(), report.problem);
    std::fflush(stdout);
  }
  return missed;
}

}  // namespace flashlun
