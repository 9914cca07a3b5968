#include "nbd/channel.h"

#include <linux/sockios.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <system_error>
#include <thread>

#include "nbd/peer.h"

namespace flashlun::nbd {
namespace {

using Clock = std::chrono::steady_clock;

void SetOption(int fd, int level, int name, int value) {
  // Options are hints for speed and for dead peers; a socket without them still serves.
  (void)::setsockopt(fd, level, name, &value, sizeof value);
}

bool IsTcp(int fd) {
  int domain = 0;
  socklen_t length = sizeof domain;
  if (::getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &length) != 0) return false;
  return domain == AF_INET || domain == AF_INET6;
}

void TuneSocket(int fd, bool tcp, std::chrono::seconds peer_timeout) {
  if (!tcp) {
    // A whole batch of replies fits, so that its one send does not have to wait for the client
    // halfway.
    SetOption(fd, SOL_SOCKET, SO_SNDBUF, static_cast<int>(kSendBytes));
    return;
  }
  // Not TCP_USER_TIMEOUT: since Linux 5.11 it also ends a client that lives and answers window
  // probes but has not read for so long, such as a paused machine. A peer that died with replies
  // on the way is found by PeerIsSilent, one that died in silence by the keep-alive.
  SetOption(fd, IPPROTO_TCP, TCP_NODELAY, 1);
  SetKeepAlive(fd, peer_timeout);
}

// Without initialization: pages the kernel never fills stay unused memory.
std::unique_ptr<uint8_t[]> MakeBuffer(size_t bytes) {
  return std::unique_ptr<uint8_t[]>(new uint8_t[bytes]);
}

}  // namespace

Channel::Channel(int fd, std::vector<uint8_t> leftover, std::vector<uint8_t> unsent,
                 std::shared_ptr<ConnectionStats> stats, std::chrono::seconds peer_timeout,
                 std::unique_ptr<SecureStream> secure)
    : fd_(fd),
      wake_fd_(::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)),
      tcp_(IsTcp(fd)),
      peer_timeout_(peer_timeout),
      receive_(MakeBuffer(kReceiveBytes)),
      send_(MakeBuffer(kSendBytes)),
      secure_(std::move(secure)),
      leftover_(std::move(leftover)),
      unsent_(std::move(unsent)),
      stats_(std::move(stats)) {
  if (wake_fd_ < 0) {
    const int error_number = errno;
    ::close(fd_);
    throw std::system_error(error_number, std::generic_category(), "eventfd");
  }
  TuneSocket(fd_, tcp_, peer_timeout_);
}

Channel::~Channel() {
  Close();
  ::close(wake_fd_);
}

Channel::Event Channel::Receive(bool wakeable) {
  if (parking()) return Event::kWoken;
  if (TakeLeftover()) return Event::kData;
  MakeRoom();
  // With requests in flight a completion may come first, and only the eventfd tells of it.
  if (Event event; !wakeable && Spin(&event)) return event;
  const Clock::time_point begin = Clock::now();
  const Event event = ReceiveBlocking(wakeable);
  // A sleep this short cost more than it saved: the client answers within a moment.
  if (Clock::now() - begin < kSpinTime * 2) spin_credit_ = std::max(spin_credit_, kSpinCredit);
  return event;
}

// Going to sleep costs a wake-up, which in a virtual machine is as long as ten requests: for a
// client with one request in flight it is most of the latency (measured at queue depth 1: 24,500
// requests/s without, 38,300 with). So a connection whose recent sleeps were short looks for bytes
// for a moment first. Looking in vain uses up its credit, so an idle connection sleeps; no more
// connections look than there are processors.
bool Channel::Spin(Event* event) {
  if (spin_credit_ == 0) return false;
  static const int most = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  static std::atomic<int> spinning{0};
  if (spinning.fetch_add(1, std::memory_order_relaxed) >= most) {
    spinning.fetch_sub(1, std::memory_order_relaxed);
    return false;
  }
  bool would_block = true;
  const Clock::time_point end = Clock::now() + kSpinTime;
  do {
    *event = ReceiveNow(MSG_DONTWAIT, &would_block);
  } while (would_block && Clock::now() < end);
  spinning.fetch_sub(1, std::memory_order_relaxed);
  spin_credit_ = would_block ? spin_credit_ - 1 : std::min(spin_credit_ + 1, kSpinCreditMost);
  return !would_block;
}

Channel::Event Channel::ReceiveBlocking(bool wakeable) {
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
  if (secure_) return ReceiveSecure(flags, would_block);
  size_t got = 0;
  const Event event =
      ReceiveRaw(receive_.get() + end_, kReceiveBytes - end_, flags, would_block, &got);
  end_ += got;
  Add(stats_->bytes_in, got);
  return event;
}

