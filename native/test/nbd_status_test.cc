// BLOCK_STATUS, holes in READ, DF and extended headers over a real socket and a real store.
#include <doctest/doctest.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "nbd/limits.h"
#include "test/nbd_fixture.h"

namespace flashlun::nbd {
namespace {

const std::vector<SelectedContext> kBoth = {{1, StatusContext::kAllocation, 0},
                                            {7, StatusContext::kDepth, 0}};

struct Told {
  uint32_t id;
  std::vector<StatusExtent> extents;
};

// One BLOCK_STATUS chunk of either kind.
Told Decode(const Client::Chunk& chunk) {
  const bool extended = chunk.type == kChunkBlockStatusExt;
  REQUIRE((extended || chunk.type == kChunkBlockStatus));
  Told told{LoadBe32(chunk.data.data()), {}};
  const size_t head = extended ? 8 : 4;
  const size_t each = extended ? 16 : 8;
  REQUIRE(chunk.data.size() > head);
  REQUIRE((chunk.data.size() - head) % each == 0);
  if (extended) CHECK(LoadBe32(&chunk.data[4]) == (chunk.data.size() - head) / each);
  for (size_t at = head; at < chunk.data.size(); at += each) {
    if (extended) {
      CHECK(LoadBe32(&chunk.data[at + 8]) == 0);  // 32-bit contexts
      told.extents.push_back({LoadBe64(&chunk.data[at]), LoadBe32(&chunk.data[at + 12])});
    } else {
      told.extents.push_back({LoadBe32(&chunk.data[at]), LoadBe32(&chunk.data[at + 4])});
    }
  }
  return told;
}

// All chunks of one BLOCK_STATUS.
std::vector<Told> Ask(Client& client, const std::vector<uint8_t>& request) {
  client.Send(request);
  std::vector<Told> all;
  for (bool done = false; !done;) {
    const Client::Chunk chunk = client.ReceiveChunk();
    all.push_back(Decode(chunk));
    done = chunk.done;
  }
  return all;
}

void Write(Client& client, ReplyStyle style, uint64_t offset, uint32_t bytes) {
  client.Send(WireOf(style, 0, kWrite, 3, offset, bytes) + RandomBytes(bytes, bytes));
  REQUIRE(ReceiveError(client, style, 3) == 0);
}

std::vector<uint8_t> StatusPayload(uint64_t length, const std::vector<uint32_t>& ids) {
  std::vector<uint8_t> payload(8 + 4 * ids.size());
  StoreBe64(payload.data(), length);
  for (size_t i = 0; i < ids.size(); ++i) StoreBe32(&payload[8 + 4 * i], ids[i]);
  return ExtendedWire(kPayloadLen, kBlockStatus, 5, 0, payload.size()) + payload;
}

TEST_CASE("one chunk for each context, in both styles") {
  Fixture fixture;
  for (const ReplyStyle style : {kStructured, kExtended}) {
    const auto client = fixture.Connect({style, false, {}, false, kBoth});
    Write(*client, style, 65536, 131072);
    const std::vector<Told> told =
        Ask(*client, WireOf(style, 0, kBlockStatus, 5, 0, uint32_t{kSize}));
    REQUIRE(told.size() == 2);
    CHECK(told[0].id == 1);
    CHECK(told[0].extents ==
          std::vector<StatusExtent>{{65536, 3}, {131072, 0}, {kSize - 196608, 3}});
    CHECK(told[1].id == 7);
    CHECK(told[1].extents ==
          std::vector<StatusExtent>{{65536, 0}, {131072, 1}, {kSize - 196608, 0}});
    const std::vector<Told> one =
        Ask(*client, WireOf(style, kReqOne, kBlockStatus, 5, 65536 + 512, 262144));
    REQUIRE(one.size() == 2);
    CHECK(one[0].extents == std::vector<StatusExtent>{{131072 - 512, 0}});
    CHECK(ReadBytes(*client, style, 0, 100).size() == 100);
  }
}

TEST_CASE("a chunk is bounded, and the next one goes on where it ends") {
  Fixture fixture;
  const auto client = fixture.Connect({kExtended, false, {}, false, {kBoth[0]}});
  constexpr uint64_t kPieces = kMaxStatusExtents + 100;
  // Every second 4 KiB block: two extents each.
  std::vector<uint8_t> requests;
  for (uint64_t i = 0; i < kPieces / 2; ++i)
    requests =
        requests + WireOf(kExtended, 0, kWrite, 1, i * 8192, 512) + std::vector<uint8_t>(512, 1);
  client->Send(requests);
  for (uint64_t i = 0; i < kPieces / 2; ++i) REQUIRE(ReceiveError(*client, kExtended, 1) == 0);
  uint64_t at = 0;
  size_t extents = 0;
  while (at < kSize) {
    const std::vector<Told> told = Ask(*client, ExtendedWire(0, kBlockStatus, 5, at, kSize - at));
    REQUIRE(told.size() == 1);
    REQUIRE(told[0].extents.size() <= kMaxStatusExtents);
    for (const StatusExtent& extent : told[0].extents) at += extent.length;
    extents += told[0].extents.size();
  }
  CHECK(at == kSize);
  CHECK(extents >= kPieces - 1);
}

TEST_CASE("a payload chooses contexts and gives the length") {
  Fixture fixture;
  const auto client = fixture.Connect({kExtended, false, {}, false, kBoth});
  const std::vector<Told> told = Ask(*client, StatusPayload(kSize, {7}));
  REQUIRE(told.size() == 1);
  CHECK(told[0].id == 7);
  CHECK(told[0].extents == std::vector<StatusExtent>{{kSize, 0}});
  const std::vector<std::vector<uint8_t>> refused = {
      StatusPayload(kSize, {}),
      StatusPayload(kSize, {2}),
      StatusPayload(kSize, {7, 7}),
      StatusPayload(kSize + 1, {1}),
      StatusPayload(0, {1}),
      StatusPayload(kSize, std::vector<uint32_t>(kMaxContexts + 1, 1)),
      ExtendedWire(kPayloadLen, kBlockStatus, 5, 0, 9) + std::vector<uint8_t>(9),
      ExtendedWire(kPayloadLen, kTrim, 5, 0, 70000) + std::vector<uint8_t>(70000),
      ExtendedWire(kPayloadLen, 99, 5, 0, 5) + std::vector<uint8_t>(5)};
  for (const std::vector<uint8_t>& request : refused) {
    client->Send(request);
    CHECK(ReceiveError(*client, kExtended, 5) == kWireInvalid);
    CHECK(ReadBytes(*client, kExtended, 1, 10).size() == 10);
  }
}

TEST_CASE("a READ leaves out holes, but not small ones") {
  Fixture fixture;
  for (const ReplyStyle style : {kStructured, kExtended}) {
    const auto client = fixture.Connect({style});
    Write(*client, style, 0, 65536);
    Write(*client, style, 1 * kMiB, 65536);
    client->Send(WireOf(style, 0, kRead, 4, 0, 32 * kMiB));
    std::vector<std::pair<uint16_t, size_t>> chunks;
    for (bool done = false; !done;) {
      const Client::Chunk chunk = client->ReceiveChunk();
      const bool hole = chunk.type == kChunkOffsetHole;
      chunks.push_back({chunk.type, hole ? LoadBe32(&chunk.data[8]) : chunk.data.size() - 8});
      done = chunk.done;
    }
    CHECK(chunks ==
          std::vector<std::pair<uint16_t, size_t>>{{kChunkOffsetData, 65536},
                                                   {kChunkOffsetHole, 15 * 65536},
                                                   {kChunkOffsetData, 65536},
                                                   {kChunkOffsetHole, 31 * kMiB - 65536}});
    client->Send(WireOf(style, kDf, kRead, 4, 0, 2 * kMiB));
    const Client::Chunk one = client->ReceiveChunk();
    CHECK(one.done);
    CHECK(one.type == kChunkOffsetData);
    CHECK(one.data.size() == 2 * kMiB + 8);
    CHECK(std::equal(one.data.begin() + 8 + 65536, one.data.begin() + 8 + kMiB,
                     std::vector<uint8_t>(kMiB - 65536).begin()));
    CHECK(std::equal(one.data.begin() + 8 + kMiB, one.data.begin() + 8 + kMiB + 65536,
                     RandomBytes(65536, 65536).begin()));
  }
}

TEST_CASE("64-bit lengths: a trim and zeroes of the whole volume are one request") {
  Fixture fixture;
  REQUIRE(fixture.store->ResizeVolume(kVolumeId, uint64_t{5} << 30).ok());
  const auto client = fixture.Connect({kExtended, false, {}, false, {kBoth[0]}});
  Write(*client, kExtended, uint64_t{9} << 29, 65536);
  const std::vector<uint8_t> all = ExtendedWire(0, kBlockStatus, 5, 0, uint64_t{5} << 30);
  CHECK(Ask(*client, all)[0].extents.size() == 3);
  client->Send(ExtendedWire(kFastZero, kWriteZeroes, 6, 0, uint64_t{5} << 30));
  CHECK(ReceiveError(*client, kExtended, 6) == 0);
  CHECK(Ask(*client, all)[0].extents == std::vector<StatusExtent>{{uint64_t{5} << 30, 3}});
  client->Send(ExtendedWire(0, kTrim, 6, 0, uint64_t{5} << 30));
  CHECK(ReceiveError(*client, kExtended, 6) == 0);
  client->Send(ExtendedWire(0, kCache, 6, 0, uint64_t{5} << 30));
  CHECK(ReceiveError(*client, kExtended, 6) == 0);
}

TEST_CASE("a client that asked for block sizes keeps to them, others need not") {
  Fixture fixture;
  const auto strict = fixture.Connect({kStructured, false, {}, false, {}, 4096});
  strict->Send(Wire(0, kRead, 5, 512, 4096));
  CHECK(ReceiveError(*strict, kStructured, 5) == kWireInvalid);
  strict->Send(Wire(0, kWrite, 5, 0, 512) + std::vector<uint8_t>(512));
  CHECK(ReceiveError(*strict, kStructured, 5) == kWireInvalid);
  CHECK(ReadBytes(*strict, kStructured, 4096, 8192).size() == 8192);
  const auto other = fixture.Connect({kStructured});
  CHECK(ReadBytes(*other, kStructured, 512, 1024).size() == 1024);
}

}  // namespace
}  // namespace flashlun::nbd
