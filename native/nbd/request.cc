#include "nbd/request.h"

#include <algorithm>
#include <cstring>

#include "nbd/limits.h"

namespace flashlun::nbd {
namespace {

constexpr uint16_t kUnknownCommand = 0xffff;

// Flags a command accepts. FUA is accepted on every command once SEND_FUA is advertised (proto.md):
// clients set it on reads and flushes too. kUnknownCommand stands for "no such command".
uint16_t AllowedFlags(uint16_t type, const ExportLimits& limits) {
  const bool extended = limits.style == ReplyStyle::kExtended;
  switch (type) {
    case kRead:
      return limits.style == ReplyStyle::kSimple ? kFua : kFua | kDf;
    case kWrite:
      return extended ? kFua | kPayloadLen : kFua;
    case kFlush:
    case kTrim:
    case kCache:
      return kFua;
    case kWriteZeroes:
      return kFua | kNoHole | kFastZero;
    case kBlockStatus:
      return extended && limits.contexts != 0 ? kFua | kReqOne | kPayloadLen : kFua | kReqOne;
    default:
      return kUnknownCommand;
  }
}

bool ChangesData(uint16_t type) { return type == kWrite || type == kTrim || type == kWriteZeroes; }

// Written so that offset + length cannot wrap.
bool OutOfRange(const Request& request, uint64_t size_bytes) {
  return request.offset > size_bytes || request.length > size_bytes - request.offset;
}

Verdict Refuse(WireError error, const char* reason) {
  return Verdict{Action::kRefuse, error, reason};
}

Verdict ValidateStatusPayload(uint64_t bytes) {
  if (bytes <= kStatusPayloadBytes || bytes % kContextIdBytes != 0 ||
      bytes > kStatusPayloadBytes + kMaxContexts * kContextIdBytes)
    return Refuse(kWireInvalid, "not a length and contexts");
  return Verdict{};
}

// Only what changes the map alone is fast: no data is written, whatever the length.
bool IsFastZero(const Request& request) {
  return !request.has(kNoHole) && (request.offset | request.length) % kSubBytes == 0;
}

Verdict ValidateRange(const Request& request, const ExportLimits& limits) {
  if (OutOfRange(request, limits.size_bytes)) {
    const bool grows = request.type == kWrite || request.type == kWriteZeroes;
    return Refuse(grows ? kWireNoSpace : kWireInvalid, "beyond the end of the volume");
  }
  if (((request.offset | request.length) & (limits.min_block - 1)) != 0)
    return Refuse(kWireInvalid, "not a multiple of the volume's block size");
  if (request.type == kBlockStatus && request.length == 0)
    return Refuse(kWireInvalid, "nothing to tell of no bytes");
  if (request.type == kWriteZeroes && request.has(kFastZero) && !IsFastZero(request))
    return Refuse(kWireNotSup, "zeroes are fast in whole blocks of 4096 bytes that may be holes");
  return Verdict{};
}

}  // namespace

bool DecodeRequest(const uint8_t* wire, ReplyStyle style, Request* request) {
  const bool extended = style == ReplyStyle::kExtended;
  if (LoadBe32(wire) != (extended ? kExtendedRequestMagic : kRequestMagic)) return false;
  request->flags = LoadBe16(wire + 4);
  request->type = LoadBe16(wire + 6);
  std::memcpy(&request->cookie, wire + 8, sizeof request->cookie);
  request->offset = LoadBe64(wire + 16);
  request->length = extended ? LoadBe64(wire + 24) : LoadBe32(wire + 24);
  return true;
}

uint64_t PayloadBytes(const Request& request, ReplyStyle style) {
  const bool with_length = style == ReplyStyle::kExtended && request.has(kPayloadLen);
  return request.type == kWrite || with_length ? request.length : 0;
}

Verdict Validate(const Request& request, const ExportLimits& limits) {
  if (request.type == kDisconnect) return Verdict{};
  if (PayloadBytes(request, limits.style) > kMaxDrainBytes) {
    return Verdict{Action::kClose, kWireInvalid, "payload longer than 64 MiB"};
  }
  const uint16_t allowed = AllowedFlags(request.type, limits);
  if (allowed == kUnknownCommand) return Refuse(kWireInvalid, "unknown command");
  if ((request.flags & ~allowed) != 0)
    return Refuse(kWireInvalid, "flag not valid for the command");
  if (request.type == kFlush) return Verdict{};  // wnbd sends an offset and a length with it
  if (request.type == kBlockStatus && limits.contexts == 0)
    return Refuse(kWireInvalid, "no metadata context was selected");
  if (request.type == kBlockStatus && request.has(kPayloadLen))
    return ValidateStatusPayload(request.length);
  if (ChangesData(request.type) && limits.read_only) {
    return Refuse(kWirePermission, "the export is read-only");
  }
  const bool carries_data = request.type == kRead || request.type == kWrite;
  if (carries_data && request.length > kMaxPayloadBytes) {
    const bool over = request.type == kRead && limits.style == ReplyStyle::kExtended;
    return Refuse(over ? kWireOverflow : kWireInvalid, "longer than 32 MiB");
  }
  return ValidateRange(request, limits);
}

bool IsLimited(uint16_t type) { return type != kFlush && type != kDisconnect; }

uint64_t PayloadToMove(const Request& request) {
  switch (request.type) {
    case kRead:
    case kWrite:
      return request.length;
    case kWriteZeroes:  // which without NO_HOLE only changes the map
      return request.has(kNoHole) ? request.length : 0;
    case kCache:
      return std::min<uint64_t>(request.length, kMaxPayloadBytes);
    default:
      return 0;
  }
}

const char* CommandName(uint16_t type) {
  switch (type) {
    case kRead:
      return "READ";
    case kWrite:
      return "WRITE";
    case kDisconnect:
      return "DISC";
    case kFlush:
      return "FLUSH";
    case kTrim:
      return "TRIM";
    case kCache:
      return "CACHE";
    case kWriteZeroes:
      return "WRITE_ZEROES";
    case kBlockStatus:
      return "BLOCK_STATUS";
    default:
      return "command";
  }
}

}  // namespace flashlun::nbd
