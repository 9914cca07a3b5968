// NBD requests from any bytes: what Validate lets through stays inside the volume and the limits.
#include "core/check.h"
#include "core/limits.h"
#include "fuzz/fuzz.h"
#include "nbd/request.h"

using namespace flashlun;
using namespace flashlun::nbd;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  FuzzInput input(data, size);
  ExportLimits limits;
  limits.size_bytes = input.Take<uint64_t>();
  limits.read_only = (input.Take<uint8_t>() & 1) != 0;
  while (input.left() >= kRequestBytes) {
    const std::vector<uint8_t> wire = input.TakeBytes(kRequestBytes);
    Request request;
    if (!DecodeRequest(wire.data(), &request)) continue;
    FL_CHECK(CommandName(request.type) != nullptr);
    if (Validate(request, limits).action != Action::kExecute) continue;
    if (request.type == kDisconnect || request.type == nbd::kFlush) continue;
    FL_CHECK(request.offset <= limits.size_bytes);
    FL_CHECK(request.length <= limits.size_bytes - request.offset);
    FL_CHECK(request.type == kRead || !limits.read_only);
    const bool payload = request.type == kRead || request.type == kWrite;
    FL_CHECK(!payload || request.length <= kMaxPayloadBytes);
  }
  return 0;
}
