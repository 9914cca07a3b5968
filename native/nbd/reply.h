// Replies: writes reply headers into memory the caller provides. No I/O, no state.
//
// Without structured replies every request gets a simple reply. With them READ always gets chunks,
// errors get an ERROR chunk with a text, and other successes keep the simple reply, which the
// protocol allows and which is shorter.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "core/status.h"
#include "nbd/request.h"

namespace flashlun::nbd {

// Longest error text we send, of the 4096 bytes allowed.
inline constexpr size_t kMaxErrorText = 200;
// Room that any reply without read data needs.
inline constexpr size_t kMaxReplyHeaderBytes =
    kStructuredHeaderBytes + kErrorChunkBytes + kMaxErrorText;

// Bytes before the data of a READ's reply.
constexpr size_t ReadHeaderBytes(bool structured) {
  return structured ? kStructuredHeaderBytes + kOffsetDataBytes : kSimpleReplyBytes;
}

// All return the number of bytes written to `to`.
size_t PutSimpleReply(uint8_t* to, WireError error, uint64_t cookie);
// An OFFSET_DATA chunk's header for data_bytes of data at the volume's offset; last sets DONE.
size_t PutDataChunk(uint8_t* to, uint64_t cookie, uint64_t offset, uint32_t data_bytes, bool last);
// A NONE chunk with DONE: the end of a structured reply without data.
size_t PutNoneChunk(uint8_t* to, uint64_t cookie);
// An ERROR chunk with DONE. The text is cut to kMaxErrorText.
size_t PutErrorChunk(uint8_t* to, WireError error, uint64_t cookie, std::string_view text);

// The error a client is told for an engine status.
WireError WireErrorOf(Code code);

}  // namespace flashlun::nbd
