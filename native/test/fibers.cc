#include "test/fibers.h"

#include <sys/mman.h>

#include "core/check.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#define FL_START_SWITCH(save, bottom, size) __sanitizer_start_switch_fiber(save, bottom, size)
#define FL_FINISH_SWITCH(save, bottom, size) __sanitizer_finish_switch_fiber(save, bottom, size)
#else
#define FL_START_SWITCH(save, bottom, size) ((void)0)
#define FL_FINISH_SWITCH(save, bottom, size) ((void)0)
#endif

namespace flashlun {
namespace {

constexpr size_t kStackBytes =
    1 << 20;  // mapped lazily; the slow path has 64 KiB buffers on the stack

}  // namespace

struct Fibers::Fiber {
  std::string name;
  std::function<void()> body;
  State state = State::kRunnable;
  const void* key = nullptr;
  ucontext_t context;
  void* stack = nullptr;
  void* fake_stack = nullptr;
  Fibers* owner = nullptr;

  ~Fiber() {
    if (stack != nullptr) ::munmap(stack, kStackBytes);
  }
};

namespace {
// Where AddressSanitizer finds the scheduler's stack again.
[[maybe_unused]] thread_local void* t_scheduler_fake_stack = nullptr;
[[maybe_unused]] thread_local const void* t_scheduler_bottom = nullptr;
[[maybe_unused]] thread_local size_t t_scheduler_size = 0;
}  // namespace

Fibers::Fibers(Rng& rng) : rng_(rng) {}
Fibers::~Fibers() = default;

int Fibers::Spawn(std::string name, std::function<void()> body) {
  auto fiber = std::make_unique<Fiber>();
  fiber->name = std::move(name);
  fiber->body = std::move(body);
  fiber->owner = this;
  fiber->stack =
      ::mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  FL_CHECK(fiber->stack != MAP_FAILED);
  ::getcontext(&fiber->context);
  fiber->context.uc_stack.ss_sp = fiber->stack;
  fiber->context.uc_stack.ss_size = kStackBytes;
  fiber->context.uc_link = nullptr;
  const auto address = reinterpret_cast<uintptr_t>(fiber.get());
  ::makecontext(&fiber->context, reinterpret_cast<void (*)()>(&Fibers::Entry), 2,
                static_cast<unsigned>(address >> 32), static_cast<unsigned>(address));
  fibers_.push_back(std::move(fiber));
  return static_cast<int>(fibers_.size()) - 1;
}

bool Fibers::Finished(int id) const {
  return fibers_[static_cast<size_t>(id)]->state == State::kDone;
}

void Fibers::Entry(unsigned high, unsigned low) {
  auto* fiber = reinterpret_cast<Fiber*>((uintptr_t{high} << 32) | low);
  FL_FINISH_SWITCH(nullptr, &t_scheduler_bottom, &t_scheduler_size);
  fiber->body();
  fiber->owner->Wake(fiber);  // whoever joins
  fiber->owner->SwitchOut(State::kDone, nullptr);
}

void Fibers::SwitchOut(State state, const void* key) {
  Fiber& fiber = *running_;
  fiber.state = state;
  fiber.key = key;
  FL_START_SWITCH(state == State::kDone ? nullptr : &fiber.fake_stack, t_scheduler_bottom,
                  t_scheduler_size);
  ::swapcontext(&fiber.context, &scheduler_);
  FL_FINISH_SWITCH(fiber.fake_stack, &t_scheduler_bottom, &t_scheduler_size);
}

void Fibers::Resume(Fiber& fiber) {
  running_ = &fiber;
  t_fibers = this;
  FL_START_SWITCH(&t_scheduler_fake_stack, fiber.stack, kStackBytes);
  ::swapcontext(&scheduler_, &fiber.context);
  FL_FINISH_SWITCH(t_scheduler_fake_stack, nullptr, nullptr);
  t_fibers = nullptr;
  running_ = nullptr;
}

Fibers::Fiber* Fibers::Pick() {
  std::vector<Fiber*> runnable;
  std::vector<Fiber*> timed;
  for (auto& fiber : fibers_) {
    if (fiber->state == State::kRunnable) runnable.push_back(fiber.get());
    if (fiber->state == State::kTimed) timed.push_back(fiber.get());
  }
  // Virtual time: a timeout fires rarely while others can run, and at once when nobody can.
  if (!timed.empty() && (runnable.empty() || rng_() % 32 == 0)) return timed[rng_() % timed.size()];
  return runnable.empty() ? nullptr : runnable[rng_() % runnable.size()];
}

std::string Fibers::Run(const std::function<bool()>& after_step) {
  for (;;) {
    Fiber* next = Pick();
    if (next == nullptr) break;
    next->state = State::kRunnable;
    Resume(*next);
    if (!after_step()) return {};
  }
  std::string waiting;
  for (const auto& fiber : fibers_)
    if (fiber->state != State::kDone) waiting += " " + fiber->name;
  return waiting.empty() ? "" : "deadlock: nobody can run, waiting:" + waiting;
}

void Fibers::Block(const void* key) { SwitchOut(State::kBlocked, key); }
void Fibers::BlockOrTimeout(const void* key) { SwitchOut(State::kTimed, key); }
void Fibers::Yield() { SwitchOut(State::kRunnable, nullptr); }

void Fibers::Wake(const void* key) {
  for (auto& fiber : fibers_)
    if ((fiber->state == State::kBlocked || fiber->state == State::kTimed) && fiber->key == key)
      fiber->state = State::kRunnable;
}

}  // namespace flashlun
