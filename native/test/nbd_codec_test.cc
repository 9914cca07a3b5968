// Decoding, validation and reply encoding: pure functions, checked byte by byte.
#include <doctest/doctest.h>

#include <cstring>
#include <string>
#include <string_view>
#include <vector>

#include "nbd/limits.h"
#include "nbd/reply.h"
#include "nbd/request.h"

namespace flashlun::nbd {
namespace {

constexpr uint64_t kSize = uint64_t{1} << 30;
constexpr uint64_t kCookie = 0x8877665544332211;

std::string Hex(const uint8_t* bytes, size_t count) {
  static const char digits[] = "0123456789abcdef";
  std::string text;
  for (size_t i = 0; i < count; i++) {
    text += digits[bytes[i] >> 4];
    text += digits[bytes[i] & 15];
  }
  return text;
}

TEST_CASE("a request is decoded field by field, its cookie as it came") {
  const uint8_t wire[kRequestBytes] = {0x25, 0x60, 0x95, 0x13, 0x00, 0x03, 0x00, 0x06, 1, 2,
                                       3,    4,    5,    6,    7,    8,    0x01, 0x02, 3, 4,
                                       5,    6,    7,    8,    0x0a, 0x0b, 0x0c, 0x0d};
  Request request;
  REQUIRE(DecodeRequest(wire, ReplyStyle::kSimple, &request));
  CHECK(request.flags == 3);
  CHECK(request.type == kWriteZeroes);
  CHECK(std::memcmp(&request.cookie, wire + 8, 8) == 0);
  CHECK(request.offset == 0x0102030405060708);
  CHECK(request.length == 0x0a0b0c0d);
}

TEST_CASE("any wrong byte of the magic is refused") {
  for (size_t i = 0; i < 4; i++) {
    uint8_t wire[kRequestBytes] = {0x25, 0x60, 0x95, 0x13};
    wire[i] ^= 0x80;
    Request request;
    CHECK_FALSE(DecodeRequest(wire, ReplyStyle::kSimple, &request));
  }
}

struct Row {
  const char* name;
  Request request;  // flags, type, cookie, offset, length
  bool read_only;
  Action action;
  WireError error;
};

const Row kRows[] = {
    {"read", {0, kRead, 0, 0, 4096}, false, Action::kExecute, kWireOk},
    {"read to the last byte", {0, kRead, 0, kSize - 1, 1}, false, Action::kExecute, kWireOk},
    {"read one byte too far", {0, kRead, 0, kSize - 1, 2}, false, Action::kRefuse, kWireInvalid},
    {"read of nothing at the end", {0, kRead, 0, kSize, 0}, false, Action::kExecute, kWireOk},
    {"read of nothing past the end",
     {0, kRead, 0, kSize + 1, 0},
     false,
     Action::kRefuse,
     kWireInvalid},
    {"read that wraps",
     {0, kRead, 0, UINT64_MAX - 511, 1024},
     false,
     Action::kRefuse,
     kWireInvalid},
    {"read of 32 MiB", {0, kRead, 0, 0, 32u << 20}, false, Action::kExecute, kWireOk},
    {"read over 32 MiB", {0, kRead, 0, 0, (32u << 20) + 1}, false, Action::kRefuse, kWireInvalid},
    {"read of 4 GiB", {0, kRead, 0, 0, UINT32_MAX}, false, Action::kRefuse, kWireInvalid},
    {"write", {0, kWrite, 0, 0, 4096}, false, Action::kExecute, kWireOk},
    {"write past the end", {0, kWrite, 0, kSize, 1}, false, Action::kRefuse, kWireNoSpace},
    {"write that wraps", {0, kWrite, 0, UINT64_MAX, 4096}, false, Action::kRefuse, kWireNoSpace},
    {"write of 32 MiB", {0, kWrite, 0, 0, 32u << 20}, false, Action::kExecute, kWireOk},
    {"write over 32 MiB", {0, kWrite, 0, 0, (32u << 20) + 1}, false, Action::kRefuse, kWireInvalid},
    {"write of 64 MiB", {0, kWrite, 0, 0, 64u << 20}, false, Action::kRefuse, kWireInvalid},
    {"write over 64 MiB", {0, kWrite, 0, 0, (64u << 20) + 1}, false, Action::kClose, kWireInvalid},
    {"flush", {0, kFlush, 0, 0, 0}, false, Action::kExecute, kWireOk},
    {"flush with junk", {0, kFlush, 0, UINT64_MAX, UINT32_MAX}, false, Action::kExecute, kWireOk},
    {"trim", {0, kTrim, 0, 0, 1u << 30}, false, Action::kExecute, kWireOk},
    {"trim past the end", {0, kTrim, 0, 1, 1u << 30}, false, Action::kRefuse, kWireInvalid},
    {"zeroes", {0, kWriteZeroes, 0, 0, 1u << 30}, false, Action::kExecute, kWireOk},
    {"zeroes, no hole", {kNoHole, kWriteZeroes, 0, 0, 1}, false, Action::kExecute, kWireOk},
    {"zeroes past the end",
     {0, kWriteZeroes, 0, 1, 1u << 30},
     false,
     Action::kRefuse,
     kWireNoSpace},
    {"disconnect with junk", {0xffff, kDisconnect, 0, 7, 7}, true, Action::kExecute, kWireOk},
    {"read-only: read", {0, kRead, 0, 0, 1}, true, Action::kExecute, kWireOk},
    {"read-only: flush", {0, kFlush, 0, 0, 0}, true, Action::kExecute, kWireOk},
    {"read-only: write", {0, kWrite, 0, 0, 1}, true, Action::kRefuse, kWirePermission},
    {"read-only: trim", {0, kTrim, 0, 0, 1}, true, Action::kRefuse, kWirePermission},
    {"read-only: zeroes", {0, kWriteZeroes, 0, 0, 1}, true, Action::kRefuse, kWirePermission},
    {"FUA on read", {kFua, kRead, 0, 0, 1}, false, Action::kExecute, kWireOk},
    {"FUA on write", {kFua, kWrite, 0, 0, 1}, false, Action::kExecute, kWireOk},
    {"FUA on flush", {kFua, kFlush, 0, 0, 0}, false, Action::kExecute, kWireOk},
    {"FUA on trim", {kFua, kTrim, 0, 0, 1}, false, Action::kExecute, kWireOk},
    {"FUA on zeroes", {kFua | kNoHole, kWriteZeroes, 0, 0, 1}, false, Action::kExecute, kWireOk},
    {"NO_HOLE on write", {kNoHole, kWrite, 0, 0, 1}, false, Action::kRefuse, kWireInvalid},
    {"DF on read", {kDf, kRead, 0, 0, 1}, false, Action::kRefuse, kWireInvalid},
    {"DF on write", {kDf, kWrite, 0, 0, 1}, false, Action::kRefuse, kWireInvalid},
    {"REQ_ONE on read", {kReqOne, kRead, 0, 0, 1}, false, Action::kRefuse, kWireInvalid},
    {"FAST_ZERO", {kFastZero, kWriteZeroes, 0, 0, 8192}, false, Action::kExecute, kWireOk},
    {"FAST_ZERO, ragged", {kFastZero, kWriteZeroes, 0, 0, 1}, false, Action::kRefuse, kWireNotSup},
    {"FAST_ZERO, no hole",
     {kFastZero | kNoHole, kWriteZeroes, 0, 0, 4096},
     false,
     Action::kRefuse,
     kWireNotSup},
    {"PAYLOAD_LEN on write", {kPayloadLen, kWrite, 0, 0, 1}, false, Action::kRefuse, kWireInvalid},
    {"unknown flag on flush", {1u << 15, kFlush, 0, 0, 0}, false, Action::kRefuse, kWireInvalid},
    {"CACHE", {0, kCache, 0, 0, 1u << 30}, true, Action::kExecute, kWireOk},
    {"CACHE past the end", {0, kCache, 0, 1, 1u << 30}, false, Action::kRefuse, kWireInvalid},
    {"BLOCK_STATUS", {0, kBlockStatus, 0, 0, 1}, false, Action::kRefuse, kWireInvalid},
    {"RESIZE", {0, 8, 0, 0, 1}, false, Action::kRefuse, kWireInvalid},
    {"command 255", {0, 255, 0, 0, UINT32_MAX}, false, Action::kRefuse, kWireInvalid},
    {"command 65535", {0xffff, 65535, 0, 0, 0}, true, Action::kRefuse, kWireInvalid},
};

TEST_CASE("the verdict on every kind of request") {
  for (const Row& row : kRows) {
    CAPTURE(row.name);
    const Verdict verdict = Validate(row.request, ExportLimits{kSize, row.read_only});
    CHECK(verdict.action == row.action);
    CHECK(verdict.error == row.error);
    CHECK((verdict.reason[0] != '\0') == (row.action != Action::kExecute));
  }
}

struct NegotiatedRow {
  const char* name;
  Request request;
  ReplyStyle style;
  size_t contexts;
  uint32_t min_block;
  Action action;
  WireError error;
};

constexpr ReplyStyle kStructured = ReplyStyle::kStructured;
constexpr ReplyStyle kExtended = ReplyStyle::kExtended;
constexpr uint64_t kTiB = uint64_t{1} << 40;

const NegotiatedRow kNegotiatedRows[] = {
    {"DF", {kDf, kRead, 0, 0, 32u << 20}, kStructured, 0, 1, Action::kExecute, kWireOk},
    {"status", {0, kBlockStatus, 0, 0, 1}, kStructured, 1, 1, Action::kExecute, kWireOk},
    {"REQ_ONE", {kReqOne, kBlockStatus, 0, 0, 1}, kStructured, 1, 1, Action::kExecute, kWireOk},
    {"no context", {0, kBlockStatus, 0, 0, 1}, kExtended, 0, 1, Action::kRefuse, kWireInvalid},
    {"status of nothing",
     {0, kBlockStatus, 0, 0, 0},
     kExtended,
     1,
     1,
     Action::kRefuse,
     kWireInvalid},
    {"status too far",
     {0, kBlockStatus, 0, 1, kSize},
     kExtended,
     1,
     1,
     Action::kRefuse,
     kWireInvalid},
    {"compact PAYLOAD_LEN",
     {kPayloadLen, kBlockStatus, 0, 0, 12},
     kStructured,
     1,
     1,
     Action::kRefuse,
     kWireInvalid},
    {"payload of one context",
     {kPayloadLen, kBlockStatus, 0, 0, 12},
     kExtended,
     1,
     1,
     Action::kExecute,
     kWireOk},
    {"payload of none",
     {kPayloadLen, kBlockStatus, 0, 0, 8},
     kExtended,
     1,
     1,
     Action::kRefuse,
     kWireInvalid},
    {"odd payload",
     {kPayloadLen, kBlockStatus, 0, 0, 13},
     kExtended,
     1,
     1,
     Action::kRefuse,
     kWireInvalid},
    {"payload of too many",
     {kPayloadLen, kBlockStatus, 0, 0, 8 + 4 * 17},
     kExtended,
     1,
     1,
     Action::kRefuse,
     kWireInvalid},
    {"payload not offered",
     {kPayloadLen, kBlockStatus, 0, 0, 12},
     kExtended,
     0,
     1,
     Action::kRefuse,
     kWireInvalid},
    {"write", {kPayloadLen, kWrite, 0, 0, 1}, kExtended, 0, 1, Action::kExecute, kWireOk},
    {"write without PAYLOAD_LEN", {0, kWrite, 0, 0, 1}, kExtended, 0, 1, Action::kExecute, kWireOk},
    {"payload of 1 TiB",
     {kPayloadLen, kWrite, 0, 0, kTiB},
     kExtended,
     0,
     1,
     Action::kClose,
     kWireInvalid},
    {"payload of an unknown command",
     {kPayloadLen, 99, 0, 0, 100},
     kExtended,
     0,
     1,
     Action::kRefuse,
     kWireInvalid},
    {"and too long", {kPayloadLen, 99, 0, 0, kTiB}, kExtended, 0, 1, Action::kClose, kWireInvalid},
    {"payload of a read",
     {kPayloadLen, kRead, 0, 0, 100},
     kExtended,
     0,
     1,
     Action::kRefuse,
     kWireInvalid},
    {"read of 1 TiB", {0, kRead, 0, 0, kTiB}, kExtended, 0, 1, Action::kRefuse, kWireOverflow},
    {"trim that wraps",
     {0, kTrim, 0, 4096, UINT64_MAX},
     kExtended,
     0,
     1,
     Action::kRefuse,
     kWireInvalid},
    {"zeroes that wrap",
     {0, kWriteZeroes, 0, 4096, UINT64_MAX},
     kExtended,
     0,
     1,
     Action::kRefuse,
     kWireNoSpace},
    {"whole blocks", {0, kRead, 0, 4096, 8192}, kStructured, 0, 4096, Action::kExecute, kWireOk},
    {"half a block", {0, kRead, 0, 0, 512}, kStructured, 0, 4096, Action::kRefuse, kWireInvalid},
    {"between blocks",
     {0, kTrim, 0, 512, 4096},
     kStructured,
     0,
     4096,
     Action::kRefuse,
     kWireInvalid},
    {"half a block written",
     {0, kWrite, 0, 0, 512},
     kExtended,
     0,
     4096,
     Action::kRefuse,
     kWireInvalid},
    {"status of half a block",
     {0, kBlockStatus, 0, 0, 512},
     kStructured,
     1,
     4096,
     Action::kRefuse,
     kWireInvalid},
    {"flush with junk", {0, kFlush, 0, 7, 7}, kStructured, 0, 4096, Action::kExecute, kWireOk},
};

TEST_CASE("what negotiation changes about the verdict") {
  for (const NegotiatedRow& row : kNegotiatedRows) {
    CAPTURE(row.name);
    const ExportLimits limits{kSize, false, row.style, row.contexts, row.min_block};
    const Verdict verdict = Validate(row.request, limits);
    CHECK(verdict.action == row.action);
    CHECK(verdict.error == row.error);
  }
}

TEST_CASE("an extended request is decoded field by field, and has its own magic") {
  const uint8_t wire[kExtendedRequestBytes] = {
      0x21, 0xe4, 0x1c, 0x71, 0x00, 0x21, 0x00, 0x07, 1,    2,    3, 4, 5, 6, 7, 8,
      0x01, 0x02, 3,    4,    5,    6,    7,    8,    0x0a, 0x0b, 1, 2, 3, 4, 5, 6};
  Request request;
  REQUIRE(DecodeRequest(wire, ReplyStyle::kExtended, &request));
  CHECK(request.flags == 0x21);
  CHECK(request.type == kBlockStatus);
  CHECK(std::memcmp(&request.cookie, wire + 8, 8) == 0);
  CHECK(request.offset == 0x0102030405060708);
  CHECK(request.length == 0x0a0b010203040506);
  CHECK_FALSE(DecodeRequest(wire, ReplyStyle::kStructured, &request));
}

const Request kAsked = {0, kRead, kCookie, 0x4000, 4096};

TEST_CASE("replies, byte by byte") {
  uint8_t to[kMaxReplyHeaderBytes];
  CHECK(PutSimpleReply(to, kWireNoSpace, kCookie) == 16);
  CHECK(Hex(to, 16) == "674466980000001c1122334455667788");

  CHECK(PutDataChunk(to, kStructured, kAsked, 0x010203, 4096, false) == 28);
  CHECK(Hex(to, 28) ==
        "668e33ef00000001112233445566778800001008"
        "0000000000010203");
  CHECK(PutDataChunk(to, kStructured, kAsked, 0, 1, true) == ReadHeaderBytes(kStructured));
  CHECK(Hex(to, 8) == "668e33ef00010001");

  CHECK(PutHoleChunk(to, kStructured, kAsked, 0x010203, 0x10000, true) == 32);
  CHECK(Hex(to, 32) ==
        "668e33ef0001000211223344556677880000000c"
        "000000000001020300010000");

  CHECK(PutNoneChunk(to, kStructured, kAsked) == 20);
  CHECK(Hex(to, 20) == "668e33ef00010000112233445566778800000000");

  CHECK(PutErrorChunk(to, kStructured, kAsked, kWireIo, "no") == 28);
  CHECK(Hex(to, 28) ==
        "668e33ef0001800111223344556677880000000800000005"
        "00026e6f");

  const StatusExtent extents[] = {{0x20000, 3}, {0x1000, 0}};
  CHECK(PutStatusChunk(to, kStructured, kAsked, 9, extents, false) == 40);
  CHECK(Hex(to, 40) ==
        "668e33ef00000005112233445566778800000014"
        "0000000900020000000000030000100000000000");
}

TEST_CASE("extended replies, byte by byte") {
  uint8_t to[kMaxReplyHeaderBytes];
  CHECK(PutDataChunk(to, kExtended, kAsked, 0x4200, 512, true) == ReadHeaderBytes(kExtended));
  CHECK(Hex(to, 40) ==
        "6e8a278c0001000111223344556677880000000000004000"
        "00000000000002080000000000004200");
  CHECK(PutHoleChunk(to, kExtended, kAsked, 0x4000, 0x1000, false) == 44);
  CHECK(Hex(to, 44) ==
        "6e8a278c0000000211223344556677880000000000004000"
        "000000000000000c000000000000400000001000");
  CHECK(PutNoneChunk(to, kExtended, kAsked) == 32);
  CHECK(Hex(to, 32) == "6e8a278c00010000112233445566778800000000000040000000000000000000");
  CHECK(PutErrorChunk(to, kExtended, kAsked, kWireIo, "no") == 40);
  CHECK(Hex(to + 24, 16) == "00000000000000080000000500026e6f");
  const StatusExtent extents[] = {{uint64_t{1} << 40, 3}};
  CHECK(PutStatusChunk(to, kExtended, kAsked, 1, extents, true) == 56);
  CHECK(Hex(to, 56) ==
        "6e8a278c0001000611223344556677880000000000004000"
        "00000000000000180000000100000001"
        "00000100000000000000000000000003");
}

TEST_CASE("an error text is cut, never the reply") {
  uint8_t to[kMaxReplyHeaderBytes];
  const std::string text(10000, 'x');
  CHECK(PutErrorChunk(to, kExtended, kAsked, kWireIo, text) == kMaxReplyHeaderBytes);
  CHECK(PutErrorChunk(to, kStructured, kAsked, kWireIo, text) == kMaxReplyHeaderBytes - 12);
  CHECK(LoadBe16(to + 24) == kMaxErrorText);
}

TEST_CASE("engine errors become errors the protocol knows") {
  CHECK(WireErrorOf(Code::kOk) == kWireOk);
  CHECK(WireErrorOf(Code::kNoSpace) == kWireNoSpace);
  CHECK(WireErrorOf(Code::kInvalid) == kWireInvalid);
  CHECK(WireErrorOf(Code::kClosed) == kWireShutdown);
  for (Code code : {Code::kIo, Code::kCorrupt, Code::kPoisoned, Code::kTimeout}) {
    CHECK(WireErrorOf(code) == kWireIo);
  }
}

}  // namespace
}  // namespace flashlun::nbd
