// Replies: writes reply headers into memory the caller provides. No I/O, no state.
//
//   style        READ, BLOCK_STATUS    errors               other successes
//   kSimple      simple                simple               simple
//   kStructured  chunks                ERROR with a text    simple: allowed, and shorter
//   kExtended    chunks                ERROR with a text    NONE
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "core/block_status.h"
#include "core/status.h"
#include "nbd/request.h"

namespace flashlun::nbd {

// Longest error text we send, of the 4096 bytes allowed.
inline constexpr size_t kMaxErrorText = 200;
// Room that any reply without read data or extents needs.
inline constexpr size_t kMaxReplyHeaderBytes =
    kExtendedHeaderBytes + kErrorChunkBytes + kMaxErrorText;

// Bytes of a chunk's header.
constexpr size_t ChunkHeaderBytes(ReplyStyle style) {
  return style == ReplyStyle::kExtended ? kExtendedHeaderBytes : kStructuredHeaderBytes;
}

// Bytes before the data of a READ's reply.
constexpr size_t ReadHeaderBytes(ReplyStyle style) {
  return style == ReplyStyle::kSimple ? kSimpleReplyBytes
                                      : ChunkHeaderBytes(style) + kOffsetDataBytes;
}

// Bytes of a BLOCK_STATUS chunk.
constexpr size_t StatusChunkBytes(ReplyStyle style, size_t extents) {
  return style == ReplyStyle::kExtended ? kExtendedHeaderBytes + 8 + 16 * extents
                                        : kStructuredHeaderBytes + 4 + 8 * extents;
}

// All return the number of bytes written to `to`.
size_t PutSimpleReply(uint8_t* to, WireError error, uint64_t cookie);
// An OFFSET_DATA chunk's header for data_bytes of data at the volume's offset; last sets DONE.
size_t PutDataChunk(uint8_t* to, ReplyStyle style, const Request& request, uint64_t offset,
                    uint32_t data_bytes, bool last);
// An OFFSET_HOLE chunk: hole_bytes (not 0) at the volume's offset are zero.
size_t PutHoleChunk(uint8_t* to, ReplyStyle style, const Request& request, uint64_t offset,
                    uint32_t hole_bytes, bool last);
// A NONE chunk with DONE: the end of a reply without data.
size_t PutNoneChunk(uint8_t* to, ReplyStyle style, const Request& request);
// An ERROR chunk with DONE. The text is cut to kMaxErrorText.
size_t PutErrorChunk(uint8_t* to, ReplyStyle style, const Request& request, WireError error,
                     std::string_view text);
// A BLOCK_STATUS chunk of one context; there is at least one extent. Structured replies have 32-bit
// lengths, which suffice: so have their requests.
size_t PutStatusChunk(uint8_t* to, ReplyStyle style, const Request& request, uint32_t context,
                      std::span<const StatusExtent> extents, bool last);

// The error a client is told for an engine status.
WireError WireErrorOf(Code code);

}  // namespace flashlun::nbd
