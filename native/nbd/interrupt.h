// Interrupt: ends one blocking system call of a thread, without harm to the socket it waits on.
//
// A connection's thread sleeps in recv, which costs a client with one request at a time the least.
// shutdown() ends that sleep for Stop, but a socket that another process is to go on with must stay
// as it is. So the thread gets a signal, whose handler does nothing and which makes recv return
// EINTR. The signal may come just before recv begins, and is lost then: whoever interrupts does so
// again until the thread has noticed what it was interrupted for.
//
// Thread safety: Begin and End by the thread itself, Now by any.
#pragma once

#include <pthread.h>

#include <mutex>

namespace flashlun::nbd {

class Interrupt {
 public:
  // The calling thread can be interrupted from here on, until End.
  void Begin();
  void End();
  void Now();

 private:
  std::mutex mutex_;  // a thread that has ended must not get a signal
  bool active_ = false;
  pthread_t thread_{};
};

}  // namespace flashlun::nbd
