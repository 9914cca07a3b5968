// Crc32c for the fuzz targets: the engine's own, or 0. This definition comes before the one in the
// library, which the linker then leaves out.
#define Crc32c RealCrc32c
#include "core/crc32c.cc"  // NOLINT: the engine's own code under another name
#undef Crc32c

#include "fuzz/fuzz.h"

namespace flashlun {

bool g_checksums = true;

uint32_t Crc32c(uint32_t crc, const void* data, size_t len);
uint32_t Crc32c(uint32_t crc, const void* data, size_t len) {
  return g_checksums ? RealCrc32c(crc, data, len) : 0;
}

}  // namespace flashlun
