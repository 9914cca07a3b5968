#include "nbd/descriptor_channel.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "core/crc32c.h"
#include "nbd/limits.h"

namespace flashlun::nbd {
namespace {

using Clock = std::chrono::steady_clock;

constexpr char kMagic[4] = {'F', 'L', 'T', 'O'};

struct Header {
  char magic[4];
  uint16_t version;
  uint16_t descriptors;
  uint32_t length;
  uint32_t crc;
};
static_assert(sizeof(Header) == 16);

Status SystemError(const char* operation) {
  return Status(Code::kIo, std::string(operation) + ": " + std::strerror(errno));
}

Status Gone() { return Status(Code::kClosed, "the other server has closed the connection"); }

Status AwaitReady(int socket, short events, Clock::time_point deadline) {
  for (;;) {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - Clock::now());
    if (left.count() <= 0)
      return Status(Code::kTimeout, "the other server does not answer in time");
    pollfd fd = {socket, events, 0};
    const int ready = ::poll(&fd, 1, static_cast<int>(left.count()));
    if (ready > 0) return Status::Ok();
    if (ready < 0 && errno != EINTR) return SystemError("poll");
  }
}

// Room for the descriptors of one message, aligned for a cmsghdr.
struct Control {
  alignas(cmsghdr) uint8_t bytes[CMSG_SPACE(kMaxDescriptors * sizeof(int))];
};

// One sendmsg; the descriptors go with its first byte.
Result<size_t> SendSome(int socket, const uint8_t* bytes, size_t count,
                        std::span<const int> descriptors, Clock::time_point deadline) {
  iovec vector = {const_cast<uint8_t*>(bytes), count};
  msghdr message{};
  message.msg_iov = &vector;
  message.msg_iovlen = 1;
  Control control{};
  if (!descriptors.empty()) {
    message.msg_control = control.bytes;
    message.msg_controllen = CMSG_SPACE(descriptors.size_bytes());
    cmsghdr* part = CMSG_FIRSTHDR(&message);
    part->cmsg_level = SOL_SOCKET;
    part->cmsg_type = SCM_RIGHTS;
    part->cmsg_len = CMSG_LEN(descriptors.size_bytes());
    std::memcpy(CMSG_DATA(part), descriptors.data(), descriptors.size_bytes());
  }
  for (;;) {
    const ssize_t sent = ::sendmsg(socket, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent >= 0) return static_cast<size_t>(sent);
    if (errno == EPIPE || errno == ECONNRESET) return Gone();
    if (errno == EINTR) continue;
    if (errno != EAGAIN) return SystemError("sendmsg");
    if (Status status = AwaitReady(socket, POLLOUT, deadline); !status.ok()) return status;
  }
}

Status SendBytes(int socket, const uint8_t* bytes, size_t count, std::span<const int> descriptors,
                 Clock::time_point deadline) {
  while (count > 0) {
    Result<size_t> sent = SendSome(socket, bytes, count, descriptors, deadline);
    if (!sent.ok()) return sent.TakeStatus();
    bytes += sent.value();
    count -= sent.value();
    descriptors = {};
  }
  return Status::Ok();
}

void TakeDescriptors(msghdr* message, std::vector<int>* to) {
  for (cmsghdr* part = CMSG_FIRSTHDR(message); part != nullptr; part = CMSG_NXTHDR(message, part)) {
    if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS) continue;
    const size_t count = (part->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    const size_t at = to->size();
    to->resize(at + count);
    std::memcpy(to->data() + at, CMSG_DATA(part), count * sizeof(int));
  }
}

Status ReceiveBytes(int socket, uint8_t* bytes, size_t count, std::vector<int>* descriptors,
                    Clock::time_point deadline) {
  while (count > 0) {
    iovec vector = {bytes, count};
    Control control;
    msghdr message{};
    message.msg_iov = &vector;
    message.msg_iovlen = 1;
    message.msg_control = control.bytes;
    message.msg_controllen = sizeof control.bytes;
    const ssize_t got = ::recvmsg(socket, &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
    if (got > 0) {
      TakeDescriptors(&message, descriptors);
      if ((message.msg_flags & MSG_CTRUNC) != 0)
        return Status(Code::kLimit, "descriptors were lost: raise the limit of open files");
      if (descriptors->size() > kMaxDescriptors)
        return Status(Code::kInvalid, "a message of the other server has too many descriptors");
      bytes += got;
      count -= static_cast<size_t>(got);
    } else if (got == 0 || errno == ECONNRESET) {
      return Gone();
    } else if (errno == EAGAIN) {
      if (Status status = AwaitReady(socket, POLLIN, deadline); !status.ok()) return status;
    } else if (errno != EINTR) {
      return SystemError("recvmsg");
    }
  }
  return Status::Ok();
}

Status CheckHeader(const Header& header) {
  if (std::memcmp(header.magic, kMagic, sizeof kMagic) != 0)
    return Status(Code::kInvalid, "what the other end sent is no message of a flashlun server");
  if (header.version != kHandOverVersion)
    return Status(Code::kInvalid,
                  "the other server speaks version " + std::to_string(header.version) +
                      " of the takeover, this one version " + std::to_string(kHandOverVersion));
  if (header.length > kMaxMessageBytes || header.descriptors > kMaxDescriptors)
    return Status(Code::kInvalid, "a message of the other server is too long");
  return Status::Ok();
}

Status ReceiveInto(int socket, DescriptorMessage* message, Clock::time_point deadline) {
  Header header{};
  Status status = ReceiveBytes(socket, reinterpret_cast<uint8_t*>(&header), sizeof header,
                               &message->descriptors, deadline);
  if (status.ok()) status = CheckHeader(header);
  if (!status.ok()) return status;
  message->body.resize(header.length);
  status =
      ReceiveBytes(socket, message->body.data(), header.length, &message->descriptors, deadline);
  if (!status.ok()) return status;
  if (Crc32c(0, message->body.data(), message->body.size()) != header.crc ||
      message->descriptors.size() != header.descriptors)
    return Status(Code::kInvalid, "a message of the other server arrived damaged");
  return Status::Ok();
}

Result<sockaddr_un> AddressOf(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path)
    return Status(Code::kInvalid, path + ": longer than a unix socket's path can be");
  std::memcpy(address.sun_path, path.data(), path.size());
  return address;
}

}  // namespace

