#include "nbd/reply.h"

#include <algorithm>

namespace flashlun::nbd {
namespace {

size_t PutChunkHeader(uint8_t* to, ReplyStyle style, const Request& request, bool last,
                      uint16_t type, uint64_t length) {
  const bool extended = style == ReplyStyle::kExtended;
  StoreBe32(to, extended ? kExtendedReplyMagic : kStructuredReplyMagic);
  StoreBe16(to + 4, last ? kReplyDone : uint16_t{0});
  StoreBe16(to + 6, type);
  std::memcpy(to + 8, &request.cookie, sizeof request.cookie);
  if (extended) {
    StoreBe64(to + 16, request.offset);
    StoreBe64(to + 24, length);
  } else {
    StoreBe32(to + 16, static_cast<uint32_t>(length));
  }
  return ChunkHeaderBytes(style);
}

}  // namespace

size_t PutSimpleReply(uint8_t* to, WireError error, uint64_t cookie) {
  StoreBe32(to, kSimpleReplyMagic);
  StoreBe32(to + 4, error);
  std::memcpy(to + 8, &cookie, sizeof cookie);
  return kSimpleReplyBytes;
}

size_t PutDataChunk(uint8_t* to, ReplyStyle style, const Request& request, uint64_t offset,
                    uint32_t data_bytes, bool last) {
  const size_t header = PutChunkHeader(to, style, request, last, kChunkOffsetData,
                                       uint64_t{data_bytes} + kOffsetDataBytes);
  StoreBe64(to + header, offset);
  return header + kOffsetDataBytes;
}

size_t PutHoleChunk(uint8_t* to, ReplyStyle style, const Request& request, uint64_t offset,
                    uint32_t hole_bytes, bool last) {
  const size_t header =
      PutChunkHeader(to, style, request, last, kChunkOffsetHole, kOffsetHoleBytes);
  StoreBe64(to + header, offset);
  StoreBe32(to + header + 8, hole_bytes);
  return header + kOffsetHoleBytes;
}

size_t PutNoneChunk(uint8_t* to, ReplyStyle style, const Request& request) {
  return PutChunkHeader(to, style, request, true, kChunkNone, 0);
}

size_t PutErrorChunk(uint8_t* to, ReplyStyle style, const Request& request, WireError error,
                     std::string_view text) {
  const size_t text_bytes = std::min(text.size(), kMaxErrorText);
  const size_t length = kErrorChunkBytes + text_bytes;
  uint8_t* body = to + PutChunkHeader(to, style, request, true, kChunkError, length);
  StoreBe32(body, error);
  StoreBe16(body + 4, static_cast<uint16_t>(text_bytes));
  std::memcpy(body + kErrorChunkBytes, text.data(), text_bytes);
  return ChunkHeaderBytes(style) + length;
}

size_t PutStatusChunk(uint8_t* to, ReplyStyle style, const Request& request, uint32_t context,
                      std::span<const StatusExtent> extents, bool last) {
  const bool extended = style == ReplyStyle::kExtended;
  const size_t bytes = StatusChunkBytes(style, extents.size());
  uint8_t* body = to + PutChunkHeader(to, style, request, last,
                                      extended ? kChunkBlockStatusExt : kChunkBlockStatus,
                                      bytes - ChunkHeaderBytes(style));
  StoreBe32(body, context);
  body += 4;
  if (extended) {
    StoreBe32(body, static_cast<uint32_t>(extents.size()));
    body += 4;
  }
  for (const StatusExtent& extent : extents) {
    if (extended) {
      StoreBe64(body, extent.length);
      StoreBe64(body + 8, extent.flags);
      body += 16;
    } else {
      StoreBe32(body, static_cast<uint32_t>(extent.length));
      StoreBe32(body + 4, extent.flags);
      body += 8;
    }
  }
  return bytes;
}

WireError WireErrorOf(Code code) {
  switch (code) {
    case Code::kOk:
      return kWireOk;
    case Code::kInvalid:
      return kWireInvalid;
    case Code::kNoSpace:
      return kWireNoSpace;
    case Code::kClosed:
      return kWireShutdown;
    case Code::kWouldBlock:
    case Code::kNotFound:
    case Code::kExists:
    case Code::kBusy:
    case Code::kLimit:
    case Code::kLocked:
    case Code::kCorrupt:
    case Code::kIo:
    case Code::kPoisoned:
    case Code::kTimeout:
      return kWireIo;
  }
  return kWireIo;
}

}  // namespace flashlun::nbd
