#include "nbd/interrupt.h"

#include <signal.h>

namespace flashlun::nbd {
namespace {

// Real-time signals are used by nobody else in this process: Node and V8 have none.
int InterruptSignal() { return SIGRTMIN + 5; }

void InstallHandler() {
  struct sigaction action {};
  action.sa_handler = [](int) {};
  sigemptyset(&action.sa_mask);
  action.sa_flags = 0;  // not SA_RESTART: the call is to end
  ::sigaction(InterruptSignal(), &action, nullptr);
}

}  // namespace

void Interrupt::Begin() {
  static std::once_flag once;
  std::call_once(once, InstallHandler);
  std::lock_guard<std::mutex> lock(mutex_);
  active_ = true;
  if (thread_ == ::pthread_self()) return;
  thread_ = ::pthread_self();
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, InterruptSignal());
  ::pthread_sigmask(SIG_UNBLOCK, &signals, nullptr);  // threads inherit what their maker blocks
}

void Interrupt::End() {
  std::lock_guard<std::mutex> lock(mutex_);
  active_ = false;
}

void Interrupt::Now() {
  std::lock_guard<std::mutex> lock(mutex_);
  if (active_) ::pthread_kill(thread_, InterruptSignal());
}

}  // namespace flashlun::nbd
