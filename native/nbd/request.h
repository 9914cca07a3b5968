// Request: one decoded NBD request, and the pure function that decides whether it is legal.
//
// The executor (connection.cc) assumes what Validate has checked and never checks again.
#pragma once

#include <cstdint>

#include "core/limits.h"
#include "nbd/protocol.h"

namespace flashlun::nbd {

struct Request {
  uint16_t flags = 0;
  uint16_t type = 0;
  uint64_t cookie = 0;  // the client's 8 bytes as they came; opaque, echoed bit by bit
  uint64_t offset = 0;
  uint64_t length = 0;

  bool has(CommandFlag flag) const { return (flags & flag) != 0; }
  bool fua() const { return has(kFua); }
};

// Bytes of a request's header.
constexpr size_t RequestBytes(ReplyStyle style) {
  return style == ReplyStyle::kExtended ? kExtendedRequestBytes : kRequestBytes;
}

// Reads RequestBytes(style). False when the magic is wrong: the stream cannot be understood any
// more.
bool DecodeRequest(const uint8_t* wire, ReplyStyle style, Request* request);

// What a request may do depends on these; all are fixed for a connection's life.
struct ExportLimits {
  uint64_t size_bytes = 0;
  bool read_only = false;
  ReplyStyle style = ReplyStyle::kSimple;
  size_t contexts = 0;     // metadata contexts that were selected
  uint32_t min_block = 1;  // of offsets and lengths, for who asked for it; a power of two
};

// Bytes that follow the request's header. A WRITE without PAYLOAD_LEN has its payload too, as
// QEMU's server takes it.
uint64_t PayloadBytes(const Request& request, ReplyStyle style);

enum class Action : uint8_t {
  kExecute,  // legal; a length of 0 is a no-op that succeeds
  kRefuse,   // answer `error`; a payload must be drained first
  kClose,    // the payload is too long to drain
};

struct Verdict {
  Action action = Action::kExecute;
  WireError error = kWireOk;
  const char* reason = "";  // for people; static storage
};

// Pure. Order: command, flags, read-only, payload limit, range, alignment. DISC is always legal:
// its fields mean nothing. Of a BLOCK_STATUS with a payload only the payload's length is checked:
// its range comes with it.
Verdict Validate(const Request& request, const ExportLimits& limits);

// Whether a rate limit of requests counts this command. Not FLUSH: a host that waits for its data
// to be safe must not wait for its turn; not DISC, which nobody should be kept from.
bool IsLimited(uint16_t type);
// Bytes that a legal request makes the volume read or write, as a rate limit counts them.
uint64_t PayloadToMove(const Request& request);

// The largest count <= bytes, starting at offset, that ends on a track boundary; 0 when none does.
inline uint64_t WholeTracks(uint64_t offset, uint64_t bytes) {
  const uint64_t tail = (offset + bytes) % kTrackBytes;
  return bytes > tail ? bytes - tail : 0;
}

// The command's name for messages ("READ"), or "command" when unknown.
const char* CommandName(uint16_t type);

}  // namespace flashlun::nbd
