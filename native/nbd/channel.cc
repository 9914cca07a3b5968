#include "nbd/channel.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <system_error>

#include "nbd/limits.h"

namespace flashlun::nbd {
namespace {

using Clock = std::chrono::steady_clock;

void SetOption(int fd, int level, int name, int value) {
  // Options are hints for speed and for dead peers; a socket without them still serves.
  (void)::setsockopt(fd, level, name, &value, sizeof value);
}

void TuneSocket(int fd) {
  int domain = 0;
  socklen_t length = sizeof domain;
  if (::getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &length) != 0) return;
  if (domain == AF_UNIX) {
    // A whole batch of replies fits, so that its one send does not have to wait for the client
    // halfway.
    SetOption(fd, SOL_SOCKET, SO_SNDBUF, static_cast<int>(kSendBytes));
    return;
  }
  SetOption(fd, IPPROTO_TCP, TCP_NODELAY, 1);
  SetOption(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
  SetOption(fd, IPPROTO_TCP, TCP_KEEPIDLE, kKeepAliveIdleSeconds);
  SetOption(fd, IPPROTO_TCP, TCP_KEEPINTVL, kKeepAliveIntervalSeconds);
  SetOption(fd, IPPROTO_TCP, TCP_KEEPCNT, kKeepAliveProbes);
}

// Without initialization: pages the kernel never fills stay unused memory.
std::unique_ptr<uint8_t[]> MakeBuffer(size_t bytes) {
  return std::unique_ptr<uint8_t[]>(new uint8_t[bytes]);
}

}  // namespace

Channel::Channel(int fd, std::vector<uint8_t> leftover)
    : fd_(fd),
      wake_fd_(::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)),
      receive_(MakeBuffer(kReceiveBytes)),
      send_(MakeBuffer(kSendBytes)),
      leftover_(std::move(leftover)) {
  if (wake_fd_ < 0) {
    const int error_number = errno;
    ::close(fd_);
    throw std::system_error(error_number, std::generic_category(), "eventfd");
  }
  TuneSocket(fd_);
}

Channel::~Channel() {
  Close();
  ::close(wake_fd_);
}

Channel::Event Channel::Receive(bool wakeable) {
  if (TakeLeftover()) return Event::kData;
  MakeRoom();
  bool would_block = false;
  if (!wakeable) return ReceiveNow(0, &would_block);  // Stop ends it by shutdown
  for (;;) {
    const Event event = ReceiveNow(MSG_DONTWAIT, &would_block);
    if (!would_block) return event;
    pollfd fds[2] = {{fd_, POLLIN, 0}, {wake_fd_, POLLIN, 0}};
    if (::poll(fds, 2, -1) < 0) continue;  // EINTR
    if (fds[1].revents != 0) {
      ClearWake();
      return Event::kWoken;
    }
  }
}

Channel::Event Channel::ReceiveNow(int flags, bool* would_block) {
  *would_block = false;
  for (;;) {
    const ssize_t got = ::recv(fd_, receive_.get() + end_, kReceiveBytes - end_, flags);
    if (got > 0) {
      end_ += static_cast<size_t>(got);
      bytes_in_ += static_cast<uint64_t>(got);
      return Event::kData;
    }
    if (got == 0) return Event::kEof;
    if (errno == EINTR) continue;
    if (errno == EAGAIN && (flags & MSG_DONTWAIT) != 0) {
      *would_block = true;
      return Event::kWoken;
    }
    Break("recv", errno);
    return Event::kBroken;
  }
}

bool Channel::TakeLeftover() {
  if (leftover_begin_ == leftover_.size()) return false;
  MakeRoom();
  const size_t count = std::min(leftover_.size() - leftover_begin_, kReceiveBytes - end_);
  std::memcpy(receive_.get() + end_, leftover_.data() + leftover_begin_, count);
  leftover_begin_ += count;
  end_ += count;
  bytes_in_ += count;
  if (leftover_begin_ == leftover_.size()) {
    leftover_ = {};
    leftover_begin_ = 0;
  }
  return true;
}

void Channel::MakeRoom() {
  if (begin_ == end_) {
    begin_ = end_ = 0;
    return;
  }
  if (kReceiveBytes - end_ >= kReceiveBytes / 2) return;
  std::memmove(receive_.get(), data(), available());
  end_ = available();
  begin_ = 0;
}

void Channel::WaitWake() {
  pollfd wake = {wake_fd_, POLLIN, 0};
  while (::poll(&wake, 1, -1) < 0) continue;  // EINTR
  ClearWake();
}

void Channel::ClearWake() {
  uint64_t count;
  (void)!::read(wake_fd_, &count, sizeof count);  // EAGAIN: another wait has cleared it
}

uint8_t* Channel::Reserve(size_t bytes) {
  if (kSendBytes - send_end_ < bytes) Flush();
  return send_.get() + send_end_;
}

void Channel::Append(const uint8_t* bytes, size_t count) {
  if (count <= kSendBytes / 8) {
    std::memcpy(Reserve(count), bytes, count);
    Commit(count);
    return;
  }
  Flush();
  SendAll(bytes, count);
}

bool Channel::Flush() {
  const size_t count = send_end_;
  send_end_ = 0;
  return count == 0 ? !broken_ : SendAll(send_.get(), count);
}

bool Channel::SendAll(const uint8_t* bytes, size_t count) {
  while (count > 0 && !broken_) {
    const ssize_t sent = ::send(fd_, bytes, count, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent >= 0) {
      bytes += sent;
      count -= static_cast<size_t>(sent);
      bytes_out_ += static_cast<uint64_t>(sent);
    } else if (errno == EAGAIN) {
      if (!WaitWritable()) Break("send", ETIMEDOUT);
    } else if (errno != EINTR) {
      Break("send", errno);
    }
  }
  return !broken_;
}

// False when the connection is stopping and the client has not read for kStopGrace.
bool Channel::WaitWritable() {
  for (;;) {
    int timeout_ms = -1;
    if (stopping()) {
      const Clock::time_point deadline{Clock::duration(stop_deadline_.load())};
      const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - Clock::now());
      if (left.count() <= 0) return false;
      timeout_ms = static_cast<int>(left.count());
    }
    pollfd fds[2] = {{fd_, POLLOUT, 0}, {wake_fd_, POLLIN, 0}};
    if (::poll(fds, 2, timeout_ms) < 0) continue;  // EINTR
    if (fds[1].revents != 0) ClearWake();
    if (fds[0].revents != 0) return true;
  }
}

void Channel::Break(const char* operation, int error_number) {
  broken_ = true;
  send_end_ = 0;
  error_ = std::string(operation) + ": " + std::strerror(error_number);
}

void Channel::Close() {
  std::lock_guard<std::mutex> lock(close_mutex_);
  if (fd_ < 0) return;
  ::shutdown(fd_, SHUT_WR);
  ::close(fd_);
  fd_ = -1;
}

void Channel::Wake() {
  const uint64_t one = 1;
  (void)!::write(wake_fd_, &one, sizeof one);  // EAGAIN: already 2^64 - 2 wakes, so it is readable
}

void Channel::Stop() {
  std::lock_guard<std::mutex> lock(close_mutex_);
  if (fd_ < 0 || stopping_.load()) return;
  stop_deadline_.store((Clock::now() + kStopGrace).time_since_epoch().count());
  stopping_.store(true);
  // Only the receiving side: replies to what was received may still leave.
  ::shutdown(fd_, SHUT_RD);
  Wake();
}

}  // namespace flashlun::nbd
