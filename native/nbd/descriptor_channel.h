// Messages with descriptors between two servers of one data directory, over a unix stream socket:
// how connected and listening sockets go from one process to the next. What the messages mean is
// src/takeover's business.
//
//   16 bytes  "FLTO", u16 version, u16 descriptors, u32 length, u32 CRC-32C of the body; native
//             byte order: both ends are on one machine
//   length    body
// The descriptors travel with the header (SCM_RIGHTS). A message that does not check is refused,
// and its descriptors are closed.
//
// Thread safety: one sender and one receiver at a time. All functions block up to `limit`.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "core/status.h"

namespace flashlun::nbd {

inline constexpr uint16_t kHandOverVersion = 1;

struct DescriptorMessage {
  std::vector<uint8_t> body;
  std::vector<int> descriptors;  // the receiver's to close
};

// kClosed: the other end has gone; kTimeout; kLimit: too long, or too many descriptors; kIo.
Status SendMessage(int socket, std::span<const uint8_t> body, std::span<const int> descriptors,
                   std::chrono::milliseconds limit);
// Also kInvalid: not such a message, or of another version; says which.
Result<DescriptorMessage> ReceiveMessage(int socket, std::chrono::milliseconds limit);

// A listening unix socket of this user alone (mode 0600). Nothing unlinks its path by itself.
Result<int> ListenUnix(const std::string& path);
// kNotFound: nobody listens there.
Result<int> ConnectUnix(const std::string& path);

}  // namespace flashlun::nbd
