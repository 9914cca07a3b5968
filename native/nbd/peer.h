// What the kernel knows of the other end of a socket.
//
// Thread safety: any thread, for a descriptor that stays open meanwhile.
#pragma once

#include <chrono>
#include <cstdint>

#include "core/status.h"

namespace flashlun::nbd {

// Lets the kernel look after an idle TCP connection: one whose peer has vanished without a word
// ends after `timeout`. A wait for replies to be taken is not idle: PeerIsSilent.
void SetKeepAlive(int fd, std::chrono::seconds timeout);

// Whether the peer of a TCP connection that has unsent or unacknowledged bytes has said nothing at
// all for `timeout` although it was asked several times. A client that lives but does not read says
// something: its system answers each window probe. That is the difference to TCP_USER_TIMEOUT,
// which since Linux 5.11 ends both. Probes come up to two minutes apart, so with a short timeout
// the answer may come later.
bool PeerIsSilent(int fd, std::chrono::milliseconds timeout);

// The process at the other end of a unix socket and its user, as of its connect (SO_PEERCRED;
// unix(7)).
struct PeerCredentials {
  int64_t pid = 0;  // 0: in a PID namespace that cannot be seen from here
  int64_t uid = 0;
};
// kInvalid: not a unix socket.
Result<PeerCredentials> CredentialsOf(int fd);

}  // namespace flashlun::nbd
