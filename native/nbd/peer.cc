#include "nbd/peer.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include <algorithm>

namespace flashlun::nbd {
namespace {

// Questions without an answer before a peer counts as silent: one may be lost, or just be sent.
constexpr int kUnanswered = 3;
// Of the keep-alive: idle for half the time, then so many probes in the other half.
constexpr int kKeepAliveProbes = 6;

void SetTcpOption(int fd, int name, int64_t value) {
  const int least_one = static_cast<int>(std::max<int64_t>(value, 1));
  // A hint; a socket without it still serves.
  (void)::setsockopt(fd, IPPROTO_TCP, name, &least_one, sizeof least_one);
}

}  // namespace

void SetKeepAlive(int fd, std::chrono::seconds timeout) {
  const int on = 1;
  (void)::setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
  SetTcpOption(fd, TCP_KEEPIDLE, timeout.count() / 2);
  SetTcpOption(fd, TCP_KEEPINTVL, timeout.count() / (2 * kKeepAliveProbes));
  SetTcpOption(fd, TCP_KEEPCNT, kKeepAliveProbes);
}

bool PeerIsSilent(int fd, std::chrono::milliseconds timeout) {
  tcp_info info{};
  socklen_t length = sizeof info;
  if (::getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &length) != 0) return false;
  // Window probes, and times that the oldest bytes were sent again; an answer sets both to 0.
  const int unanswered = std::max<int>(info.tcpi_probes, info.tcpi_retransmits);
  return unanswered >= kUnanswered && info.tcpi_last_ack_recv >= timeout.count();
}

Result<PeerCredentials> CredentialsOf(int fd) {
  int domain = 0;
  socklen_t length = sizeof domain;
  if (::getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &length) != 0 || domain != AF_UNIX)
    return Status(Code::kInvalid, "not a unix socket");
  ucred credentials{};
  length = sizeof credentials;
  if (::getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &credentials, &length) != 0)
    return Status(Code::kInvalid, "a unix socket without a peer");
  return PeerCredentials{credentials.pid, credentials.uid};
}

}  // namespace flashlun::nbd
