// CRC-32C (Castagnoli), for everything the store writes about itself. SSE4.2 where the CPU has it,
// a table elsewhere.
#pragma once

#include <cstddef>
#include <cstdint>

namespace flashlun {

// Continues `seed` (0 to begin) over len bytes. Crc32c(Crc32c(0, a), b) == Crc32c(0, ab).
uint32_t Crc32c(uint32_t seed, const void* data, size_t len);

}  // namespace flashlun
