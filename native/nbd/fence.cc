#include "nbd/fence.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <algorithm>

#include "nbd/channel.h"
#include "nbd/limits.h"
#include "nbd/peer.h"

namespace flashlun::nbd {

PeerLife LookAtPeer(int fd) {
  pollfd peer = {fd, 0, 0};  // POLLHUP and POLLERR are always told
  if (::poll(&peer, 1, 0) > 0 && (peer.revents & (POLLHUP | POLLERR | POLLNVAL)) != 0)
    return PeerLife::kGone;
  tcp_info info{};
  socklen_t length = sizeof info;
  if (::getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &length) != 0)
    return PeerLife::kAlive;  // a unix socket: poll would have told
  if (info.tcpi_state != TCP_ESTABLISHED) return PeerLife::kGone;
  const uint32_t heard_ms = std::min(info.tcpi_last_data_recv, info.tcpi_last_ack_recv);
  return heard_ms < kHeardRecently.count() ? PeerLife::kAlive : PeerLife::kSilent;
}

void ProbePeer(int fd) {
  // Setting the idle time starts the timer anew; of a connection that has been idle for longer it
  // ends at once (Linux, tcp_sock_set_keepidle_locked).
  const int second = 1;
  (void)::setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &second, sizeof second);
  (void)::setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &second, sizeof second);
}

std::string PeerAddress(int fd) {
  sockaddr_storage address{};
  socklen_t length = sizeof address;
  if (::getpeername(fd, reinterpret_cast<sockaddr*>(&address), &length) != 0) return {};
  if (address.ss_family == AF_INET) {
    const auto* v4 = reinterpret_cast<const sockaddr_in*>(&address);
    return std::string(reinterpret_cast<const char*>(&v4->sin_addr), sizeof v4->sin_addr);
  }
  if (address.ss_family != AF_INET6) return {};
  const auto* v6 = reinterpret_cast<const sockaddr_in6*>(&address);
  const auto* bytes = reinterpret_cast<const char*>(&v6->sin6_addr);
  if (IN6_IS_ADDR_V4MAPPED(&v6->sin6_addr)) return std::string(bytes + 12, 4);
  return std::string(bytes, sizeof v6->sin6_addr);
}

// Channel: what fencing needs of it ---------------------------------------------

PeerLife Channel::Look() {
  std::lock_guard<std::mutex> lock(close_mutex_);
  return fd_ < 0 ? PeerLife::kGone : LookAtPeer(fd_);
}

bool Channel::HasUnread() {
  std::lock_guard<std::mutex> lock(close_mutex_);
  int unread = 0;
  return fd_ >= 0 && ::ioctl(fd_, FIONREAD, &unread) == 0 && unread > 0;
}

void Channel::Probe(bool ask) {
  std::lock_guard<std::mutex> lock(close_mutex_);
  if (fd_ < 0) return;
  if (ask) {
    ProbePeer(fd_);
  } else {
    SetKeepAlive(fd_, peer_timeout_);
  }
}

void Channel::Cut() {
  Stop();
  std::lock_guard<std::mutex> lock(close_mutex_);
  if (fd_ >= 0) ::shutdown(fd_, SHUT_RDWR);
  Wake();
}

}  // namespace flashlun::nbd
