// Fibers: many flows of control on one thread, switched only where the engine waits or does I/O, in
// an order drawn from a seed. The same seed gives the same interleaving.
#pragma once

#include <ucontext.h>

#include <functional>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "core/sync.h"

namespace flashlun {

class Fibers final : public FiberScheduler {
 public:
  using Rng = std::mt19937_64;

  explicit Fibers(Rng& rng);
  ~Fibers() override;
  Fibers(const Fibers&) = delete;
  Fibers& operator=(const Fibers&) = delete;

  // Returns an id for Finished. May be called from inside a fiber.
  int Spawn(std::string name, std::function<void()> body);
  bool Finished(int id) const;

  // Runs fibers until all have ended. `after_step` runs outside any fiber after every switch; false
  // stops everything at once (the fibers are abandoned where they are). Returns an empty string, or
  // what is wrong (a deadlock).
  std::string Run(const std::function<bool()>& after_step);

  void Block(const void* key) override;
  void BlockOrTimeout(const void* key) override;
  void Wake(const void* key) override;
  void Yield() override;

 private:
  enum class State { kRunnable, kBlocked, kTimed, kDone };
  struct Fiber;
  void SwitchOut(State state, const void* key);
  Fiber* Pick();
  void Resume(Fiber& fiber);
  static void Entry(unsigned high, unsigned low);

  Rng& rng_;
  std::vector<std::unique_ptr<Fiber>> fibers_;
  Fiber* running_ = nullptr;
  ucontext_t scheduler_;
};

}  // namespace flashlun
