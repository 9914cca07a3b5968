#include "nbd_client.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <stdexcept>
#include <vector>

namespace flashlun::bench {
namespace {

constexpr uint64_t kGreetingMagic = 0x4e42444d41474943;
constexpr uint64_t kOptionMagic = 0x49484156454f5054;
constexpr uint64_t kOptionReplyMagic = 0x0003e889045565a9;
constexpr uint32_t kOptionStartTls = 5;
constexpr uint32_t kOptionGo = 7;
constexpr uint32_t kReplyAck = 1;
constexpr uint32_t kReplyInfo = 3;
constexpr uint32_t kReplyError = 1u << 31;
constexpr uint16_t kInfoExport = 0;
constexpr uint32_t kClientFlags = 3;  // fixed newstyle, no zeroes
constexpr uint32_t kMaxOptionReply = 64u << 10;

[[noreturn]] void Fail(const std::string& what) {
  throw std::runtime_error(what + ": " + std::strerror(errno));
}

template <typename Address>
int Connect(int family, const Address& address, const std::string& name) {
  const int fd = ::socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) Fail("socket");
  if (::connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    Fail("cannot connect to " + name);
  }
  return fd;
}

int ConnectUnix(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path) throw std::runtime_error("socket path too long");
  std::memcpy(address.sun_path, path.c_str(), path.size());
  return Connect(AF_UNIX, address, path);
}

int ConnectTcp(const std::string& name) {
  const size_t colon = name.rfind(':');
  sockaddr_in address{};
  address.sin_family = AF_INET;
  if (colon == std::string::npos ||
      ::inet_pton(AF_INET, name.substr(0, colon).c_str(), &address.sin_addr) != 1) {
    throw std::runtime_error("address is neither unix:PATH nor IPV4:PORT: " + name);
  }
  address.sin_port = htons(static_cast<uint16_t>(std::stoi(name.substr(colon + 1))));
  const int fd = Connect(AF_INET, address, name);
  const int one = 1;
  (void)::setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  return fd;
}

template <typename T>
void StoreBe(uint8_t* to, T value) {
  for (size_t i = 0; i < sizeof value; i++) {
    to[i] = static_cast<uint8_t>(value >> (8 * (sizeof value - 1 - i)));
  }
}

template <typename T>
T LoadBe(const uint8_t* from) {
  T value = 0;
  for (size_t i = 0; i < sizeof value; i++) value = static_cast<T>((value << 8) | from[i]);
  return value;
}

}  // namespace

void StoreBe16(uint8_t* to, uint16_t value) { StoreBe(to, value); }
void StoreBe32(uint8_t* to, uint32_t value) { StoreBe(to, value); }
void StoreBe64(uint8_t* to, uint64_t value) { StoreBe(to, value); }
uint16_t LoadBe16(const uint8_t* from) { return LoadBe<uint16_t>(from); }
uint32_t LoadBe32(const uint8_t* from) { return LoadBe<uint32_t>(from); }
uint64_t LoadBe64(const uint8_t* from) { return LoadBe<uint64_t>(from); }

NbdClient::NbdClient(const std::string& address, const std::string& export_name,
                     const std::vector<uint8_t>& psk)
    : fd_(address.rfind("unix:", 0) == 0 ? ConnectUnix(address.substr(5)) : ConnectTcp(address)) {
  Negotiate(export_name, psk);
}

NbdClient::~NbdClient() { ::close(fd_); }

void NbdClient::Negotiate(const std::string& export_name, const std::vector<uint8_t>& psk) {
  uint8_t greeting[18];
  ReceiveAll(greeting, sizeof greeting);
  if (LoadBe64(greeting) != kGreetingMagic || LoadBe64(greeting + 8) != kOptionMagic) {
    throw std::runtime_error("not an NBD newstyle server");
  }
  uint8_t flags[4];
  StoreBe32(flags, kClientFlags);
  SendAll(flags, sizeof flags);
  if (!psk.empty()) {
    uint8_t start[16];
    StoreBe64(start, kOptionMagic);
    StoreBe32(start + 8, kOptionStartTls);
    StoreBe32(start + 12, 0);
    SendAll(start, sizeof start);
    ReceiveOptionReply();
    tls_ = StartTls(fd_, "bench", psk);
  }
  const size_t name_bytes = export_name.size();
  std::vector<uint8_t> go(16 + 4 + name_bytes + 2);
  StoreBe64(&go[0], kOptionMagic);
  StoreBe32(&go[8], kOptionGo);
  StoreBe32(&go[12], static_cast<uint32_t>(4 + name_bytes + 2));
  StoreBe32(&go[16], static_cast<uint32_t>(name_bytes));
  std::memcpy(&go[20], export_name.data(), name_bytes);
  StoreBe16(&go[20 + name_bytes], 0);  // no information requests
  SendAll(go.data(), go.size());
  while (ReceiveOptionReply() != kReplyAck) continue;
}

// Returns the reply's type; takes the size from the one that tells it.
uint32_t NbdClient::ReceiveOptionReply() {
  uint8_t header[20];
  ReceiveAll(header, sizeof header);
  const uint32_t type = LoadBe32(header + 12);
  const uint32_t length = LoadBe32(header + 16);
  if (LoadBe64(header) != kOptionReplyMagic || length > kMaxOptionReply) {
    throw std::runtime_error("malformed option reply");
  }
  std::vector<uint8_t> data(length);
  ReceiveAll(data.data(), length);
  if ((type & kReplyError) != 0) {
    throw std::runtime_error("the server refused the export: " +
                             std::string(data.begin(), data.end()));
  }
  if (type == kReplyInfo && length == 12 && LoadBe16(data.data()) == kInfoExport) {
    size_bytes_ = LoadBe64(&data[2]);
  }
  return type;
}

void NbdClient::SendAll(const void* bytes, size_t count) {
  if (tls_) return tls_->Send(bytes, count);
  const auto* from = static_cast<const uint8_t*>(bytes);
  while (count > 0) {
    const ssize_t sent = ::send(fd_, from, count, MSG_NOSIGNAL);
    if (sent < 0 && errno == EINTR) continue;
    if (sent < 0) Fail("send");
    from += sent;
    count -= static_cast<size_t>(sent);
  }
}

size_t NbdClient::ReceiveSome(void* bytes, size_t count) {
  if (tls_) return tls_->Receive(bytes, count);
  for (;;) {
    const ssize_t got = ::recv(fd_, bytes, count, 0);
    if (got > 0) return static_cast<size_t>(got);
    if (got == 0) throw std::runtime_error("the server closed the connection");
    if (errno != EINTR) Fail("recv");
  }
}

void NbdClient::ReceiveAll(void* bytes, size_t count) {
  auto* to = static_cast<uint8_t*>(bytes);
  while (count > 0) {
    const size_t got = ReceiveSome(to, count);
    to += got;
    count -= got;
  }
}

}  // namespace flashlun::bench
