// Messages with descriptors: what arrives is what was sent, and what does not check is refused
// without leaving a descriptor behind.
#include "nbd/descriptor_channel.h"

#include <doctest/doctest.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <string>
#include <thread>
#include <vector>

#include "nbd/limits.h"
#include "nbd/peer.h"

namespace flashlun::nbd {
namespace {

constexpr std::chrono::milliseconds kLimit{20000};

size_t OpenFiles() {
  size_t count = 0;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
    (void)entry;
    ++count;
  }
  return count;
}

struct Pair {
  Pair() { REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM, 0, fds) == 0); }
  ~Pair() {
    for (const int fd : fds)
      if (fd >= 0) ::close(fd);
  }
  Pair(const Pair&) = delete;
  Pair& operator=(const Pair&) = delete;
  void Send(const std::vector<uint8_t>& bytes) {
    REQUIRE(::send(fds[0], bytes.data(), bytes.size(), 0) == static_cast<ssize_t>(bytes.size()));
  }
  void CloseSender() {
    ::close(fds[0]);
    fds[0] = -1;
  }
  int fds[2];
};

// The bytes of a message as they are on the wire.
std::vector<uint8_t> WireOf(const std::vector<uint8_t>& body) {
  Pair pair;
  REQUIRE(SendMessage(pair.fds[0], body, {}, kLimit).ok());
  std::vector<uint8_t> wire(16 + body.size());
  REQUIRE(::recv(pair.fds[1], wire.data(), wire.size(), MSG_WAITALL) ==
          static_cast<ssize_t>(wire.size()));
  return wire;
}

TEST_CASE("bodies and descriptors arrive, in order and message by message") {
  Pair pair;
  int pipe_fds[2];
  REQUIRE(::pipe(pipe_fds) == 0);
  const std::vector<uint8_t> large(3 << 20, 7);
  std::thread sender([&] {
    const std::vector<int> many(kMaxDescriptors, pipe_fds[1]);
    CHECK(SendMessage(pair.fds[0], std::vector<uint8_t>{1, 2, 3}, {&pipe_fds[1], 1}, kLimit).ok());
    CHECK(SendMessage(pair.fds[0], large, {}, kLimit).ok());
    CHECK(SendMessage(pair.fds[0], std::vector<uint8_t>{}, many, kLimit).ok());
  });
  Result<DescriptorMessage> first = ReceiveMessage(pair.fds[1], kLimit);
  Result<DescriptorMessage> second = ReceiveMessage(pair.fds[1], kLimit);
  Result<DescriptorMessage> third = ReceiveMessage(pair.fds[1], kLimit);
  sender.join();
  REQUIRE((first.ok() && second.ok() && third.ok()));
  CHECK(first.value().body == std::vector<uint8_t>{1, 2, 3});
  CHECK(second.value().body == large);
  CHECK(second.value().descriptors.empty());
  CHECK(third.value().descriptors.size() == kMaxDescriptors);
  // It is the pipe that arrived.
  REQUIRE(first.value().descriptors.size() == 1);
  CHECK(::write(first.value().descriptors[0], "x", 1) == 1);
  char byte = 0;
  CHECK(::read(pipe_fds[0], &byte, 1) == 1);
  CHECK(byte == 'x');
  for (const int fd : first.value().descriptors) ::close(fd);
  for (const int fd : third.value().descriptors) ::close(fd);
  for (const int fd : pipe_fds) ::close(fd);
}

TEST_CASE("what does not check is refused") {
  const std::vector<uint8_t> wire = WireOf({1, 2, 3, 4});
  struct Row {
    size_t at;
    const char* says;
  };
  // Magic, version, count of descriptors, CRC, body.
  for (const Row& row : {Row{0, "no message"}, Row{4, "version"}, Row{6, "damaged"},
                         Row{12, "damaged"}, Row{17, "damaged"}}) {
    CAPTURE(row.at);
    Pair pair;
    std::vector<uint8_t> bad = wire;
    bad[row.at] ^= 1;
    pair.Send(bad);
    Result<DescriptorMessage> message = ReceiveMessage(pair.fds[1], kLimit);
    REQUIRE_FALSE(message.ok());
    CHECK(message.status().code() == Code::kInvalid);
    CHECK(message.status().message().find(row.says) != std::string::npos);
  }
}

