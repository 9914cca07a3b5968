// Freezes at the transmission phase: which requests wait and which go on, what ends the wait, and
// that nothing of it outlives a client.
#include <doctest/doctest.h>

#include <atomic>
#include <chrono>
#include <cstring>
#include <thread>
#include <vector>

#include "nbd/limits.h"
#include "test/nbd_fixture.h"

namespace flashlun::nbd {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds kLong{60000};
constexpr uint16_t kIds[] = {kVolumeId};

std::vector<uint8_t> WriteWire(uint64_t cookie, uint64_t offset, const std::vector<uint8_t>& data,
                               uint16_t flags = 0) {
  return Wire(flags, kWrite, cookie, offset, static_cast<uint32_t>(data.size())) + data;
}

std::vector<uint8_t> ReadBack(Client& client, uint64_t offset, uint32_t length) {
  client.Send(Wire(0, kRead, 99, offset, length));
  const Client::Simple reply = client.ReceiveSimple();
  CHECK(reply.error == 0);
  REQUIRE(reply.cookie == 99);
  return client.Receive(length);
}

// Waits until the server holds so many requests of all clients.
void AwaitHeld(Fixture& fixture, uint64_t count) {
  const auto deadline = std::chrono::steady_clock::now() + kDeadline;
  for (;;) {
    uint64_t held = 0;
    for (const ConnectionInfo& info : fixture.server->List()) held += info.held;
    if (held == count) return;
    REQUIRE_MESSAGE(std::chrono::steady_clock::now() < deadline, "held: ", held);
    std::this_thread::yield();
  }
}

bool IsFrozen(Fixture& fixture) {
  return fixture.store->GetVolume(kVolumeId).value().frozen_until_unix_ms != 0;
}

TEST_CASE("a frozen volume holds writes, trims and zeroes; reads and flushes go on") {
  Fixture fixture;
  const std::vector<uint8_t> old = RandomBytes(65536, 1);
  const std::vector<uint8_t> young = RandomBytes(65536, 2);
  auto client = fixture.Connect();
  client->Send(WriteWire(1, 0, old));
  CHECK(client->ReceiveSimple().cookie == 1);
  REQUIRE(fixture.store->Freeze(kIds, kLong).ok());
  CHECK(IsFrozen(fixture));
  client->Send(WriteWire(2, 0, young) + Wire(0, kTrim, 3, 1 << 20, 65536) +
               Wire(0, kWriteZeroes, 4, 2 << 20, 65536) + Wire(0, kFlush, 5, 0, 0));
  CHECK(client->ReceiveSimple().cookie == 5);  // before everything that is held
  CHECK(ReadBack(*client, 0, 65536) == old);
  AwaitHeld(fixture, 3);
  CHECK(fixture.server->List()[0].in_flight == 3);
  CHECK(fixture.store->Thaw(kIds).size() == 1);
  for (const uint64_t cookie : {2, 3, 4}) {
    const Client::Simple reply = client->ReceiveSimple();
    CHECK(reply.error == 0);
    CHECK(reply.cookie == cookie);
  }
  CHECK(ReadBack(*client, 0, 65536) == young);
  CHECK(fixture.store->Thaw(kIds).empty());
  CHECK_FALSE(IsFrozen(fixture));
}

TEST_CASE("a new connection does not get around a freeze") {
  Fixture fixture;
  REQUIRE(fixture.store->Freeze(kIds, kLong).ok());
  auto first = fixture.Connect();
  first->Send(WriteWire(1, 0, RandomBytes(4096, 1)));
  AwaitHeld(fixture, 1);
  first->Close();
  CHECK(fixture.Ended().reason == CloseReason::kEof);
  auto second = fixture.Connect();
  const std::vector<uint8_t> data = RandomBytes(4096, 2);
  second->Send(WriteWire(1, 0, data));
  AwaitHeld(fixture, 1);
  CHECK(ReadBack(*second, 0, 4096) == std::vector<uint8_t>(4096));
  (void)fixture.store->Thaw(kIds);
  CHECK(second->ReceiveSimple().error == 0);
  CHECK(ReadBack(*second, 0, 4096) == data);  // the dropped one did not come after it
}

TEST_CASE("a freeze ends by itself at its limit, and says so") {
  Fixture fixture;
  auto client = fixture.Connect();
  REQUIRE(fixture.store->Freeze(kIds, milliseconds(50)).ok());
  client->Send(WriteWire(1, 0, RandomBytes(4096, 1), kFua));
  CHECK(client->ReceiveSimple().error == 0);
  CHECK(fixture.store->Thaw(kIds).empty());  // whoever relied on it learns that it had ended
  CHECK(fixture.store->Info().expired_freezes == 1);
}

TEST_CASE("freezes are all or nothing, and checked") {
  Fixture fixture;
  const uint16_t other = kVolumeId + 1;
  REQUIRE(fixture.store->CreateVolume(other, kSize, "").ok());
  const uint16_t both[] = {kVolumeId, other};
  const uint16_t missing[] = {kVolumeId, 0x1999};
  CHECK(fixture.store->Freeze(missing, kLong).code() == Code::kNotFound);
  CHECK(fixture.store->Freeze(both, milliseconds(0)).code() == Code::kInvalid);
  CHECK(fixture.store->Freeze(both, kMaxFreeze + milliseconds(1)).code() == Code::kInvalid);
  REQUIRE(fixture.store->Freeze({&other, 1}, kLong).ok());
  CHECK(fixture.store->Freeze(both, kLong).code() == Code::kBusy);
  CHECK_FALSE(IsFrozen(fixture));
  const std::vector<uint16_t> thawed = fixture.store->Thaw(both);
  REQUIRE(thawed.size() == 1);
  CHECK(thawed[0] == other);
}

TEST_CASE("a freeze waits for writes that have begun, and gives up when they do not end") {
  Fixture fixture;
  Volume volume = std::move(fixture.store->Attach(kVolumeId).value());
  OpSlot* slot = fixture.store->AcquireSlot();
  REQUIRE(volume.BeginHostWrite(*slot));
  CHECK(fixture.store->Freeze(kIds, kLong).code() == Code::kTimeout);
  CHECK_FALSE(IsFrozen(fixture));
  std::atomic<bool> returned{false};
  std::thread freezer([&] {
    CHECK(fixture.store->Freeze(kIds, kLong).ok());
    returned = true;
  });
  const auto deadline = std::chrono::steady_clock::now() + kDeadline;
  while (!IsFrozen(fixture)) REQUIRE(std::chrono::steady_clock::now() < deadline);
  CHECK_FALSE(returned);  // closed, and it waits
  OpSlot* other = fixture.store->AcquireSlot();
  CHECK_FALSE(volume.BeginHostWrite(*other));
  volume.EndHostWrite(*slot);
  freezer.join();
  fixture.store->ReleaseSlot(slot);
  fixture.store->ReleaseSlot(other);
  (void)fixture.store->Thaw(kIds);
}

TEST_CASE("a payload that is still arriving is held as a whole rest") {
  Fixture fixture;
  auto client = fixture.Connect();
  const std::vector<uint8_t> data = RandomBytes(8 << 20, 3);
  const std::vector<uint8_t> wire = WriteWire(1, 4096, data);
  const size_t half = wire.size() / 2;
  client->Send({wire.begin(), wire.begin() + static_cast<ptrdiff_t>(half)});
  REQUIRE(fixture.store->Freeze(kIds, kLong).ok());  // does not wait for the client
  client->Send({wire.begin() + static_cast<ptrdiff_t>(half), wire.end()});
  AwaitHeld(fixture, 1);
  const std::vector<uint8_t> before = ReadBack(*client, 0, 16 << 20);
  CHECK(ReadBack(*client, 0, 16 << 20) == before);  // nothing moves
  (void)fixture.store->Thaw(kIds);
  CHECK(client->ReceiveSimple().error == 0);
  CHECK(ReadBack(*client, 4096, 8 << 20) == data);
}

TEST_CASE("what does not fit waits outside, and comes in after the thaw") {
  Fixture fixture;
  auto client = fixture.Connect();
  REQUIRE(fixture.store->Freeze(kIds, kLong).ok());
  constexpr size_t kEach = 8 << 20;
  constexpr uint64_t kCount = 8;  // twice what one connection may hold
  std::thread sender([&] {
    for (uint64_t i = 0; i < kCount; ++i)
      client->Send(WriteWire(i, i * kEach, RandomBytes(kEach, static_cast<uint32_t>(i))));
  });
  AwaitHeld(fixture, kMaxHeldBytes / kEach);
  (void)fixture.store->Thaw(kIds);
  for (uint64_t i = 0; i < kCount; ++i) CHECK(client->ReceiveSimple().error == 0);
  sender.join();
  for (uint64_t i = 0; i < kCount; ++i)
    CHECK(ReadBack(*client, i * kEach, kEach) == RandomBytes(kEach, static_cast<uint32_t>(i)));
}

TEST_CASE("clients that leave while requests are held leave nothing behind") {
  Fixture fixture;
  REQUIRE(fixture.store->Freeze(kIds, kLong).ok());
  for (const bool tcp : {false, true}) {
    CAPTURE(tcp);
    auto few = fixture.Connect({.tcp = tcp});
    few->Send(WriteWire(1, 0, RandomBytes(4096, 1)));
    AwaitHeld(fixture, 1);
    few->Close();
    CHECK(fixture.Ended().reason == CloseReason::kEof);
    // With the table full the thread waits for a thaw and must notice all the same.
    auto many = fixture.Connect({.tcp = tcp});
    for (uint64_t i = 0; i <= kMaxInFlight; ++i) many->Send(Wire(0, kTrim, i, 0, 4096));
    AwaitHeld(fixture, kMaxInFlight);
    many->Close();
    (void)fixture.Ended();
    auto stopped = fixture.Connect({.tcp = tcp});
    for (uint64_t i = 0; i <= kMaxInFlight; ++i) stopped->Send(Wire(0, kTrim, i, 0, 4096));
    AwaitHeld(fixture, kMaxInFlight);
    fixture.server->Stop(fixture.last_id);
    CHECK(fixture.Ended().reason == CloseReason::kStopped);
    auto polite = fixture.Connect({.tcp = tcp});
    polite->Send(Wire(0, kTrim, 1, 0, 4096) + Wire(0, kDisconnect, 2, 0, 0));
    AwaitHeld(fixture, 1);
    polite->Close();
    (void)fixture.Ended();
  }
  CHECK(fixture.store->GetVolume(kVolumeId).value().attached == 0);
  CHECK(fixture.store->Thaw(kIds).size() == 1);
}

TEST_CASE("DISC waits for what is held, as for everything in flight") {
  Fixture fixture;
  auto client = fixture.Connect();
  REQUIRE(fixture.store->Freeze(kIds, kLong).ok());
  const std::vector<uint8_t> data = RandomBytes(4096, 1);
  client->Send(WriteWire(1, 0, data, kFua) + Wire(0, kDisconnect, 2, 0, 0));
  AwaitHeld(fixture, 1);
  (void)fixture.store->Thaw(kIds);
  CHECK(client->ReceiveSimple().cookie == 1);
  CHECK(client->AtEnd());
  CHECK(fixture.Ended().reason == CloseReason::kDisconnect);
  CHECK(ReadBack(*fixture.Connect(), 0, 4096) == data);
}

// Content of a frozen volume does not change, whatever hosts do: read twice under load.
TEST_CASE("under load nothing changes between the freeze's return and the thaw") {
  Fixture fixture;
  std::atomic<bool> stop{false};
  std::vector<std::thread> writers;
  for (uint32_t writer = 0; writer < 3; ++writer) {
    writers.emplace_back([&fixture, &stop, client = fixture.Connect(), writer]() mutable {
      std::mt19937 random(writer);
      for (uint64_t i = 0; !stop; ++i) {
        const uint64_t offset = random() % 512 * 8192;
        client->Send(WriteWire(i, offset, RandomBytes(12288, static_cast<uint32_t>(random()))) +
                     Wire(0, kWriteZeroes, i, random() % 512 * 8192, 70000));
        CHECK(client->ReceiveSimple().error == 0);
        CHECK(client->ReceiveSimple().error == 0);
      }
    });
  }
  auto reader = fixture.Connect();
  for (int round = 0; round < 20; ++round) {
    REQUIRE(fixture.store->Freeze(kIds, kLong).ok());
    const std::vector<uint8_t> first = ReadBack(*reader, 0, 8 << 20);
    CHECK(ReadBack(*reader, 0, 8 << 20) == first);
    CHECK(fixture.store->Thaw(kIds).size() == 1);
  }
  stop = true;
  for (std::thread& writer : writers) writer.join();
}

}  // namespace
}  // namespace flashlun::nbd
