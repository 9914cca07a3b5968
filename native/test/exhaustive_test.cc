// Runs all sequences of operations, exhaustively (exhaustive.h).
//
//   exhaustive_test           up to two operations with every variant, three with fewer
//   exhaustive_test --full    three with every variant too
//   exhaustive_test --length N    up to N only, at most 3
//   exhaustive_test --sequence "write4K(s) establish ..."    one
//
// Exit 1 on a violation.
#include "test/exhaustive.h"

#include <malloc.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <sstream>
#include <string>
#include <vector>

namespace {

using flashlun::Exhaustive;
using flashlun::ExhaustiveCounts;
using flashlun::ExhaustiveOptions;
using flashlun::NameOf;
using flashlun::SeqOp;

constexpr int kOps = static_cast<int>(SeqOp::kCount);

// All sequences of `length`. Empty, or the first violation.
std::string RunLength(int length, const ExhaustiveOptions& options) {
  const auto begin = std::chrono::steady_clock::now();
  Exhaustive exhaustive(options);
  std::vector<SeqOp> sequence(static_cast<size_t>(length));
  std::vector<int> digits(static_cast<size_t>(length));
  std::string problem;
  for (;;) {
    for (size_t i = 0; i < digits.size(); ++i) sequence[i] = static_cast<SeqOp>(digits[i]);
    problem = exhaustive.Run(sequence);
    if (!problem.empty()) break;
    size_t at = digits.size();
    while (at != 0 && ++digits[at - 1] == kOps) digits[--at] = 0;
    if (at == 0) break;
  }
  const ExhaustiveCounts& counts = exhaustive.counts();
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
  std::printf(
      "exhaustive: length %d: %llu sequences, %llu crash points, %llu crash states, %llu recovered "
      "twice, %llu deaths in recovery, %.1f s\n",
      length, static_cast<unsigned long long>(counts.sequences),
      static_cast<unsigned long long>(counts.points),
      static_cast<unsigned long long>(counts.states),
      static_cast<unsigned long long>(counts.repeated),
      static_cast<unsigned long long>(counts.second_deaths), seconds.count());
  std::fflush(stdout);
  return problem;
}

std::string RunOne(const char* names) {
  std::istringstream words(names);
  std::vector<SeqOp> sequence;
  for (std::string word; words >> word;)
    for (int op = 0; op < kOps; ++op)
      if (word == NameOf(static_cast<SeqOp>(op))) sequence.push_back(static_cast<SeqOp>(op));
  return Exhaustive(ExhaustiveOptions{}).Run(sequence);
}

}  // namespace

int main(int argc, char** argv) {
  ::mallopt(M_MMAP_THRESHOLD, 1 << 20);  // as in simulation_test.cc
  const bool full = argc > 1 && std::strcmp(argv[1], "--full") == 0;
  int longest = 3;
  if (argc > 2 && std::strcmp(argv[1], "--length") == 0) longest = std::atoi(argv[2]);
  std::string problem;
  if (argc > 2 && std::strcmp(argv[1], "--sequence") == 0) {
    problem = RunOne(argv[2]);
  } else {
    const ExhaustiveOptions reduced{
        .settle = false, .all_cuts = false, .again_every = 8, .deaths_every = 256};
    for (int length = 0; length <= longest && problem.empty(); ++length)
      problem = RunLength(length, length == 3 && !full ? reduced : ExhaustiveOptions{});
  }
  if (problem.empty()) return 0;
  std::printf("exhaustive: %s\n", problem.c_str());
  return 1;
}
