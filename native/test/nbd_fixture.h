// What the tests of the transmission phase stand on: a store on real files, a server, clients over
// socketpairs.
//
// What a disk does is made to order by GatedIo: reads that are never in the page cache, flushes
// that wait.
#pragma once

#include <doctest/doctest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <filesystem>
#include <functional>
#include <memory>
#include <mutex>
#include <random>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "core/io.h"
#include "core/store.h"
#include "nbd/protocol.h"
#include "nbd/server.h"
#include "test/forwarding_io.h"

namespace flashlun::nbd {

inline constexpr uint16_t kVolumeId = 0x1203;
inline constexpr uint64_t kSize = uint64_t{256} << 20;
inline constexpr std::chrono::seconds kDeadline{30};
inline constexpr uint32_t kMiB = 1u << 20;

// Gates -----------------------------------------------------------------------

struct Gates {
  std::atomic<bool> cold{false};  // reads are never in the page cache
  // Ranges handed to the disk early, and their bytes; the steady write-out takes whole files.
  std::atomic<uint64_t> early_ranges{0};
  std::atomic<uint64_t> early_bytes{0};
  std::mutex mutex;
  std::condition_variable changed;
  bool hold_flushes = false;

  void HoldFlushes(bool hold) {
    std::lock_guard<std::mutex> lock(mutex);
    hold_flushes = hold;
    changed.notify_all();
  }
  void PassFlush() {
    std::unique_lock<std::mutex> lock(mutex);
    changed.wait(lock, [this] { return !hold_flushes; });
  }
};

class GatedFile final : public ForwardingFile {
 public:
  GatedFile(std::unique_ptr<File> file, Gates& gates)
      : ForwardingFile(std::move(file)), gates_(gates) {}
  Status PreadNoWait(uint64_t offset, void* buf, size_t len) override {
    if (gates_.cold) return Status(Code::kWouldBlock);
    return ForwardingFile::PreadNoWait(offset, buf, len);
  }
  Status Fdatasync() override {
    gates_.PassFlush();
    return ForwardingFile::Fdatasync();
  }
  void StartWriteOut(uint64_t offset, uint64_t len) override {
    gates_.early_ranges += len != 0 ? 1 : 0;
    gates_.early_bytes += len;
    ForwardingFile::StartWriteOut(offset, len);
  }

 private:
  Gates& gates_;
};

class GatedIo final : public ForwardingIo {
 public:
  explicit GatedIo(Gates& gates) : gates_(gates) {}

 private:
  std::unique_ptr<File> Wrap(std::unique_ptr<File> file) override {
    return std::make_unique<GatedFile>(std::move(file), gates_);
  }

  Gates& gates_;
};

// Fixture ---------------------------------------------------------------------

// What a client's bytes go through instead of straight to its socket. Results as of recv and send.
class ClientStream {
 public:
  virtual ~ClientStream() = default;
  virtual ssize_t Receive(void* to, size_t room) = 0;
  virtual ssize_t Send(const void* from, size_t count) = 0;
};

// Both ends of a connection of the fixture, encrypted. Empty: plain text. A program whose tests
// shall run with TLS sets it before main (tls_hook.cc).
using SecureHook =
    std::function<std::pair<std::unique_ptr<SecureStream>, std::unique_ptr<ClientStream>>(
        int server, int client)>;
inline SecureHook& TheSecureHook() {
  static SecureHook hook;
  return hook;
}

class Client {
 public:
  explicit Client(int fd, std::unique_ptr<ClientStream> stream = nullptr)
      : fd_(fd), stream_(std::move(stream)) {
    const timeval timeout{kDeadline.count(), 0};
    ::setsockopt(fd_, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof timeout);
    ::setsockopt(fd_, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof timeout);
  }
  ~Client() { Close(); }
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  void Close() {
    if (fd_ >= 0) ::close(std::exchange(fd_, -1));
  }
  int fd() const { return fd_; }
  void ShutdownWrites() { ::shutdown(fd_, SHUT_WR); }