// One recv. *would_block is left alone unless it would.
Channel::Event Channel::ReceiveRaw(uint8_t* to, size_t room, int flags, bool* would_block,
                                   size_t* got) {
  for (;;) {
    const ssize_t count = ::recv(fd_, to, room, flags);
    if (count > 0) {
      *got = static_cast<size_t>(count);
      return Event::kData;
    }
    if (count == 0) return Event::kEof;
    if (errno == EINTR && parking()) return Event::kWoken;
    if (errno == EINTR) continue;
    if (errno == EAGAIN && (flags & MSG_DONTWAIT) != 0) {
      *would_block = true;
      return Event::kWoken;
    }
    Break("recv", errno);
    return Event::kBroken;
  }
}

// An end of file without close_notify is an end like any other: a request that was cut off is not
// executed, with and without TLS.
Channel::Event Channel::ReceiveSecure(int flags, bool* would_block) {
  for (;;) {
    size_t got = 0;
    switch (secure_->Decrypt(receive_.get() + end_, kReceiveBytes - end_, &got)) {
      case SecureStream::Step::kData:
        end_ += got;
        Add(stats_->bytes_in, got);
        return Event::kData;
      case SecureStream::Step::kEnd:
        return Event::kEof;
      case SecureStream::Step::kBroken:
        SendOutput();  // an alert
        Break("TLS: " + secure_->error());
        return Event::kBroken;
      case SecureStream::Step::kWantInput:
        break;
    }
    size_t room = 0;
    uint8_t* to = secure_->InputRoom(&room);
    const Event event = ReceiveRaw(to, room, flags, would_block, &got);
    if (event != Event::kData) return event;
    secure_->InputArrived(got);
  }
}

