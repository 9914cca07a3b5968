// Limits of connections over real sockets: rates, shared memory, clients that do not read, peers
// that are no longer there.
#include <doctest/doctest.h>
#include <linux/filter.h>
#include <netinet/tcp.h>

#include <chrono>
#include <cstring>
#include <memory>
#include <thread>
#include <vector>

#include "nbd/limits.h"
#include "nbd/peer.h"
#include "nbd/throttle.h"
#include "test/nbd_fixture.h"

namespace flashlun::nbd {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr uint32_t kMiB = 1u << 20;
constexpr uint32_t kLongest = 32 * kMiB;

Throttle& ThrottleOf(Fixture& fixture) { return *fixture.server->shares().throttles.Of(kVolumeId); }

void SendReads(Client& client, uint64_t count, uint32_t length) {
  std::vector<uint8_t> requests;
  for (uint64_t i = 0; i < count; i++) requests = requests + Wire(0, kRead, i, 0, length);
  client.Send(requests);
}

void ReceiveReads(Client& client, uint64_t count, uint32_t length) {
  for (uint64_t i = 0; i < count; i++) {
    CHECK(client.ReceiveSimple().error == 0);
    client.Receive(length);
  }
}

milliseconds Since(Clock::time_point begin) {
  return std::chrono::duration_cast<milliseconds>(Clock::now() - begin);
}

void WaitFor(const char* what, const std::function<bool()>& condition) {
  const Clock::time_point deadline = Clock::now() + kDeadline;
  while (!condition()) {
    REQUIRE_MESSAGE(Clock::now() < deadline, what);
    std::this_thread::sleep_for(milliseconds(1));  // between two looks
  }
}

// Rates -----------------------------------------------------------------------

TEST_CASE("a bucket lets the burst pass at once, then one request in its time") {
  constexpr int64_t kMs = 1'000'000;
  constexpr int64_t kBurst = 1000 * kMs;
  Bucket bucket;
  int64_t now = 5000 * kMs;
  int passed = 0;
  for (; bucket.Wait(now) == 0; passed++) bucket.Take(1, 100, kBurst, now);
  CHECK(passed == 101);  // the one that makes it owe something passes too
  CHECK(bucket.Wait(now) == 10 * kMs);
  CHECK(bucket.Wait(now + 10 * kMs) == 0);
  now += 3600 * 1000 * kMs;  // an idle hour is worth no more than the burst
  for (passed = 0; bucket.Wait(now) == 0; passed++) bucket.Take(1, 100, kBurst, now);
  CHECK(passed == 101);
  bucket.Take(1, 0, kBurst, now);  // no rate: free
  CHECK(bucket.Wait(now) == 10 * kMs);
}

TEST_CASE("300 requests at 100 a second take two seconds, and none fails") {
  Fixture fixture;
  ThrottleOf(fixture).Set({.iops = 100});
  const auto client = fixture.Connect();
  const Clock::time_point begin = Clock::now();
  SendReads(*client, 300, 512);
  ReceiveReads(*client, 300, 512);
  CHECK(Since(begin).count() >= 1800);
  const ThrottleStats stats = ThrottleOf(fixture).Stats();
  CHECK(stats.delayed_requests >= 150);
  CHECK(stats.delayed_requests <= 200);
  CHECK(stats.delayed_ns >= 1'500'000'000);
}

TEST_CASE(
    "bytes are limited, reads and writes together, and a request longer than the burst passes") {
  Fixture fixture;
  ThrottleOf(fixture).Set({.bytes_per_second = 8 * kMiB, .burst = milliseconds(500)});
  const auto client = fixture.Connect();
  const Clock::time_point begin = Clock::now();
  client->Send(Wire(0, kWrite, 1, 0, 8 * kMiB));
  client->Send(std::vector<uint8_t>(8 * kMiB, 3));
  CHECK(client->ReceiveSimple().error == 0);
  SendReads(*client, 2, 4 * kMiB);
  ReceiveReads(*client, 2, 4 * kMiB);
  CHECK(Since(begin).count() >= 900);  // of 16 MiB, 4 are the burst and the last 4 are still owed
}

TEST_CASE("a flush is not counted and does not wait") {
  Fixture fixture;
  ThrottleOf(fixture).Set({.iops = 1, .burst = milliseconds(1)});
  const auto client = fixture.Connect();
  SendReads(*client, 1, 512);
  ReceiveReads(*client, 1, 512);
  const Clock::time_point begin = Clock::now();
  for (uint64_t i = 0; i < 200; i++) {
    client->Send(Wire(0, kFlush, i, 0, 0));
    CHECK(client->ReceiveSimple().cookie == i);
  }
  CHECK(ThrottleOf(fixture).Stats().delayed_requests == 0);
  CHECK(Since(begin) < seconds(20));
}

TEST_CASE("connections of a volume share its rate fairly; another limit is each one's own") {
  Fixture fixture;
  ThrottleOf(fixture).Set({.iops = 200, .burst = milliseconds(1)});
  const auto greedy = fixture.Connect();
  const auto modest = fixture.Connect();
  SendReads(*greedy, 2000, 512);  // would take ten seconds
  ReceiveReads(*greedy, 1, 512);
  const Clock::time_point begin = Clock::now();
  for (int i = 0; i < 50; i++) {
    SendReads(*modest, 1, 512);
    ReceiveReads(*modest, 1, 512);
  }
  CHECK(Since(begin) < seconds(5));  // every other turn: half a second
  ThrottleOf(fixture).Set({});
  ReceiveReads(*greedy, 1999, 512);

  ThrottleOf(fixture).Set({.connection_iops = 20, .burst = milliseconds(1)});
  std::vector<std::unique_ptr<Client>> clients;
  const Clock::time_point second = Clock::now();
  for (int i = 0; i < 8; i++) clients.push_back(fixture.Connect());
  for (const auto& client : clients) SendReads(*client, 21, 512);
  for (const auto& client : clients) ReceiveReads(*client, 21, 512);
  CHECK(Since(second).count() >= 900);
  CHECK(Since(second) < seconds(6));  // eight times that if they shared it
}

TEST_CASE("a limit changes under requests that wait") {
  Fixture fixture;
  for (const bool own : {false, true}) {
    CAPTURE(own);
    RateLimits limits{.burst = milliseconds(1)};
    (own ? limits.connection_bytes_per_second : limits.bytes_per_second) = 1;
    ThrottleOf(fixture).Set(limits);
    const auto client = fixture.Connect();
    const auto other = fixture.Connect();
    SendReads(*client, 3, kMiB);  // 12 days each
    SendReads(*other, 3, kMiB);
    ReceiveReads(*client, own ? 1 : 0, kMiB);
    ThrottleOf(fixture).Set({});
    ReceiveReads(*client, own ? 2 : 3, kMiB);
    ReceiveReads(*other, 3, kMiB);
  }
}

TEST_CASE("a client that dies in the queue, or is stopped there, leaves its place") {
  Fixture fixture;
  ThrottleOf(fixture).Set({.bytes_per_second = 1, .burst = milliseconds(1)});
  const auto first = fixture.Connect();
  SendReads(*first, 2, kMiB);
  ReceiveReads(*first, 1, kMiB);
  for (int i = 0; i < 4; i++) {
    const auto dying = fixture.Connect();
    SendReads(*dying, 2, kMiB);
    dying->Close();
    CHECK(fixture.Ended().reason == CloseReason::kIo);
  }
  const auto waiting = fixture.Connect();
  SendReads(*waiting, 1, kMiB);
  fixture.server->Stop(fixture.last_id);
  CHECK(waiting->AtEnd());
  CHECK(fixture.Ended().reason == CloseReason::kStopped);
  ThrottleOf(fixture).Set({});
  ReceiveReads(*first, 1, kMiB);
}

TEST_CASE("requests in flight are answered while another one waits for its turn") {
  Fixture fixture;
  const auto client = fixture.Connect();
  fixture.gates.HoldFlushes(true);
  client->Send(Wire(kFua, kWrite, 9, 0, 4096) + std::vector<uint8_t>(4096, 2) +
               Wire(0, kRead, 0, 0, 512));
  ReceiveReads(*client, 1, 512);  // so the write was taken before there was a limit
  ThrottleOf(fixture).Set({.bytes_per_second = 1, .burst = milliseconds(1)});
  SendReads(*client, 2, kMiB);
  // The first read passes and makes the second wait for days.
  ReceiveReads(*client, 1, kMiB);
  fixture.gates.HoldFlushes(false);
  CHECK(client->ReceiveSimple().cookie == 9);
  ThrottleOf(fixture).Set({});
  ReceiveReads(*client, 1, kMiB);
}

// Memory ----------------------------------------------------------------------

TEST_CASE("long cold reads of many clients stay within the shared memory, and all are right") {
  Fixture fixture;
  ByteBudget& memory = fixture.server->shares().memory;
  const std::vector<uint8_t> noise = RandomBytes(kLongest, 11);
  const auto writer = fixture.Connect();
  writer->Send(Wire(0, kWrite, 1, 0, kLongest) + noise);
  CHECK(writer->ReceiveSimple().error == 0);
  fixture.gates.cold = true;
  for (const size_t most : {size_t{0}, size_t{kLongest} * 2 + 100}) {
    CAPTURE(most);
    memory.SetMost(most);
    const uint64_t refused = memory.refused();
    std::vector<std::unique_ptr<Client>> clients;
    for (int i = 0; i < 8; i++) clients.push_back(fixture.Connect());
    for (const auto& client : clients) SendReads(*client, 1, kLongest);
    for (const auto& client : clients) {
      CHECK(memory.used() <= most);
      CHECK(client->ReceiveSimple().error == 0);
      CHECK(client->Receive(kLongest) == noise);
    }
    CHECK(memory.refused() > refused);
    clients.clear();
    for (int i = 0; i < 8; i++) fixture.Ended();
    CHECK(memory.used() == 0);
  }
}

TEST_CASE("without shared memory many small cold reads at once still work") {
  Fixture fixture;
  fixture.server->shares().memory.SetMost(0);
  fixture.gates.cold = true;
  const auto client = fixture.Connect();
  for (const uint32_t length : {4096u, 65536u, 3 * kMiB}) {
    SendReads(*client, 200, length);
    ReceiveReads(*client, 200, length);
  }
  const auto structured = fixture.Connect({.style = kStructured});
  std::vector<uint8_t> write = Wire(0, kWrite, 4, 0, 4 * kMiB);  // or the reads would find a hole
  write.resize(write.size() + 4 * kMiB, 'd');
  structured->Send(write);
  CHECK(ReceiveError(*structured, kStructured, 4) == 0);
  structured->Send(Wire(0, kRead, 5, 7, 3 * kMiB));
  size_t bytes = 0;
  for (bool done = false; !done;) {
    const Client::Chunk chunk = structured->ReceiveChunk();
    done = chunk.done;
    bytes += chunk.data.size() - 8;
  }
  CHECK(bytes == 3 * kMiB);
  // In one chunk, which does not fit into the send buffer.
  structured->Send(Wire(kDf, kRead, 6, 7, 3 * kMiB));
  const Client::Chunk whole = structured->ReceiveChunk();
  CHECK(whole.done);
  CHECK(whole.data.size() == 3 * kMiB + 8);
}

TEST_CASE("clients that do not read give shared memory back, and get all their data later") {
  Fixture fixture;
  ByteBudget& memory = fixture.server->shares().memory;
  const std::vector<uint8_t> noise = RandomBytes(kLongest, 12);
  const auto writer = fixture.Connect();
  writer->Send(Wire(0, kWrite, 1, 0, kLongest) + noise);
  CHECK(writer->ReceiveSimple().error == 0);
  fixture.gates.cold = true;
  for (const uint32_t length : {kLongest, 65536u}) {
    CAPTURE(length);
    const uint64_t count = length == kLongest ? 2 : 200;
    memory.SetMost(length == kLongest ? size_t{kLongest} * 2 + 100 : size_t{4} * kMiB);
    std::vector<std::unique_ptr<Client>> clients;
    for (const bool tcp : {false, true, false, true}) {
      clients.push_back(fixture.Connect({.tcp = tcp}));
      SendReads(*clients.back(), count, length);
    }
    WaitFor("memory in use", [&] { return memory.used() > memory.most() / 2; });
    WaitFor("memory given back", [&] { return memory.used() <= memory.most() / 2; });
    for (const auto& client : clients) {
      for (uint64_t i = 0; i < count; i++) {
        REQUIRE(client->ReceiveSimple().error == 0);
        const std::vector<uint8_t> data = client->Receive(length);
        CHECK(std::memcmp(data.data(), noise.data(), length) == 0);
      }
    }
    clients.clear();
    for (int i = 0; i < 4; i++) fixture.Ended();
    CHECK(memory.used() == 0);
  }
}

// Peers -----------------------------------------------------------------------

// Drops whatever arrives for the socket: to the server, the machine is gone.
void Vanish(int fd) {
  sock_filter drop[] = {BPF_STMT(BPF_RET | BPF_K, 0)};
  const sock_fprog program{1, drop};
  REQUIRE(::setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program) == 0);
}

TEST_CASE(
    "a TCP peer that vanished with replies on the way is noticed; one that only waits is not") {
  Fixture fixture;
  fixture.server->shares().peer_timeout = seconds(1);
  const auto slow = fixture.Connect({.tcp = true});
  const uint64_t slow_id = fixture.last_id;
  const auto vanished = fixture.Connect({.tcp = true});
  for (Client* client : {slow.get(), vanished.get()}) SendReads(*client, 2, kLongest);
  CHECK(slow->ReceiveSimple().error == 0);
  CHECK(vanished->ReceiveSimple().error == 0);
  Vanish(vanished->fd());
  const CloseReport report = fixture.Ended();
  CHECK(report.reason == CloseReason::kIo);
  CHECK(report.detail == "send: Connection timed out");
  // The other one has not read all the while, for much longer than the timeout.
  slow->Receive(kLongest);
  ReceiveReads(*slow, 1, kLongest);
  fixture.server->Stop(slow_id);
  CHECK(fixture.Ended().reason == CloseReason::kStopped);
}

TEST_CASE("the keep-alive is set from the timeout") {
  Fixture fixture;
  int fds[2];
  Fixture::TcpPair(fds);
  SetKeepAlive(fds[0], seconds(120));
  const auto option = [&](int name) {
    int value = 0;
    socklen_t length = sizeof value;
    REQUIRE(::getsockopt(fds[0], IPPROTO_TCP, name, &value, &length) == 0);
    return value;
  };
  CHECK(option(TCP_KEEPIDLE) == 60);
  CHECK(option(TCP_KEEPIDLE) + option(TCP_KEEPINTVL) * option(TCP_KEEPCNT) == 120);
  CHECK_FALSE(PeerIsSilent(fds[0], milliseconds(0)));
  CHECK_FALSE(CredentialsOf(fds[0]).ok());
  for (const int fd : fds) ::close(fd);
  REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM, 0, fds) == 0);
  CHECK(CredentialsOf(fds[0]).value().uid == ::getuid());
  for (const int fd : fds) ::close(fd);
}

}  // namespace
}  // namespace flashlun::nbd
