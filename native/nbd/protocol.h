// The NBD wire format of the transmission phase: numbers, structs and big-endian helpers. No logic.
//
// Source: doc/proto.md of NetworkBlockDevice/nbd, and its branch extension-ext-header for the
// extended headers. The handshake is TypeScript (src/nbd); it has its own numbers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace flashlun::nbd {

inline constexpr uint32_t kRequestMagic = 0x25609513;
inline constexpr uint32_t kSimpleReplyMagic = 0x67446698;
inline constexpr uint32_t kStructuredReplyMagic = 0x668e33ef;
inline constexpr uint32_t kExtendedRequestMagic = 0x21e41c71;
inline constexpr uint32_t kExtendedReplyMagic = 0x6e8a278c;

// magic 4, flags 2, type 2, cookie 8, offset 8, length 4
inline constexpr size_t kRequestBytes = 28;
// The same with a length of 8.
inline constexpr size_t kExtendedRequestBytes = 32;
// magic 4, error 4, cookie 8
inline constexpr size_t kSimpleReplyBytes = 16;
// magic 4, flags 2, type 2, cookie 8, length 4
inline constexpr size_t kStructuredHeaderBytes = 20;
// magic 4, flags 2, type 2, cookie 8, offset 8, length 8
inline constexpr size_t kExtendedHeaderBytes = 32;
// What an OFFSET_DATA chunk carries before its data.
inline constexpr size_t kOffsetDataBytes = 8;
// OFFSET_HOLE: offset 8, size 4.
inline constexpr size_t kOffsetHoleBytes = 12;
// ERROR: error 4, message length 2.
inline constexpr size_t kErrorChunkBytes = 6;
// The payload of a BLOCK_STATUS: effect length 8, then 4 for each context.
inline constexpr size_t kStatusPayloadBytes = 8;
inline constexpr size_t kContextIdBytes = 4;

enum Command : uint16_t {
  kRead = 0,
  kWrite = 1,
  kDisconnect = 2,
  kFlush = 3,
  kTrim = 4,
  kCache = 5,
  kWriteZeroes = 6,
  kBlockStatus = 7,
};

enum CommandFlag : uint16_t {
  kFua = 1u << 0,
  kNoHole = 1u << 1,
  kDf = 1u << 2,
  kReqOne = 1u << 3,
  kFastZero = 1u << 4,
  kPayloadLen = 1u << 5,  // extended headers only
};

enum TransmissionFlag : uint16_t {
  kHasFlags = 1u << 0,
  kReadOnly = 1u << 1,
  kSendFlush = 1u << 2,
  kSendFua = 1u << 3,
  kSendTrim = 1u << 5,
  kSendWriteZeroes = 1u << 6,
  kSendDf = 1u << 7,
  kCanMultiConn = 1u << 8,
  kSendCache = 1u << 10,
  kSendFastZero = 1u << 11,
  kBlockStatusPayload = 1u << 12,
};

// How a connection's requests and replies look; agreed in negotiation, fixed for its life.
enum class ReplyStyle : uint8_t { kSimple, kStructured, kExtended };

inline constexpr uint16_t kReplyDone = 1u << 0;

enum ChunkType : uint16_t {
  kChunkNone = 0,
  kChunkOffsetData = 1,
  kChunkOffsetHole = 2,
  kChunkBlockStatus = 5,
  kChunkBlockStatusExt = 6,
  kChunkError = (1u << 15) + 1,
};

// The only values an error field may have on the wire.
enum WireError : uint32_t {
  kWireOk = 0,
  kWirePermission = 1,  // EPERM
  kWireIo = 5,          // EIO
  kWireNoMemory = 12,   // ENOMEM
  kWireInvalid = 22,    // EINVAL
  kWireNoSpace = 28,    // ENOSPC
  kWireOverflow = 75,   // EOVERFLOW
  kWireNotSup = 95,     // ENOTSUP: FAST_ZERO only
  kWireShutdown = 108,  // ESHUTDOWN
};

inline uint16_t LoadBe16(const uint8_t* from) {
  return static_cast<uint16_t>((uint16_t{from[0]} << 8) | from[1]);
}

inline uint32_t LoadBe32(const uint8_t* from) {
  uint32_t value;
  std::memcpy(&value, from, sizeof value);
  return __builtin_bswap32(value);
}

inline uint64_t LoadBe64(const uint8_t* from) {
  uint64_t value;
  std::memcpy(&value, from, sizeof value);
  return __builtin_bswap64(value);
}

inline void StoreBe16(uint8_t* to, uint16_t value) {
  to[0] = static_cast<uint8_t>(value >> 8);
  to[1] = static_cast<uint8_t>(value);
}

inline void StoreBe32(uint8_t* to, uint32_t value) {
  value = __builtin_bswap32(value);
  std::memcpy(to, &value, sizeof value);
}

inline void StoreBe64(uint8_t* to, uint64_t value) {
  value = __builtin_bswap64(value);
  std::memcpy(to, &value, sizeof value);
}

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the helpers above swap always");

}  // namespace flashlun::nbd