bool Channel::TakeLeftover() {
  if (leftover_begin_ == leftover_.size()) return false;
  MakeRoom();
  const size_t count = std::min(leftover_.size() - leftover_begin_, kReceiveBytes - end_);
  std::memcpy(receive_.get() + end_, leftover_.data() + leftover_begin_, count);
  leftover_begin_ += count;
  end_ += count;
  Add(stats_->bytes_in, count);
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

bool Channel::HasInput() const {
  if (leftover_begin_ != leftover_.size()) return true;
  if (secure_ && secure_->HasInput()) return true;
  uint8_t byte;
  return ::recv(fd_, &byte, 1, MSG_PEEK | MSG_DONTWAIT) > 0;
}

bool Channel::WaitWake(bool watch_peer) {
  // The end of the client's stream is an end here: it is looked for while requests are held, and
  // who sends nothing more and reads nothing is gone. A client that sends is not waited for.
  pollfd fds[2] = {{wake_fd_, POLLIN, 0}, {fd_, POLLRDHUP, 0}};
  while (::poll(fds, watch_peer ? 2 : 1, -1) < 0) continue;  // EINTR
  if (fds[0].revents != 0) ClearWake();
  // Stop ends the receiving side too, which is no end of the client's.
  if (watch_peer && fds[1].revents != 0 && !stopping()) Break("poll", ECONNRESET);
  return !broken_;
}

void Channel::Pause(std::chrono::nanoseconds most) {
  const timespec timeout{most.count() / std::nano::den, most.count() % std::nano::den};
  pollfd fds[2] = {{fd_, 0, 0}, {wake_fd_, POLLIN, 0}};  // POLLHUP and POLLERR are always told
  if (::ppoll(fds, 2, &timeout, nullptr) <= 0) return;
  if (fds[1].revents != 0) ClearWake();
  if ((fds[0].revents & (POLLHUP | POLLERR)) != 0) Break("poll", ECONNRESET);
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
  if (!unsent_.empty() && !parking()) {
    const std::vector<uint8_t> first = std::move(unsent_);
    unsent_.clear();
    SendAll(first.data(), first.size());
  }
  return count == 0 ? !broken_ : SendAll(send_.get(), count);
}

bool Channel::SendAll(const uint8_t* bytes, size_t count) {
  return secure_ ? SendSecure(bytes, count) : SendRaw(bytes, count, &stats_->bytes_out);
}

bool Channel::SendSecure(const uint8_t* bytes, size_t count) {
  while (count > 0 && !broken_) {
    size_t earlier = 0;  // such as the answer to a change of keys
    (void)secure_->Output(&earlier);
    const size_t taken = secure_->Encrypt(bytes, std::min(count, kSecureSendBytes));
    bytes += taken;
    count -= taken;
    if (!SendOutput()) break;
    Add(stats_->bytes_out, taken);
    if (taken == 0 && earlier == 0) Break("TLS: " + secure_->error());
  }
  return !broken_;
}

bool Channel::SendOutput() {
  size_t count = 0;
  const uint8_t* output = secure_->Output(&count);
  secure_->OutputSent();  // the bytes stay where they are until something is encrypted again
  return SendRaw(output, count, nullptr);  // ciphertext, which nobody counts
}

bool Channel::SendRaw(const uint8_t* bytes, size_t count, Counter* total) {
  if (!unsent_.empty()) Keep(bytes, count);  // parking: in order
  while (count > 0 && !broken_ && unsent_.empty()) {
    const ssize_t sent = ::send(fd_, bytes, count, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent >= 0) {
      bytes += sent;
      count -= static_cast<size_t>(sent);
      if (total != nullptr) Add(*total, static_cast<uint64_t>(sent));
    } else if (errno == EAGAIN && parking()) {
      Keep(bytes, count);
    } else if (errno == EAGAIN) {
      if (!WaitWritable()) Break("send", ETIMEDOUT);
    } else if (errno != EINTR) {
      Break("send", errno);
    }
  }
  return !broken_;
}

// False when the connection is stopping and the client has not read for kStopGrace, or when the
// client is no longer there. One that is there and only does not read is waited for.
bool Channel::WaitWritable() {
  const Clock::time_point begin = Clock::now();
  for (;;) {
    if (parking()) return true;  // the caller finds out
    int timeout_ms = static_cast<int>(kPeerCheckTime.count());
    if (while_stuck_) while_stuck_(Clock::now() - begin);
    if (tcp_ && PeerIsSilent(fd_, peer_timeout_)) return false;
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
  Break(std::string(operation) + ": " + std::strerror(error_number));
}

void Channel::Break(std::string error) {
  if (broken_) return;  // the first is the cause
  broken_ = true;
  send_end_ = 0;
  error_ = std::move(error);
}

void Channel::Abandon(const char* why) { Break(std::string(why)); }

bool Channel::PeerGone() {
  if (broken_) return true;
  pollfd peer = {fd_, 0, 0};  // POLLHUP and POLLERR are always told
  if (::poll(&peer, 1, 0) > 0 && (peer.revents & (POLLHUP | POLLERR)) != 0) {
    Break("poll", ECONNRESET);
  }
  return broken_;
}

void Channel::Linger() {
  if (broken_ || fd_ < 0) return;
  const Clock::time_point deadline = Clock::now() + kLingerTime;
  EndSecure();
  // After Stop's SHUT_RD a FIN of ours would make TCP answer any further byte with a reset, and the
  // client's end cannot be seen. So the FIN waits until the replies have arrived.
  if (!stopping()) ::shutdown(fd_, SHUT_WR);
  size_t left = kLingerBytes;
  while (left > 0 && Clock::now() < deadline) {
    if (DropInput(&left)) return;
    if (stopping()) {
      if (AllAcknowledged()) return;
      ::poll(nullptr, 0, 1);
      continue;
    }
    const auto wait = std::chrono::ceil<std::chrono::milliseconds>(deadline - Clock::now());
    pollfd fds[2] = {{fd_, POLLIN, 0}, {wake_fd_, POLLIN, 0}};
    ::poll(fds, 2, static_cast<int>(std::max<int64_t>(wait.count(), 0)));
    if (fds[1].revents != 0) ClearWake();
  }
}

// Drops what has been received. True when nothing more can come.
bool Channel::DropInput(size_t* left) {
  while (*left > 0) {
    const ssize_t got = ::recv(fd_, receive_.get(), std::min(*left, kReceiveBytes), MSG_DONTWAIT);
    if (got > 0) {
      *left -= static_cast<size_t>(got);
    } else if (got == 0) {
      return !stopping();  // after SHUT_RD it only means that nothing is there now
    } else if (errno != EINTR) {
      return errno != EAGAIN;
    }
  }
  return false;
}

// Whether the client's system has all that was sent.
bool Channel::AllAcknowledged() const {
  int unsent = 0;
  // A unix socket hands over within send.
  return !tcp_ || ::ioctl(fd_, SIOCOUTQ, &unsent) != 0 || unsent == 0;
}

// close_notify, if it finds room in the socket's buffer: a client that does not read gets none.
void Channel::EndSecure() {
  if (!secure_ || broken_) return;
  secure_->End();
  size_t count = 0;
  const uint8_t* output = secure_->Output(&count);
  secure_->OutputSent();
  if (count > 0) (void)!::send(fd_, output, count, MSG_NOSIGNAL | MSG_DONTWAIT);
}

void Channel::Close() {
  std::lock_guard<std::mutex> lock(close_mutex_);
  if (fd_ < 0) return;
  EndSecure();
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
