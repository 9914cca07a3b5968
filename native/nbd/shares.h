// What the connections of a server share, and what is set for all of them while they run.
//
// Thread safety: any thread.
#pragma once

#include <atomic>
#include <chrono>

#include "nbd/budget.h"
#include "nbd/limits.h"
#include "nbd/throttle.h"

namespace flashlun::nbd {

struct Shares {
  Throttles throttles;
  ByteBudget memory{kSharedBufferBytes};
  // Of connections that begin from now on.
  std::atomic<std::chrono::seconds> peer_timeout{kPeerTimeout};
};

}  // namespace flashlun::nbd