TEST_CASE("a length beyond the limit is refused before memory is taken for it") {
  Pair pair;
  std::vector<uint8_t> wire = WireOf({});
  wire[11] = 0xff;
  pair.Send(wire);
  CHECK(ReceiveMessage(pair.fds[1], kLimit).status().code() == Code::kInvalid);
  CHECK(SendMessage(pair.fds[0], {}, std::vector<int>(kMaxDescriptors + 1, 0), kLimit).code() ==
        Code::kLimit);
}

TEST_CASE("an end halfway, and silence, are told; no descriptor stays") {
  const size_t before = OpenFiles();
  {
    Pair pair;
    const std::vector<uint8_t> wire = WireOf({1, 2, 3, 4});
    pair.Send({wire.begin(), wire.begin() + 18});
    CHECK(ReceiveMessage(pair.fds[1], std::chrono::milliseconds(20)).status().code() ==
          Code::kTimeout);
    pair.CloseSender();
    CHECK(ReceiveMessage(pair.fds[1], kLimit).status().code() == Code::kClosed);
  }
  {
    // Descriptors came, the body did not.
    Pair pair;
    const int out = 1;
    REQUIRE(SendMessage(pair.fds[0], std::vector<uint8_t>{9}, {&out, 1}, kLimit).ok());
    uint8_t peek[17];
    REQUIRE(::recv(pair.fds[1], peek, sizeof peek, MSG_PEEK) > 0);
    pair.CloseSender();
    Result<DescriptorMessage> whole = ReceiveMessage(pair.fds[1], kLimit);
    REQUIRE(whole.ok());
    for (const int fd : whole.value().descriptors) ::close(fd);
    CHECK(ReceiveMessage(pair.fds[1], kLimit).status().code() == Code::kClosed);
  }
  {
    Pair pair;
    ::close(pair.fds[1]);
    pair.fds[1] = -1;
    CHECK(SendMessage(pair.fds[0], std::vector<uint8_t>{9}, {}, kLimit).code() == Code::kClosed);
  }
  CHECK(OpenFiles() == before);
}

TEST_CASE("a listening socket is for its user alone, and says who connects") {
  std::string dir = (std::filesystem::temp_directory_path() / "flashlun-fd-XXXXXX").string();
  REQUIRE(::mkdtemp(dir.data()) != nullptr);
  const std::string path = dir + "/socket";
  CHECK(ConnectUnix(path).status().code() == Code::kNotFound);
  Result<int> listener = ListenUnix(path);
  REQUIRE(listener.ok());
  struct stat info {};
  REQUIRE(::stat(path.c_str(), &info) == 0);
  CHECK((info.st_mode & 0777) == 0600);
  CHECK(ListenUnix(path).status().code() == Code::kExists);
  Result<int> client = ConnectUnix(path);
  REQUIRE(client.ok());
  const int accepted = ::accept(listener.value(), nullptr, nullptr);
  Result<PeerCredentials> peer = CredentialsOf(accepted);
  REQUIRE(peer.ok());
  CHECK(peer.value().pid == ::getpid());
  CHECK(peer.value().uid == ::getuid());
  for (const int fd : {accepted, client.value(), listener.value()}) ::close(fd);
  CHECK(ConnectUnix(path).status().code() == Code::kNotFound);  // refused: nobody listens
  CHECK(ListenUnix(std::string(200, 'x')).status().code() == Code::kInvalid);
  std::filesystem::remove_all(dir);
}

}  // namespace
}  // namespace flashlun::nbd