Status SendMessage(int socket, std::span<const uint8_t> body, std::span<const int> descriptors,
                   std::chrono::milliseconds limit) {
  if (body.size() > kMaxMessageBytes || descriptors.size() > kMaxDescriptors)
    return Status(Code::kLimit, "a message to the other server is too long");
  const Clock::time_point deadline = Clock::now() + limit;
  Header header{};
  std::memcpy(header.magic, kMagic, sizeof kMagic);
  header.version = kHandOverVersion;
  header.descriptors = static_cast<uint16_t>(descriptors.size());
  header.length = static_cast<uint32_t>(body.size());
  header.crc = Crc32c(0, body.data(), body.size());
  const Status status = SendBytes(socket, reinterpret_cast<const uint8_t*>(&header), sizeof header,
                                  descriptors, deadline);
  if (!status.ok()) return Status(status.code(), status.message());
  return SendBytes(socket, body.data(), body.size(), {}, deadline);
}

Result<DescriptorMessage> ReceiveMessage(int socket, std::chrono::milliseconds limit) {
  DescriptorMessage message;
  Status status = ReceiveInto(socket, &message, Clock::now() + limit);
  if (status.ok()) return message;
  for (const int descriptor : message.descriptors) ::close(descriptor);
  return status;
}

Result<int> ListenUnix(const std::string& path) {
  Result<sockaddr_un> address = AddressOf(path);
  if (!address.ok()) return address.TakeStatus();
  const int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return SystemError("socket");
  // The socket has the mode that bind gives its path: for the umask of a moment nobody else could
  // connect either, because nothing listens yet.
  const auto* plain = reinterpret_cast<const sockaddr*>(&address.value());
  Status status;
  if (::bind(fd, plain, sizeof(sockaddr_un)) != 0) {
    const Code code = errno == EADDRINUSE ? Code::kExists : Code::kIo;
    status = Status(code, path + ": bind: " + std::strerror(errno));
  } else if (::chmod(path.c_str(), S_IRUSR | S_IWUSR) != 0 || ::listen(fd, SOMAXCONN) != 0) {
    status = SystemError(path.c_str());
  }
  if (status.ok()) return fd;
  ::close(fd);
  return status;
}

Result<int> ConnectUnix(const std::string& path) {
  Result<sockaddr_un> address = AddressOf(path);
  if (!address.ok()) return address.TakeStatus();
  const int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return SystemError("socket");
  const auto* plain = reinterpret_cast<const sockaddr*>(&address.value());
  if (::connect(fd, plain, sizeof(sockaddr_un)) == 0) return fd;
  const bool nobody = errno == ENOENT || errno == ECONNREFUSED;
  Status status(nobody ? Code::kNotFound : Code::kIo, path + ": connect: " + std::strerror(errno));
  ::close(fd);
  return status;
}

}  // namespace flashlun::nbd