  void Send(const std::vector<uint8_t>& bytes) {
    size_t sent = 0;
    while (sent < bytes.size()) {
      const ssize_t count = SendSome(bytes.data() + sent, bytes.size() - sent);
      REQUIRE_MESSAGE(count > 0, "send: ", std::string(std::strerror(errno)));
      sent += static_cast<size_t>(count);
    }
  }
  std::vector<uint8_t> Receive(size_t bytes) {
    std::vector<uint8_t> to(bytes);
    size_t received = 0;
    while (received < bytes) {
      const ssize_t count = ReceiveSome(to.data() + received, bytes - received);
      REQUIRE_MESSAGE(count > 0,
                      "recv: ", std::string(count == 0 ? "end of file" : std::strerror(errno)));
      received += static_cast<size_t>(count);
    }
    return to;
  }
  // True when the server ends the stream next.
  bool AtEnd() {
    uint8_t byte;
    return ReceiveSome(&byte, 1) == 0;
  }

  struct Simple {
    uint32_t error;
    uint64_t cookie;
  };
  Simple ReceiveSimple() {
    const std::vector<uint8_t> reply = Receive(kSimpleReplyBytes);
    REQUIRE(LoadBe32(reply.data()) == kSimpleReplyMagic);
    return {LoadBe32(&reply[4]), LoadBe64(&reply[8])};
  }
  struct Chunk {
    bool done;
    uint16_t type;
    uint64_t cookie;
    uint64_t offset;  // of the request; 0 in a structured reply
    std::vector<uint8_t> data;
  };
  // Of either kind.
  Chunk ReceiveChunk() {
    std::vector<uint8_t> header = Receive(kStructuredHeaderBytes);
    const bool extended = LoadBe32(header.data()) == kExtendedReplyMagic;
    REQUIRE((extended || LoadBe32(header.data()) == kStructuredReplyMagic));
    Chunk chunk{(LoadBe16(&header[4]) & kReplyDone) != 0,
                LoadBe16(&header[6]),
                LoadBe64(&header[8]),
                0,
                {}};
    uint64_t length = LoadBe32(&header[16]);
    if (extended) {
      const std::vector<uint8_t> rest = Receive(kExtendedHeaderBytes - kStructuredHeaderBytes);
      header.insert(header.end(), rest.begin(), rest.end());
      chunk.offset = LoadBe64(&header[16]);
      length = LoadBe64(&header[24]);
    }
    chunk.data = Receive(length);
    return chunk;
  }

 private:
  ssize_t SendSome(const uint8_t* from, size_t count) {
    return stream_ ? stream_->Send(from, count) : ::send(fd_, from, count, MSG_NOSIGNAL);
  }
  ssize_t ReceiveSome(uint8_t* to, size_t room) {
    return stream_ ? stream_->Receive(to, room) : ::recv(fd_, to, room, 0);
  }

