// Limits of TLS, each with its reason.
#pragma once

#include <cstddef>
#include <cstdint>

#include "nbd/limits.h"

namespace flashlun::tls {

// Most plaintext of a record (RFC 8446 section 5.1).
inline constexpr size_t kRecordBytes = 16u << 10;
// A record's header, tag, padding and the key update that may precede it.
inline constexpr size_t kRecordOverheadBytes = 1u << 10;

// Ciphertext that is taken from the socket at a time: as much as without TLS.
inline constexpr size_t kInputBytes = nbd::kReceiveBytes;
static_assert(kInputBytes >= 2 * (kRecordBytes + kRecordOverheadBytes), "a record always fits");

// Ciphertext that is sent at a time: 32 replies of 4 KiB leave in one send, and it stays in L2
// between encryption and the copy to the socket.
inline constexpr size_t kOutputBytes = 160u << 10;
static_assert(kOutputBytes >= 2 * (kRecordBytes + kRecordOverheadBytes), "records always fit");

// AES-GCM keeps its margin for 2^24.5 records of a key (RFC 8446 section 5.5), which are 380 GiB: a
// guest reads that in a day. Keys are changed well before.
inline constexpr uint64_t kRekeyRecords = uint64_t{1} << 23;

// Entries of a file of pre-shared keys; and of one key, what TLS 1.3 takes (OpenSSL).
inline constexpr size_t kMaxPskEntries = 4096;
inline constexpr size_t kMaxPskBytes = 256;
inline constexpr size_t kMinPskBytes = 16;
// RFC 4279 wants at least 128 octets to be possible; OpenSSL's TLS 1.2 takes 256 at most.
inline constexpr size_t kMaxPskIdentityBytes = 128;

// PEM text of one file of credentials.
inline constexpr size_t kMaxPemBytes = 1u << 20;

}  // namespace flashlun::tls
