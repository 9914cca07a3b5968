// Parking: a connection stops at a boundary between requests, so that somebody else, another
// Connection or another process, goes on with it and the client notices nothing.
//
// What is under way ends and is answered. What cannot end at once is cut: of a long TRIM or
// WRITE_ZEROES, and of a WRITE whose payload is still arriving, the rest becomes a request of its
// own with the same cookie, in front of the bytes that were received behind it. So all that has to
// be handed on is the socket, the bytes received and not executed, the bytes of replies that the
// client has not taken, and what negotiation agreed. No reply is lost or sent twice.
//
// Invariants of a parked connection:
//   every request whose header was consumed is answered, or is in `leftover` again
//   `unsent` begins where the client's stream of replies ends
//   the socket is open in both directions
#pragma once

#include <cstdint>

#include "nbd/request.h"

namespace flashlun::nbd {

// The inverse of DecodeRequest. Writes RequestBytes(style).
void EncodeRequest(const Request& request, ReplyStyle style, uint8_t* wire);

}  // namespace flashlun::nbd