  int fd_;
  const std::unique_ptr<ClientStream> stream_;
};

inline std::vector<uint8_t> Wire(uint16_t flags, uint16_t type, uint64_t cookie, uint64_t offset,
                                 uint32_t length) {
  std::vector<uint8_t> wire(kRequestBytes);
  StoreBe32(wire.data(), kRequestMagic);
  StoreBe16(&wire[4], flags);
  StoreBe16(&wire[6], type);
  StoreBe64(&wire[8], cookie);
  StoreBe64(&wire[16], offset);
  StoreBe32(&wire[24], length);
  return wire;
}

inline std::vector<uint8_t> ExtendedWire(uint16_t flags, uint16_t type, uint64_t cookie,
                                         uint64_t offset, uint64_t length) {
  std::vector<uint8_t> wire(kExtendedRequestBytes);
  StoreBe32(wire.data(), kExtendedRequestMagic);
  StoreBe16(&wire[4], flags);
  StoreBe16(&wire[6], type);
  StoreBe64(&wire[8], cookie);
  StoreBe64(&wire[16], offset);
  StoreBe64(&wire[24], length);
  return wire;
}

inline std::vector<uint8_t> operator+(std::vector<uint8_t> left,
                                      const std::vector<uint8_t>& right) {
  left.insert(left.end(), right.begin(), right.end());
  return left;
}

inline std::vector<uint8_t> RandomBytes(size_t count, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<uint8_t> bytes(count);
  for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(random());
  return bytes;
}

inline constexpr ReplyStyle kStyles[] = {ReplyStyle::kSimple, ReplyStyle::kStructured,
                                         ReplyStyle::kExtended};
inline constexpr ReplyStyle kSimple = ReplyStyle::kSimple;
inline constexpr ReplyStyle kStructured = ReplyStyle::kStructured;
inline constexpr ReplyStyle kExtended = ReplyStyle::kExtended;

// A request as the style has it; an extended WRITE says that its payload follows.
inline std::vector<uint8_t> WireOf(ReplyStyle style, uint16_t flags, uint16_t type, uint64_t cookie,
                                   uint64_t offset, uint64_t length) {
  if (style != kExtended) return Wire(flags, type, cookie, offset, static_cast<uint32_t>(length));
  const bool payload = type == kWrite;
  return ExtendedWire(payload ? flags | kPayloadLen : flags, type, cookie, offset, length);
}

// Reads with the connection's reply style. Chunks may come in any split, but cover everything once.
inline std::vector<uint8_t> ReadBytes(Client& client, ReplyStyle style, uint64_t offset,
                                      uint32_t length) {
  client.Send(WireOf(style, 0, kRead, 77, offset, length));
  if (style == kSimple) {
    const Client::Simple reply = client.ReceiveSimple();
    CHECK(reply.error == 0);
    CHECK(reply.cookie == 77);
    return client.Receive(length);
  }
  std::vector<uint8_t> data(length, 0xee);
  size_t covered = 0;
  for (bool done = false; !done;) {
    const Client::Chunk chunk = client.ReceiveChunk();
    CHECK(chunk.cookie == 77);
    CHECK(chunk.offset == (style == kExtended ? offset : 0));
    done = chunk.done;
    if (chunk.type == kChunkNone) continue;
    const uint64_t at = LoadBe64(chunk.data.data()) - offset;
    if (chunk.type == kChunkOffsetHole) {
      const uint32_t bytes = LoadBe32(&chunk.data[8]);
      REQUIRE(at + bytes <= length);
      std::memset(data.data() + at, 0, bytes);
      covered += bytes;
      continue;
    }
    REQUIRE(chunk.type == kChunkOffsetData);
    REQUIRE(at + chunk.data.size() - 8 <= length);
    std::memcpy(data.data() + at, chunk.data.data() + 8, chunk.data.size() - 8);
    covered += chunk.data.size() - 8;
  }
  CHECK(covered == length);
  return data;
}

// The error of a reply to anything but a successful READ or BLOCK_STATUS.
inline uint32_t ReceiveError(Client& client, ReplyStyle style, uint64_t cookie) {
  if (style == kExtended) {
    const Client::Chunk chunk = client.ReceiveChunk();
    CHECK(chunk.done);
    CHECK(chunk.cookie == cookie);
    if (chunk.type == kChunkNone) return 0;
    REQUIRE(chunk.type == kChunkError);
    CHECK(LoadBe16(&chunk.data[4]) == chunk.data.size() - kErrorChunkBytes);
    return LoadBe32(chunk.data.data());
  }
  const std::vector<uint8_t> start = client.Receive(kSimpleReplyBytes);
  if (LoadBe32(start.data()) == kSimpleReplyMagic) {
    CHECK(LoadBe64(&start[8]) == cookie);
    const uint32_t error = LoadBe32(&start[4]);
    CHECK_MESSAGE((style == kSimple || error == 0),
                  "errors are structured once that was negotiated");
    return error;
  }
  REQUIRE(LoadBe32(start.data()) == kStructuredReplyMagic);
  CHECK(style == kStructured);
  CHECK(LoadBe16(&start[4]) == kReplyDone);
  CHECK(LoadBe64(&start[8]) == cookie);
  const std::vector<uint8_t> body = client.Receive(LoadBe32(client.Receive(4).data()));
  if (LoadBe16(&start[6]) == kChunkNone) return 0;
  REQUIRE(LoadBe16(&start[6]) == kChunkError);
  const size_t text_bytes = LoadBe16(&body[4]);
  CHECK(text_bytes == body.size() - kErrorChunkBytes);
  CHECK(text_bytes > 0);
  return LoadBe32(body.data());
}

struct Options {
  ReplyStyle style = ReplyStyle::kSimple;
  bool read_only = false;
  std::vector<uint8_t> leftover = {};
  bool tcp = false;  // instead of a unix socket
  std::vector<SelectedContext> contexts = {};
  uint32_t min_block = 1;
  bool movable = true;
};

class Fixture {
 public:
  explicit Fixture(bool direct = false) : dir_(MakeDirectory()), io_(gates) {
    StoreOptions options;
    options.dir = dir_;
    options.direct = direct;
    Result<std::unique_ptr<Store>> opened = Store::Open(io_, options);
    REQUIRE_MESSAGE(opened.ok(), opened.status().message());
    store = std::move(opened.value());
    const Status created = store->CreateVolume(kVolumeId, kSize, "");
    REQUIRE_MESSAGE(created.ok(), created.message());
    server = std::make_unique<Server>(*store);
  }
  ~Fixture() {
    gates.HoldFlushes(false);
    server.reset();
    CHECK(store->Close().ok());
    store.reset();
    std::filesystem::remove_all(dir_);
  }

