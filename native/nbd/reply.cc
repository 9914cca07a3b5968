#include "nbd/reply.h"

#include <algorithm>

namespace flashlun::nbd {
namespace {

size_t PutChunkHeader(uint8_t* to, uint16_t flags, uint16_t type, uint64_t cookie,
                      uint32_t length) {
  StoreBe32(to, kStructuredReplyMagic);
  StoreBe16(to + 4, flags);
  StoreBe16(to + 6, type);
  std::memcpy(to + 8, &cookie, sizeof cookie);
  StoreBe32(to + 16, length);
  return kStructuredHeaderBytes;
}

}  // namespace

size_t PutSimpleReply(uint8_t* to, WireError error, uint64_t cookie) {
  StoreBe32(to, kSimpleReplyMagic);
  StoreBe32(to + 4, error);
  std::memcpy(to + 8, &cookie, sizeof cookie);
  return kSimpleReplyBytes;
}

size_t PutDataChunk(uint8_t* to, uint64_t cookie, uint64_t offset, uint32_t data_bytes, bool last) {
  PutChunkHeader(to, last ? kReplyDone : uint16_t{0}, kChunkOffsetData, cookie,
                 data_bytes + static_cast<uint32_t>(kOffsetDataBytes));
  StoreBe64(to + kStructuredHeaderBytes, offset);
  return kStructuredHeaderBytes + kOffsetDataBytes;
}

size_t PutNoneChunk(uint8_t* to, uint64_t cookie) {
  return PutChunkHeader(to, kReplyDone, kChunkNone, cookie, 0);
}

size_t PutErrorChunk(uint8_t* to, WireError error, uint64_t cookie, std::string_view text) {
  const size_t text_bytes = std::min(text.size(), kMaxErrorText);
  const size_t length = kErrorChunkBytes + text_bytes;
  PutChunkHeader(to, kReplyDone, kChunkError, cookie, static_cast<uint32_t>(length));
  uint8_t* body = to + kStructuredHeaderBytes;
  StoreBe32(body, error);
  StoreBe16(body + 4, static_cast<uint16_t>(text_bytes));
  std::memcpy(body + kErrorChunkBytes, text.data(), text_bytes);
  return kStructuredHeaderBytes + length;
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
