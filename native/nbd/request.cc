#include "nbd/request.h"

#include "nbd/limits.h"

namespace flashlun::nbd {
namespace {

constexpr uint16_t kUnknownCommand = 0xffff;

// Flags a command accepts. FUA is accepted on every command once SEND_FUA is advertised (proto.md):
// clients set it on reads and flushes too. kUnknownCommand stands for "no such command".
uint16_t AllowedFlags(uint16_t type) {
  switch (type) {
    case kRead:
    case kWrite:
    case kFlush:
    case kTrim:
      return kFua;
    case kWriteZeroes:
      return kFua | kNoHole;
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

}  // namespace

bool DecodeRequest(const uint8_t* wire, Request* request) {
  if (LoadBe32(wire) != kRequestMagic) return false;
  request->flags = LoadBe16(wire + 4);
  request->type = LoadBe16(wire + 6);
  std::memcpy(&request->cookie, wire + 8, sizeof request->cookie);
  request->offset = LoadBe64(wire + 16);
  request->length = LoadBe32(wire + 24);
  return true;
}

Verdict Validate(const Request& request, const ExportLimits& limits) {
  if (request.type == kDisconnect) return Verdict{};
  if (request.type == kWrite && request.length > kMaxDrainBytes) {
    return Verdict{Action::kClose, kWireInvalid, "payload longer than 64 MiB"};
  }
  const uint16_t allowed = AllowedFlags(request.type);
  if (allowed == kUnknownCommand) return Refuse(kWireInvalid, "unknown command");
  if ((request.flags & ~allowed) != 0)
    return Refuse(kWireInvalid, "flag not valid for the command");
  if (request.type == kFlush) return Verdict{};  // wnbd sends an offset and a length with it
  if (ChangesData(request.type) && limits.read_only) {
    return Refuse(kWirePermission, "the export is read-only");
  }
  const bool has_payload = request.type == kRead || request.type == kWrite;
  if (has_payload && request.length > kMaxPayloadBytes) {
    return Refuse(kWireInvalid, "longer than 32 MiB");
  }
  if (OutOfRange(request, limits.size_bytes)) {
    const bool grows = request.type == kWrite || request.type == kWriteZeroes;
    return Refuse(grows ? kWireNoSpace : kWireInvalid, "beyond the end of the volume");
  }
  return Verdict{};
}

bool IsLimited(uint16_t type) { return type != kFlush && type != kDisconnect; }

uint64_t PayloadToMove(const Request& request) {
  switch (request.type) {
    case kRead:
    case kWrite:
      return request.length;
    case kWriteZeroes:  // which without NO_HOLE only changes the map
      return (request.flags & kNoHole) != 0 ? request.length : 0;
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
    case kWriteZeroes:
      return "WRITE_ZEROES";
    default:
      return "command";
  }
}

}  // namespace flashlun::nbd