  // A connected client; its connection's end is told by Ended.
  std::unique_ptr<Client> Connect(Options options = {}) {
    int fds[2];
    if (options.tcp) {
      TcpPair(fds);
    } else {
      REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM, 0, fds) == 0);
    }
    Result<Volume> volume = store->Attach(kVolumeId);
    REQUIRE(volume.ok());
    ConnectionOptions connection;
    connection.fd = fds[1];
    connection.volume = std::move(volume.value());
    connection.replies = options.style;
    connection.contexts = std::move(options.contexts);
    connection.min_block = options.min_block;
    connection.read_only = options.read_only;
    connection.movable = options.movable;
    connection.leftover = std::move(options.leftover);
    std::unique_ptr<ClientStream> stream;
    if (TheSecureHook()) std::tie(connection.secure, stream) = TheSecureHook()(fds[1], fds[0]);
    Result<uint64_t> id =
        server->Serve(std::move(connection), [this](uint64_t, const CloseReport& report) {
          std::lock_guard<std::mutex> lock(mutex_);
          ended_.push_back(report);
          changed_.notify_all();
        });
    REQUIRE(id.ok());
    last_id = id.value();
    return std::make_unique<Client>(fds[0], std::move(stream));
  }

  // The report of the next connection to end.
  CloseReport Ended() {
    std::unique_lock<std::mutex> lock(mutex_);
    REQUIRE(changed_.wait_for(lock, kDeadline, [this] { return !ended_.empty(); }));
    const CloseReport report = ended_.front();
    ended_.erase(ended_.begin());
    return report;
  }

  Gates gates;
  std::unique_ptr<Store> store;
  std::unique_ptr<Server> server;
  uint64_t last_id = 0;
  // What a test says of its clients.
  ReplyStyle style = ReplyStyle::kSimple;
  std::vector<SelectedContext> contexts;

  // What socketpair is for unix sockets.
  static void TcpPair(int* fds) {
    const int listener = ::socket(AF_INET, SOCK_STREAM, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t length = sizeof address;
    auto* plain = reinterpret_cast<sockaddr*>(&address);
    REQUIRE(::bind(listener, plain, length) == 0);
    REQUIRE(::listen(listener, 1) == 0);
    REQUIRE(::getsockname(listener, plain, &length) == 0);
    fds[0] = ::socket(AF_INET, SOCK_STREAM, 0);
    REQUIRE(::connect(fds[0], plain, length) == 0);
    fds[1] = ::accept(listener, nullptr, nullptr);
    REQUIRE(fds[1] >= 0);
    ::close(listener);
  }

 private:
  static std::string MakeDirectory() {
    std::string pattern = (std::filesystem::temp_directory_path() / "flashlun-nbd-XXXXXX").string();
    REQUIRE(::mkdtemp(pattern.data()) != nullptr);
    return pattern;
  }

  const std::string dir_;
  GatedIo io_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<CloseReport> ended_;
};

}  // namespace flashlun::nbd
