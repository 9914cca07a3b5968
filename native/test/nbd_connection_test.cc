// The transmission phase over a real socket and a real store: every row of the malformed-input
// matrix that is not handshake (shared/reference/nbd.md 1.12), replies out of order, cold reads,
// and the ways a connection ends.
#include <doctest/doctest.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <vector>

#include "nbd/limits.h"
#include "nbd/reply.h"
#include "test/nbd_fixture.h"

namespace flashlun::nbd {
namespace {

// Requests --------------------------------------------------------------------

struct Row {
  const char* name;
  uint16_t flags, type;
  uint64_t offset;
  uint32_t length;
  uint32_t error;  // 0: success, and for READ no data is expected
  bool read_only = false;
};

const Row kRows[] = {
    {"READ past the end", 0, kRead, kSize - 512, 1024, kWireInvalid},
    {"READ that wraps", 0, kRead, UINT64_MAX - 511, 1024, kWireInvalid},
    {"READ longer than the maximum", 0, kRead, 0, 32 * kMiB + 1, kWireInvalid},
    {"READ of 4 GiB", 0, kRead, 0, UINT32_MAX, kWireInvalid},
    {"READ of nothing", 0, kRead, 0, 0, 0},
    {"READ with REQ_ONE", kReqOne, kRead, 0, 512, kWireInvalid},
    {"WRITE past the end", 0, kWrite, kSize - 512, 1024, kWireNoSpace},
    {"WRITE that wraps", 0, kWrite, UINT64_MAX - 511, 1024, kWireNoSpace},
    {"WRITE longer than the maximum", 0, kWrite, 0, 32 * kMiB + 4096, kWireInvalid},
    {"WRITE of nothing", 0, kWrite, 0, 0, 0},
    {"WRITE of nothing with FUA", kFua, kWrite, 0, 0, 0},
    {"WRITE with DF", kDf, kWrite, 0, 4096, kWireInvalid},
    {"WRITE with an unknown flag", 1u << 15, kWrite, 0, 300000, kWireInvalid},
    {"WRITE, FUA", kFua, kWrite, 0, 4096, 0},
    {"WRITE, read-only", 0, kWrite, 0, 100000, kWirePermission, true},
    {"FLUSH", 0, kFlush, 0, 0, 0},
    {"FLUSH with junk and FUA", kFua, kFlush, UINT64_MAX, UINT32_MAX, 0},
    {"FLUSH, read-only", 0, kFlush, 0, 0, 0, true},
    {"TRIM", 0, kTrim, 4096, 200 * kMiB, 0},
    {"TRIM of nothing", 0, kTrim, kSize, 0, 0},
    {"TRIM, FUA", kFua, kTrim, 0, 65536, 0},
    {"TRIM past the end", 0, kTrim, 1, uint32_t{kSize}, kWireInvalid},
    {"TRIM, read-only", 0, kTrim, 0, 4096, kWirePermission, true},
    {"WRITE_ZEROES", 0, kWriteZeroes, 0, uint32_t{kSize}, 0},
    {"WRITE_ZEROES of nothing", 0, kWriteZeroes, 0, 0, 0},
    {"WRITE_ZEROES, FUA, NO_HOLE", kFua | kNoHole, kWriteZeroes, 100, 70000, 0},
    {"WRITE_ZEROES past the end", 0, kWriteZeroes, 1, uint32_t{kSize}, kWireNoSpace},
    {"WRITE_ZEROES with FAST_ZERO", kFastZero, kWriteZeroes, 0, uint32_t{kSize}, 0},
    {"FAST_ZERO of nothing", kFastZero, kWriteZeroes, 0, 0, 0},
    {"FAST_ZERO, NO_HOLE", kFastZero | kNoHole, kWriteZeroes, 0, 4096, kWireNotSup},
    {"FAST_ZERO of half a block", kFastZero, kWriteZeroes, 512, 4096, kWireNotSup},
    {"FAST_ZERO past the end", kFastZero, kWriteZeroes, 1, uint32_t{kSize}, kWireNoSpace},
    {"WRITE_ZEROES, read-only", 0, kWriteZeroes, 0, 4096, kWirePermission, true},
    {"CACHE", 0, kCache, 0, uint32_t{kSize}, 0},
    {"CACHE of nothing", 0, kCache, 100, 0, 0},
    {"CACHE past the end", 0, kCache, 1, uint32_t{kSize}, kWireInvalid},
    {"CACHE, read-only, FUA", kFua, kCache, 1, 100, 0, true},
    {"CACHE with NO_HOLE", kNoHole, kCache, 0, 4096, kWireInvalid},
    {"BLOCK_STATUS without a context", 0, kBlockStatus, 0, 4096, kWireInvalid},
    {"BLOCK_STATUS, read-only", kReqOne, kBlockStatus, 0, 4096, kWireInvalid, true},
    {"command 8: no payload follows", 0, 8, 0, 4096, kWireInvalid},
    {"command 255: no payload follows", 0, 255, UINT64_MAX, UINT32_MAX, kWireInvalid},
};

TEST_CASE("odd requests get their error and leave the stream in step") {
  Fixture fixture;
  for (const ReplyStyle style : kStyles) {
    for (const Row& row : kRows) {
      CAPTURE(row.name);
      CAPTURE(int(style));
      const auto client = fixture.Connect({style, row.read_only});
      std::vector<uint8_t> bytes = WireOf(style, row.flags, row.type, 5, row.offset, row.length);
      if (row.type == kWrite) bytes = bytes + std::vector<uint8_t>(row.length, 0x5a);
      client->Send(bytes);
      const bool long_read = style == kExtended && row.type == kRead && row.length > 32 * kMiB;
      CHECK(ReceiveError(*client, style, 5) == (long_read ? kWireOverflow : row.error));
      CHECK(ReadBytes(*client, style, kSize - 7, 7).size() == 7);
      client->Send(WireOf(style, 0, kDisconnect, 0, 0, 0));
      CHECK(client->AtEnd());
      CHECK(fixture.Ended().reason == CloseReason::kDisconnect);
    }
  }
}

TEST_CASE("what cannot be understood closes the connection") {
  Fixture fixture;
  SUBCASE("bad magic") {
    const auto client = fixture.Connect();
    std::vector<uint8_t> bytes = Wire(0, kFlush, 1, 0, 0) + Wire(0, kFlush, 2, 0, 0);
    bytes[kRequestBytes] ^= 1;
    client->Send(bytes);
    CHECK(client->ReceiveSimple().cookie == 1);  // what came before is answered
    CHECK(client->AtEnd());
    const CloseReport report = fixture.Ended();
    CHECK(report.reason == CloseReason::kProtocol);
    CHECK(report.detail == "bad request magic");
  }
  SUBCASE("a WRITE too long to drain") {
    const auto client = fixture.Connect();
    client->Send(Wire(0, kWrite, 1, 0, UINT32_MAX));
    CHECK(client->AtEnd());
    CHECK(fixture.Ended().reason == CloseReason::kProtocol);
  }
}

TEST_CASE("bytes come back as they were written, in every size and reply style") {
  Fixture fixture;
  const uint32_t sizes[] = {1, 511, 4096, 65537, 262144, 262145, 1000003, 32 * kMiB};
  for (const ReplyStyle style : kStyles) {
    for (const bool cold : {false, true}) {
      fixture.gates.cold = cold;
      const auto client = fixture.Connect({style});
      for (const uint32_t size : sizes) {
        CAPTURE(int(style));
        CAPTURE(cold);
        CAPTURE(size);
        const uint64_t offset = 12345 + size % 4096;
        const std::vector<uint8_t> data = RandomBytes(size, size + cold);
        client->Send(WireOf(style, 0, kWrite, 9, offset, size) + data);
        CHECK(ReceiveError(*client, style, 9) == 0);
        CHECK(ReadBytes(*client, style, offset, size) == data);
      }
      client->Send(WireOf(style, 0, kWriteZeroes, 10, 20000, 3000000));
      CHECK(ReceiveError(*client, style, 10) == 0);
      CHECK(ReadBytes(*client, style, 20000, 3000000) == std::vector<uint8_t>(3000000));
      CHECK(ReadBytes(*client, style, 1, 32 * kMiB).size() == 32 * kMiB);
      fixture.gates.cold = false;
    }
  }
}

TEST_CASE("requests may arrive in any pieces") {
  Fixture fixture;
  const std::vector<uint8_t> data = RandomBytes(600, 1);
  const std::vector<uint8_t> stream = Wire(0, kWrite, 1, 100, 600) + data +
                                      Wire(0, kRead, 2, 100, 600) + Wire(0, kDisconnect, 0, 0, 0);
  SUBCASE("byte by byte") {
    const auto client = fixture.Connect();
    for (const uint8_t byte : stream) client->Send({byte});
    CHECK(client->ReceiveSimple().cookie == 1);
    CHECK(client->ReceiveSimple().cookie == 2);
    CHECK(client->Receive(600) == data);
    CHECK(client->AtEnd());
  }
  SUBCASE("split at every place between what negotiation has read already and the socket") {
    for (size_t split = 0; split <= stream.size(); split += 13) {
      CAPTURE(split);
      const auto middle = stream.begin() + static_cast<ptrdiff_t>(split);
      const auto client = fixture.Connect({kSimple, false, {stream.begin(), middle}});
      client->Send({middle, stream.end()});
      CHECK(client->ReceiveSimple().cookie == 1);
      CHECK(client->ReceiveSimple().cookie == 2);
      CHECK(client->Receive(600) == data);
      CHECK(client->AtEnd());
      CHECK(fixture.Ended().bytes_in == stream.size());
    }
  }
  SUBCASE("more already read than the receive buffer holds") {
    std::vector<uint8_t> leftover;
    const size_t count = kReceiveBytes / 4096 + 10;
    for (size_t i = 0; i < count; i++) {
      leftover = leftover + Wire(0, kWrite, i, i * 4096, 4096) + std::vector<uint8_t>(4096, 7);
    }
    const auto client = fixture.Connect({kSimple, false, leftover});
    for (size_t i = 0; i < count; i++) CHECK(client->ReceiveSimple().cookie == i);
  }
}

TEST_CASE("a cookie used twice is answered twice; what follows DISC is ignored") {
  Fixture fixture;
  const auto client = fixture.Connect();
  client->Send(Wire(0, kRead, 3, 0, 1) + Wire(0, kRead, 3, 0, 1) +
               Wire(0xffff, kDisconnect, 1, 2, 3) + Wire(0, kRead, 4, 0, 1));
  for (int i = 0; i < 2; i++) {
    CHECK(client->ReceiveSimple().cookie == 3);
    client->Receive(1);
  }
  CHECK(client->AtEnd());
  const CloseReport report = fixture.Ended();
  CHECK(report.reason == CloseReason::kDisconnect);
  CHECK(report.requests == 3);
  CHECK(report.bytes_out == 2 * 17);
}

TEST_CASE("what one connection was answered, another one reads") {
  Fixture fixture;
  const auto writer = fixture.Connect();
  const auto reader = fixture.Connect({kStructured});
  for (uint32_t i = 0; i < 100; i++) {
    const std::vector<uint8_t> data = RandomBytes(5000, i);
    writer->Send(Wire(0, kWrite, i, 777, 5000) + data);
    CHECK(writer->ReceiveSimple().error == 0);
    CHECK(ReadBytes(*reader, kStructured, 777, 5000) == data);
  }
}

// In flight -------------------------------------------------------------------

TEST_CASE("a flush that waits holds up nothing else") {
  Fixture fixture;
  const auto client = fixture.Connect();
  fixture.gates.HoldFlushes(true);
  // In one piece: the thread of a client with one request at a time waits for the disk itself.
  client->Send(Wire(kFua, kWrite, 1, 0, 4096) + std::vector<uint8_t>(4096, 0xaa) +
               Wire(0, kFlush, 2, 0, 0) + Wire(kFua, kTrim, 3, 65536, 65536) +
               Wire(kFua, kWriteZeroes, 4, 131072, 65536));
  CHECK(ReadBytes(*client, kSimple, 0, 4096) == std::vector<uint8_t>(4096, 0xaa));
  fixture.gates.HoldFlushes(false);
  uint64_t cookies = 0;
  for (int i = 0; i < 4; i++) cookies |= 1u << client->ReceiveSimple().cookie;
  CHECK(cookies == 0b11110);
}

TEST_CASE("FUA of a write in place covers the mapping it relies on (T29)") {
  Fixture fixture;
  const auto client = fixture.Connect();
  const std::vector<uint8_t> data(4096, 0xaa);
  client->Send(Wire(0, kWrite, 1, 0, 4096) + data);  // maps the track: its record is in memory only
  CHECK(client->ReceiveSimple().error == 0);
  const uint64_t mapped = fixture.store->Info().last_lsn;
  client->Send(Wire(kFua, kWrite, 2, 0, 4096) + data);  // in place: no record of its own
  CHECK(client->ReceiveSimple().error == 0);
  CHECK(fixture.store->Info().last_lsn == mapped);
  CHECK(fixture.store->Info().durable_lsn == mapped);
}

TEST_CASE("what a client flushes again and again goes to the disk early, of others nothing") {
  Fixture fixture;
  const auto client = fixture.Connect();
  const auto write = [&](uint64_t offset, uint32_t length) {
    client->Send(Wire(0, kWrite, 1, offset, length) + std::vector<uint8_t>(length, 0xaa));
    REQUIRE(client->ReceiveSimple().error == 0);
  };
  const auto flush = [&] {
    client->Send(Wire(0, kFlush, 2, 0, 0));
    REQUIRE(client->ReceiveSimple().error == 0);
  };
  for (uint64_t i = 0; i < 64; i++) write(i * 4096, 4096);
  for (int i = 0; i < 3; i++) {
    for (uint64_t j = 0; j < 5; j++) write(j * 4096, 4096);
    flush();
  }
  CHECK(fixture.gates.early_ranges == 0);
  for (int i = 0; i < 3; i++) {
    write(8192, 512);
    flush();
  }
  CHECK(fixture.gates.early_ranges == 0);
  write(65536 - 1024, 2048);  // two tracks
  flush();
  CHECK(fixture.gates.early_ranges == 2);
  CHECK(fixture.gates.early_bytes == 2048);
  // Long writes, and many, end it.
  write(0, 128 * 1024);
  write(0, 4096);
  flush();
  write(0, 4096);
  flush();
  CHECK(fixture.gates.early_ranges == 2);
}

TEST_CASE("more flushes than the table holds are all answered") {
  Fixture fixture;
  const auto client = fixture.Connect();
  fixture.gates.HoldFlushes(true);
  constexpr size_t kCount = 3 * kMaxInFlight;
  // The first makes something durable to wait for. The socket holds what is not received yet.
  std::vector<uint8_t> requests = Wire(kFua, kWrite, 0, 0, 4096) + std::vector<uint8_t>(4096, 1);
  for (size_t i = 1; i < kCount; i++) requests = requests + Wire(0, kFlush, i, 0, 0);
  client->Send(requests);
  fixture.gates.HoldFlushes(false);
  std::vector<bool> seen(kCount);
  for (size_t i = 0; i < kCount; i++) seen.at(client->ReceiveSimple().cookie) = true;
  CHECK(std::find(seen.begin(), seen.end(), false) == seen.end());
}

TEST_CASE("cold reads, many at once, each with its own data") {
  Fixture fixture;
  constexpr uint64_t kCount = 400;
  constexpr uint32_t kBytes = 20000;
  const auto client = fixture.Connect();
  const std::vector<uint8_t> data = RandomBytes(kCount * kBytes, 3);
  for (size_t at = 0; at < data.size(); at += kMiB) {
    const size_t end = std::min<size_t>(at + kMiB, data.size());
    client->Send(Wire(0, kWrite, 0, at, static_cast<uint32_t>(end - at)) +
                 std::vector<uint8_t>(data.begin() + static_cast<ptrdiff_t>(at),
                                      data.begin() + static_cast<ptrdiff_t>(end)));
    CHECK(client->ReceiveSimple().error == 0);
  }
  fixture.gates.cold = true;
  for (uint64_t i = 0; i < kCount; i++) client->Send(Wire(0, kRead, i, i * kBytes, kBytes));
  for (uint64_t i = 0; i < kCount; i++) {
    const Client::Simple reply = client->ReceiveSimple();
    REQUIRE(reply.cookie < kCount);
    CHECK(reply.error == 0);
    const std::vector<uint8_t> got = client->Receive(kBytes);
    CHECK(std::equal(got.begin(), got.end(),
                     data.begin() + static_cast<ptrdiff_t>(reply.cookie * kBytes)));
  }
}

// Ends ------------------------------------------------------------------------

TEST_CASE("DISC and end of file wait for what is in flight") {
  Fixture fixture;
  for (const bool disconnect : {false, true}) {
    const auto client = fixture.Connect();
    fixture.gates.HoldFlushes(true);
    client->Send(Wire(kFua, kWrite, 1, 0, 4096) + std::vector<uint8_t>(4096, 2));
    if (disconnect) {
      client->Send(Wire(0, kDisconnect, 0, 0, 0));
    } else {
      client->ShutdownWrites();
    }
    fixture.gates.HoldFlushes(false);
    CHECK(client->ReceiveSimple().error == 0);
    CHECK(client->AtEnd());
    CHECK(fixture.Ended().reason == (disconnect ? CloseReason::kDisconnect : CloseReason::kEof));
  }
}

TEST_CASE("a client that vanishes with requests in flight leaves nothing behind") {
  Fixture fixture;
  fixture.gates.HoldFlushes(true);
  fixture.gates.cold = true;
  for (int i = 0; i < 8; i++) {
    const auto client = fixture.Connect();
    client->Send(Wire(kFua, kWrite, 1, 0, 4096) + std::vector<uint8_t>(4096, 2) +
                 Wire(0, kRead, 2, 0, kMiB) + Wire(0, kWrite, 3, 0, kMiB));
    client->Close();  // in the middle of a payload
  }
  fixture.gates.HoldFlushes(false);
  for (int i = 0; i < 8; i++) fixture.Ended();
  Result<VolumeInfo> volume = fixture.store->GetVolume(kVolumeId);
  REQUIRE(volume.ok());
  CHECK(volume.value().attached == 0);
}

TEST_CASE("a client that does not read its replies blocks only itself, and can be stopped") {
  Fixture fixture;
  const auto deaf = fixture.Connect();
  const uint64_t deaf_id = fixture.last_id;
  for (uint64_t i = 0; i < 8; i++) deaf->Send(Wire(0, kRead, i, 0, 32 * kMiB));
  CHECK(deaf->ReceiveSimple().error == 0);  // so the server is in the middle of its first answer
  const auto other = fixture.Connect();
  for (int i = 0; i < 100; i++) CHECK(ReadBytes(*other, kSimple, 0, 4096).size() == 4096);
  fixture.server->Stop(deaf_id);
  const CloseReport report = fixture.Ended();
  CHECK(report.reason == CloseReason::kIo);  // its replies were lost, which is more than a stop
  CHECK(ReadBytes(*other, kSimple, 0, 4096).size() == 4096);
}

TEST_CASE("stop ends an idle connection and one with a flush in flight, which is answered") {
  Fixture fixture;
  const auto idle = fixture.Connect();
  const uint64_t idle_id = fixture.last_id;
  const auto busy = fixture.Connect();
  CHECK(ReadBytes(*idle, kSimple, 0, 1).size() == 1);
  fixture.gates.HoldFlushes(true);
  busy->Send(Wire(kFua, kWrite, 1, 0, 4096) + std::vector<uint8_t>(4096, 2) +
             Wire(0, kRead, 2, 0, 1));
  CHECK(busy->ReceiveSimple().cookie == 2);  // so the write was received
  busy->Receive(1);
  fixture.server->Stop(idle_id);
  CHECK(idle->AtEnd());
  CHECK(fixture.Ended().reason == CloseReason::kStopped);
  fixture.server->Stop(idle_id);  // unknown by now: ignored
  fixture.server->Stop(fixture.last_id);
  fixture.gates.HoldFlushes(false);
  CHECK(busy->ReceiveSimple().error == 0);
  CHECK(busy->AtEnd());
  CHECK(fixture.Ended().reason == CloseReason::kStopped);
}

// So much work that nobody waits for it: the fixture's deadline is shorter.
constexpr uint64_t kLongRequests = 300;
std::vector<uint8_t> LongRequests(uint16_t type, uint32_t length = uint32_t{kSize}) {
  std::vector<uint8_t> requests;
  const uint16_t flags = type == kWriteZeroes ? uint16_t{kNoHole} : uint16_t{0};
  for (uint64_t i = 0; i < kLongRequests; i++)
    requests = requests + Wire(flags, type, i, 0, length);
  return requests;
}

TEST_CASE("requests of a client that is gone are not executed") {
  Fixture fixture;
  const auto writer = fixture.Connect();  // or the reads would be holes, which leave at once
  writer->Send(Wire(0, kWrite, 1, 0, 32 * kMiB) + std::vector<uint8_t>(32 * kMiB, 1));
  CHECK(writer->ReceiveSimple().error == 0);
  writer->Close();
  fixture.Ended();
  for (const bool tcp : {false, true}) {
    // NO_HOLE: the zeroes are data, too.
    for (const auto& [type, length] : {std::pair<uint16_t, uint32_t>{kRead, 32 * kMiB},
                                       {kWriteZeroes, kSize},
                                       {kWriteZeroes, 32 * kMiB}}) {
      CAPTURE(tcp);
      CAPTURE(type);
      CAPTURE(length);
      const auto client = fixture.Connect({type == kRead ? kStructured : kSimple, false, {}, tcp});
      client->Send(LongRequests(type, length));
      client->Close();
      const CloseReport report = fixture.Ended();
      CHECK(report.reason == CloseReason::kIo);
      CHECK(report.requests < 10);
    }
  }
}

TEST_CASE("stop cuts a long request short and begins no other") {
  Fixture fixture;
  for (const bool tcp : {false, true}) {
    const auto client = fixture.Connect({kStructured, false, {}, tcp});
    client->Send(Wire(0, kRead, 7, 0, 0) + LongRequests(kWriteZeroes));
    CHECK(client->ReceiveChunk().cookie == 7);  // leaves after the first piece of a long one
    fixture.server->StopAll();
    CHECK(ReceiveError(*client, kStructured, 0) == kWireShutdown);
    CHECK(client->AtEnd());
    const CloseReport report = fixture.Ended();
    CHECK(report.reason == CloseReason::kStopped);
    CHECK(report.requests == 2);
  }
}

TEST_CASE("a client that has ended its sending side gets all its replies") {
  Fixture fixture;
  for (const bool tcp : {false, true}) {
    const auto client = fixture.Connect({kSimple, false, {}, tcp});
    for (uint64_t i = 0; i < 3; i++) {
      client->Send(Wire(0, kWriteZeroes, i, 0, uint32_t{kSize}) + Wire(0, kTrim, i, 0, kSize));
    }
    client->ShutdownWrites();
    for (uint64_t i = 0; i < 6; i++) CHECK(client->ReceiveSimple().cookie == i / 2);
    CHECK(client->AtEnd());
    CHECK(fixture.Ended().reason == CloseReason::kEof);
  }
}

TEST_CASE("input that is not read does not turn our end into a reset") {
  Fixture fixture;
  for (const bool tcp : {false, true}) {
    CAPTURE(tcp);
    const auto client = fixture.Connect({kSimple, false, {}, tcp});
    std::vector<uint8_t> junk(kMiB, 0xee);
    client->Send(Wire(0, kRead, 1, 0, 4096) + junk);
    CHECK(client->ReceiveSimple().cookie == 1);
    CHECK(client->Receive(4096).size() == 4096);
    CHECK(client->AtEnd());
    CHECK(fixture.Ended().reason == CloseReason::kProtocol);
  }
}

}  // namespace
}  // namespace flashlun::nbd
