// Parking (a connection goes on elsewhere, the client sees nothing) and fencing (what a client that
// has gone left behind is not executed any more).
#include <doctest/doctest.h>
#include <netinet/tcp.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <map>
#include <thread>
#include <utility>
#include <vector>

#include "nbd/limits.h"
#include "nbd/park.h"
#include "nbd/throttle.h"
#include "test/nbd_fixture.h"

namespace flashlun::nbd {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds kLong{60000};
constexpr uint16_t kIds[] = {kVolumeId};

std::vector<uint8_t> WriteWire(uint64_t cookie, uint64_t offset, const std::vector<uint8_t>& data) {
  return Wire(0, kWrite, cookie, offset, static_cast<uint32_t>(data.size())) + data;
}

std::vector<uint8_t> ReadBack(Client& client, uint64_t offset, uint32_t length) {
  client.Send(Wire(0, kRead, 99, offset, length));
  CHECK(client.ReceiveSimple().error == 0);
  return client.Receive(length);
}

// What another process does with the parked connections: all that goes over are bytes and a
// descriptor.
void HandOver(Fixture& fixture) {
  REQUIRE(fixture.server->ParkAll().ok());
  auto taker = std::make_unique<Server>(*fixture.store);
  for (ParkedInfo& parked : fixture.server->Parked()) {
    ConnectionOptions options;
    options.fd = ::dup(parked.fd);
    options.volume = std::move(fixture.store->Attach(kVolumeId).value());
    options.replies = fixture.style;
    options.contexts = fixture.contexts;
    options.leftover = std::move(parked.leftover);
    options.unsent = std::move(parked.unsent);
    options.drain_bytes = parked.drain_bytes;
    options.resumed = true;
    options.id = parked.id;
    REQUIRE(taker->Serve(std::move(options), [](uint64_t, const CloseReport&) {}).ok());
  }
  fixture.server->ForgetParked();
  fixture.server = std::move(taker);
}

template <typename Condition>
void Await(const char* what, Condition condition) {
  const auto deadline = std::chrono::steady_clock::now() + kDeadline;
  while (!condition()) {
    REQUIRE_MESSAGE(std::chrono::steady_clock::now() < deadline, what);
    std::this_thread::yield();
  }
}

TEST_CASE("an encoded request decodes to the same") {
  for (const ReplyStyle style :
       {ReplyStyle::kSimple, ReplyStyle::kStructured, ReplyStyle::kExtended}) {
    Request request{kFua, kWriteZeroes, 0x1122334455667788, 123456789012, 987654};
    if (style == ReplyStyle::kExtended) request.length = 0x1234567890;
    uint8_t wire[kExtendedRequestBytes];
    EncodeRequest(request, style, wire);
    Request again;
    REQUIRE(DecodeRequest(wire, style, &again));
    CHECK(std::memcmp(&request.cookie, &again.cookie, 8) == 0);
    CHECK(again.flags == request.flags);
    CHECK(again.type == request.type);
    CHECK(again.offset == request.offset);
    CHECK(again.length == request.length);
  }
}

TEST_CASE("idle connections are parked at once and go on, here or elsewhere") {
  Fixture fixture;
  for (const bool tcp : {false, true}) {
    auto client = fixture.Connect({.tcp = tcp});
    const std::vector<uint8_t> data = RandomBytes(4096, 5);
    client->Send(WriteWire(1, 0, data));
    CHECK(client->ReceiveSimple().cookie == 1);
    REQUIRE(fixture.server->ParkAll().ok());
    CHECK(fixture.server->ParkAll().code() == Code::kBusy);
    client->Send(Wire(0, kRead, 2, 0, 4096));
    fixture.server->UnparkAll();
    CHECK(client->ReceiveSimple().cookie == 2);
    CHECK(client->Receive(4096) == data);
    HandOver(fixture);
    CHECK(ReadBack(*client, 0, 4096) == data);
  }
}

TEST_CASE("a write whose payload is half here is finished by whoever goes on") {
  for (const size_t sent : {size_t{10}, size_t{28}, size_t{29}, size_t{100000}, size_t{300000}}) {
    CAPTURE(sent);
    Fixture fixture;
    auto client = fixture.Connect();
    const std::vector<uint8_t> data = RandomBytes(1 << 20, 6);
    const std::vector<uint8_t> wire = WriteWire(7, 1000, data);
    const auto middle = wire.begin() + static_cast<ptrdiff_t>(sent);
    client->Send({wire.begin(), middle});
    Await("the half", [&] { return fixture.server->List()[0].bytes_in == sent; });
    HandOver(fixture);
    HandOver(fixture);  // and again
    client->Send({middle, wire.end()});
    const Client::Simple reply = client->ReceiveSimple();
    CHECK(reply.error == 0);
    CHECK(reply.cookie == 7);
    CHECK(ReadBack(*client, 1000, 1 << 20) == data);
  }
}

TEST_CASE("a refused write whose payload is half here stays refused") {
  Fixture fixture;
  auto client = fixture.Connect();
  // Its last half alone would lie within the volume.
  const std::vector<uint8_t> wire = WriteWire(7, kSize - 65536, RandomBytes(131072, 6));
  const auto middle = wire.begin() + 70000;
  client->Send({wire.begin(), middle});
  Await("the header", [&] { return fixture.server->List()[0].bytes_in > kRequestBytes; });
  HandOver(fixture);
  client->Send({middle, wire.end()});
  const Client::Simple reply = client->ReceiveSimple();
  CHECK(reply.error == kWireNoSpace);
  CHECK(reply.cookie == 7);
  CHECK(ReadBack(*client, kSize - 65536, 65536) == std::vector<uint8_t>(65536));
}

TEST_CASE("replies that the client does not take are handed on") {
  for (const bool structured : {false, true}) {
    Fixture fixture;
    fixture.style = structured ? ReplyStyle::kStructured : ReplyStyle::kSimple;
    auto client = fixture.Connect({.style = fixture.style});
    for (uint64_t i = 0; i < 8; ++i) client->Send(Wire(0, kRead, i, i << 20, 4 << 20));
    Await("some", [&] { return fixture.server->List()[0].bytes_out > 0; });
    HandOver(fixture);
    HandOver(fixture);
    if (!structured) {
      for (int i = 0; i < 8; ++i) {
        CHECK(client->ReceiveSimple().error == 0);
        CHECK(client->Receive(4 << 20) == std::vector<uint8_t>(4 << 20));
      }
      continue;
    }
    for (int done = 0; done < 8;) done += client->ReceiveChunk().done ? 1 : 0;
  }
}

TEST_CASE("a request that waits for its turn is parked, and done once") {
  for (const bool own : {false, true}) {
    CAPTURE(own);
    Fixture fixture;
    auto client = fixture.Connect();
    RateLimits limits{.burst = milliseconds(1)};
    (own ? limits.connection_bytes_per_second : limits.bytes_per_second) = 1;
    fixture.server->shares().throttles.Of(kVolumeId)->Set(limits);
    const std::vector<uint8_t> data = RandomBytes(4096, 9);
    client->Send(WriteWire(1, 0, data));
    CHECK(client->ReceiveSimple().cookie == 1);
    const std::vector<uint8_t> waits = WriteWire(2, 4096, data) + Wire(0, kRead, 3, 4096, 4096);
    client->Send(waits);
    Await("both", [&] { return fixture.server->List()[0].bytes_in == 4124 + waits.size(); });
    REQUIRE(fixture.server->ParkAll().ok());
    fixture.server->UnparkAll();
    REQUIRE(fixture.server->ParkAll().ok());
    const ParkedInfo parked = fixture.server->Parked().at(0);
    CHECK(parked.leftover == waits);
    fixture.server->UnparkAll();
    HandOver(fixture);  // to a server without the limit
    CHECK(client->ReceiveSimple().cookie == 2);
    CHECK(client->ReceiveSimple().cookie == 3);
    CHECK(client->Receive(4096) == data);
    CHECK(fixture.store->GetVolume(kVolumeId).value().write_ops == 2);
  }
}

TEST_CASE("extended requests whose payload is half here are finished by whoever goes on") {
  Fixture fixture;
  fixture.style = kExtended;
  fixture.contexts = {{7, StatusContext::kAllocation, 0}};
  auto client = fixture.Connect({.style = kExtended, .contexts = fixture.contexts});
  const std::vector<uint8_t> data = RandomBytes(300000, 6);
  const std::vector<uint8_t> write = WireOf(kExtended, kFua, kWrite, 8, 4096, data.size()) + data;
  std::vector<uint8_t> status = ExtendedWire(kPayloadLen, kBlockStatus, 9, 0, 12);
  status.resize(status.size() + 12);
  StoreBe64(&status[32], kSize);
  StoreBe32(&status[40], 7);
  uint64_t received = 0;
  for (const auto& [wire, sent] : {std::pair{write, 200000}, std::pair{status, 37}}) {
    const auto middle = wire.begin() + sent;
    client->Send({wire.begin(), middle});
    received += static_cast<uint64_t>(sent);
    Await("the half", [&] { return fixture.server->List()[0].bytes_in >= received; });
    HandOver(fixture);
    HandOver(fixture);
    client->Send({middle, wire.end()});
    if (wire == write) {
      CHECK(ReceiveError(*client, kExtended, 8) == 0);
      CHECK(ReadBytes(*client, kExtended, 4096, 300000) == data);
      received = fixture.server->List()[0].bytes_in;
    } else {
      const Client::Chunk chunk = client->ReceiveChunk();
      CHECK(chunk.type == kChunkBlockStatusExt);
      CHECK(chunk.cookie == 9);
      CHECK(LoadBe32(chunk.data.data()) == 7);
    }
  }
}

TEST_CASE("a long range is cut, and the rest of it done by whoever goes on") {
  Fixture fixture;
  auto client = fixture.Connect();
  constexpr uint32_t kLength = 200 << 20;
  const auto zeroed = [&] { return fixture.store->GetVolume(kVolumeId).value().zero_ops; };
  client->Send(WriteWire(1, kLength - 4096, RandomBytes(8192, 1)));
  CHECK(client->ReceiveSimple().cookie == 1);
  const uint64_t before = zeroed();
  client->Send(Wire(kFua | kNoHole, kWriteZeroes, 2, 0, kLength));
  Await("the first piece", [&] { return zeroed() > before; });
  REQUIRE(fixture.server->ParkAll().ok());
  const ParkedInfo parked = fixture.server->Parked().at(0);
  Request rest;
  REQUIRE(parked.leftover.size() == kRequestBytes);
  REQUIRE(DecodeRequest(parked.leftover.data(), ReplyStyle::kSimple, &rest));
  CHECK(rest.fua());
  CHECK(rest.offset > 0);
  CHECK(rest.offset + rest.length == kLength);
  fixture.server->UnparkAll();
  HandOver(fixture);
  const Client::Simple reply = client->ReceiveSimple();
  CHECK(reply.error == 0);
  CHECK(reply.cookie == 2);
  CHECK(ReadBack(*client, kLength - 4096, 4096) == std::vector<uint8_t>(4096));
  CHECK(ReadBack(*client, kLength, 4096) != std::vector<uint8_t>(4096));
}

TEST_CASE("held requests are handed on too") {
  Fixture fixture;
  auto client = fixture.Connect();
  const std::vector<uint8_t> data = RandomBytes(70000, 8);
  REQUIRE(fixture.store->Freeze(kIds, kLong).ok());
  client->Send(WriteWire(1, 5, data) + Wire(0, kTrim, 2, 1 << 20, 1 << 20));
  Await("held", [&] { return fixture.server->List()[0].held == 2; });
  HandOver(fixture);
  Await("held again", [&] { return fixture.server->List()[0].held == 2; });
  (void)fixture.store->Thaw(kIds);
  CHECK(client->ReceiveSimple().cookie == 1);
  CHECK(client->ReceiveSimple().cookie == 2);
  CHECK(ReadBack(*client, 5, 70000) == data);
}

// Nothing more is received then, and the thread waits for the thaw.
TEST_CASE("a table full of held requests is handed on, and what waits behind it") {
  Fixture fixture;
  auto client = fixture.Connect();
  const std::vector<uint8_t> data = RandomBytes(4096, 8);
  client->Send(WriteWire(0, 0, data));
  CHECK(client->ReceiveSimple().error == 0);
  REQUIRE(fixture.store->Freeze(kIds, kLong).ok());
  std::vector<uint8_t> wire;
  for (uint64_t i = 1; i <= kMaxInFlight; ++i)
    wire = wire + (i % 2 == 0 ? Wire(0, kTrim, i, i << 16, 65536) : WriteWire(i, i << 16, data));
  constexpr uint64_t kBehind = kMaxInFlight + 1;
  client->Send(wire + WriteWire(kBehind, 0, RandomBytes(4096, 9)) +
               Wire(0, kRead, kBehind + 1, 0, 4096));
  const auto full = [&] { return fixture.server->List()[0].held == kMaxInFlight; };
  for (int round = 0; round < 3; ++round) {
    Await("a full table", full);
    HandOver(fixture);
  }
  Await("a full table", full);
  REQUIRE(fixture.server->ParkAll().ok());
  fixture.server->UnparkAll();
  (void)fixture.store->Thaw(kIds);
  // The read behind them may overtake; each is answered once.
  std::vector<int> answers(kBehind + 2);
  for (uint64_t i = 1; i <= kBehind + 1; ++i) {
    const Client::Simple reply = client->ReceiveSimple();
    CHECK(reply.error == 0);
    REQUIRE(reply.cookie < answers.size());
    ++answers[reply.cookie];
    if (reply.cookie == kBehind + 1) CHECK(client->Receive(4096) == RandomBytes(4096, 9));
  }
  for (uint64_t i = 1; i <= kBehind + 1; ++i) CHECK(answers[i] == 1);
  for (uint64_t i = 1; i <= kMaxInFlight; ++i)
    CHECK(ReadBack(*client, i << 16, 4096) == (i % 2 == 0 ? std::vector<uint8_t>(4096) : data));
  CHECK(fixture.store->GetVolume(kVolumeId).value().write_ops == 2 + kMaxInFlight / 2);
}

// With --cache none such a write is in its own buffer when it begins to wait.
TEST_CASE("a write that there is no room to hold is handed on while it waits for the thaw") {
  for (const bool direct : {false, true}) {
    CAPTURE(direct);
    Fixture fixture(direct);
    auto client = fixture.Connect();
    const std::vector<uint8_t> longest = RandomBytes(kMaxHeldBytes, 3);
    const std::vector<uint8_t> more = RandomBytes(65536, 4);
    REQUIRE(fixture.store->Freeze(kIds, kLong).ok());
    const std::vector<uint8_t> wire = WriteWire(1, 0, longest) + WriteWire(2, 64 << 20, more);
    client->Send(wire + Wire(0, kRead, 3, 128 << 20, 512));
    const auto waiting = [&] {
      const ConnectionInfo info = fixture.server->List()[0];
      return info.held == 1 && info.bytes_in >= wire.size();
    };
    for (int round = 0; round < 3; ++round) {
      Await("the wait", waiting);
      HandOver(fixture);
    }
    Await("the wait", [&] { return fixture.server->List()[0].held == 1; });
    (void)fixture.store->Thaw(kIds);
    uint64_t cookies = 0;
    for (int i = 0; i < 3; ++i) {
      const Client::Simple reply = client->ReceiveSimple();
      CHECK(reply.error == 0);
      cookies += uint64_t{1} << (8 * reply.cookie);
      if (reply.cookie == 3) CHECK(client->Receive(512) == std::vector<uint8_t>(512));
    }
    CHECK(cookies == 0x01010100);
    CHECK(ReadBack(*client, 0, kMaxHeldBytes) == longest);
    CHECK(ReadBack(*client, 64 << 20, 65536) == more);
    CHECK(fixture.store->GetVolume(kVolumeId).value().write_ops == 2);
  }
}

// Such as one with TLS, whose client does not take its last replies: stopping it takes kStopGrace.
TEST_CASE("a connection that cannot be handed on holds up nobody else while it ends") {
  Fixture fixture;
  auto stuck = fixture.Connect({.movable = false});
  auto other = fixture.Connect();
  for (uint64_t i = 0; i < 8; ++i) stuck->Send(Wire(0, kRead, i, i << 20, 4 << 20));
  Await("replies", [&] { return fixture.server->List()[0].bytes_out > 0; });
  std::atomic<bool> parked{false};
  std::thread parking([&] {
    CHECK(fixture.server->ParkAll().ok());
    CHECK(fixture.server->Parked().size() == 1);
    fixture.server->UnparkAll();
    parked = true;
  });
  std::chrono::nanoseconds longest{0};
  while (!parked) {
    const auto begin = std::chrono::steady_clock::now();
    CHECK(ReadBack(*other, 0, 512).size() == 512);
    longest = std::max<std::chrono::nanoseconds>(longest, std::chrono::steady_clock::now() - begin);
  }
  parking.join();
  CHECK(longest < kStopGrace / 2);
}

TEST_CASE("a request that does not end keeps all connections here") {
  Fixture fixture;
  auto busy = fixture.Connect();
  auto idle = fixture.Connect();
  fixture.gates.HoldFlushes(true);
  // Two flushes: one alone is waited for by the connection's own thread.
  busy->Send(WriteWire(1, 0, RandomBytes(4096, 1)) + Wire(0, kFlush, 2, 0, 0) +
             Wire(0, kFlush, 3, 0, 0));
  CHECK(busy->ReceiveSimple().cookie == 1);
  Await("the flushes", [&] { return fixture.server->List()[0].in_flight == 2; });
  CHECK(fixture.server->ParkAll(milliseconds(50)).code() == Code::kTimeout);
  CHECK(ReadBack(*idle, 0, 512).size() == 512);
  fixture.gates.HoldFlushes(false);
  CHECK(busy->ReceiveSimple().cookie + busy->ReceiveSimple().cookie == 5);
  HandOver(fixture);
  CHECK(ReadBack(*busy, 0, 512) == ReadBack(*idle, 0, 512));
}

TEST_CASE("a flush that the connection waits for itself ends before it is parked") {
  Fixture fixture;
  auto client = fixture.Connect();
  fixture.gates.HoldFlushes(true);
  client->Send(WriteWire(1, 0, RandomBytes(4096, 1)));
  CHECK(client->ReceiveSimple().cookie == 1);
  client->Send(Wire(0, kFlush, 2, 0, 0));
  Await("the flush", [&] { return fixture.server->List()[0].bytes_in == 4124 + 28; });
  CHECK(fixture.server->ParkAll(milliseconds(50)).code() == Code::kTimeout);
  fixture.gates.HoldFlushes(false);
  CHECK(client->ReceiveSimple().cookie == 2);
  HandOver(fixture);
  CHECK(ReadBack(*client, 0, 512).size() == 512);
}

// Verified I/O with many requests in flight while the connections change hands all the time.
TEST_CASE("under load every request is executed and answered exactly once") {
  Fixture fixture;
  std::atomic<bool> stop{false};
  std::vector<std::thread> hosts;
  for (uint32_t host = 0; host < 3; ++host) {
    auto client = fixture.Connect({.tcp = host == 1});
    hosts.emplace_back([&stop, client = std::move(client), host] {
      std::mt19937 random(host);
      const uint64_t base = host * (uint64_t{64} << 20);
      uint64_t cookie = 0;
      while (!stop) {
        std::map<uint64_t, std::vector<uint8_t>> wanted;
        std::vector<uint8_t> batch;
        for (int i = 0; i < 16; ++i) {
          const uint64_t offset = base + static_cast<uint64_t>(i) * (2 << 20) + random() % 9999;
          wanted[offset] = RandomBytes(1 + random() % 200000, static_cast<uint32_t>(random()));
          batch = batch + WriteWire(++cookie, offset, wanted[offset]);
        }
        client->Send(batch + Wire(kFua, kWriteZeroes, ++cookie, base + (40 << 20), 20 << 20));
        for (int i = 0; i < 17; ++i) CHECK(client->ReceiveSimple().error == 0);
        for (const auto& [offset, data] : wanted)
          CHECK(ReadBack(*client, offset, static_cast<uint32_t>(data.size())) == data);
      }
    });
  }
  for (int round = 0; round < 60; ++round) {
    if (round % 3 == 0) {
      REQUIRE(fixture.server->ParkAll().ok());
      fixture.server->UnparkAll();
    } else {
      HandOver(fixture);
    }
  }
  stop = true;
  for (std::thread& host : hosts) host.join();
}

// Fencing -----------------------------------------------------------------------

TEST_CASE("what a dead client left is dropped before its successor is served") {
  for (const bool tcp : {false, true}) {
    CAPTURE(tcp);
    Fixture fixture;
    auto old = fixture.Connect({.tcp = tcp});
    const std::vector<uint8_t> first = RandomBytes(4096, 1);
    const std::vector<uint8_t> second = RandomBytes(4096, 2);
    // The flush that the disk does not end fills the table: the write behind it is not begun.
    fixture.gates.HoldFlushes(true);
    old->Send(WriteWire(1, 1 << 20, first));
    CHECK(old->ReceiveSimple().cookie == 1);
    std::vector<uint8_t> wire;
    for (uint64_t i = 0; i <= kMaxInFlight; ++i) wire = wire + Wire(0, kFlush, i, 0, 0);
    old->Send(wire + WriteWire(2, 0, first));
    Await("full", [&] { return fixture.server->List()[0].in_flight == kMaxInFlight; });
    old->Close();
    auto young = fixture.Connect({.tcp = tcp});
    young->Send(WriteWire(3, 0, second));
    Await("the end of receiving", [&] { return fixture.server->List().size() == 2; });
    fixture.gates.HoldFlushes(false);
    CHECK(young->ReceiveSimple().cookie == 3);
    CHECK(fixture.Ended().reason == CloseReason::kFenced);
    CHECK(ReadBack(*young, 0, 4096) == second);
  }
}

TEST_CASE("several connections of one living client do not fence each other") {
  for (const bool tcp : {false, true}) {
    Fixture fixture;
    REQUIRE(fixture.store->Freeze(kIds, kLong).ok());
    std::vector<std::unique_ptr<Client>> clients;
    for (uint64_t i = 0; i < 4; ++i) {
      clients.push_back(fixture.Connect({.tcp = tcp}));
      clients.back()->Send(WriteWire(i, i << 20, RandomBytes(4096, static_cast<uint32_t>(i))));
      CHECK(ReadBack(*clients.back(), 0, 512).size() == 512);
    }
    CHECK(fixture.server->List().size() == 4);
    (void)fixture.store->Thaw(kIds);
    for (uint64_t i = 0; i < 4; ++i) CHECK(clients[i]->ReceiveSimple().cookie == i);
  }
}

// A connection that was silent for longer than kHeardRecently, whose system answers the probe.
TEST_CASE("a silent client that lives is asked, and kept") {
  Fixture fixture;
  REQUIRE(fixture.store->Freeze(kIds, kLong).ok());
  auto silent = fixture.Connect({.tcp = true});
  silent->Send(WriteWire(1, 0, RandomBytes(4096, 1)));
  Await("held", [&] { return fixture.server->List()[0].held == 1; });
  const auto quiet = std::chrono::steady_clock::now() + kHeardRecently + milliseconds(200);
  Await("silence", [&] { return std::chrono::steady_clock::now() > quiet; });
  const auto begin = std::chrono::steady_clock::now();
  auto young = fixture.Connect({.tcp = true});
  CHECK(ReadBack(*young, 0, 512).size() == 512);
  CHECK(std::chrono::steady_clock::now() - begin < kProbeLimit);
  (void)fixture.store->Thaw(kIds);
  CHECK(silent->ReceiveSimple().error == 0);
}

}  // namespace
}  // namespace flashlun::nbd
