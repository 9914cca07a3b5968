// NBD requests from any bytes: what Validate lets through stays inside the volume and the limits.
#include "core/check.h"
#include "core/limits.h"
#include "fuzz/fuzz.h"
#include "nbd/limits.h"
#include "nbd/request.h"

using namespace flashlun;
using namespace flashlun::nbd;

namespace {

void CheckVerdict(const Request& request, const ExportLimits& limits) {
  FL_CHECK(CommandName(request.type) != nullptr);
  const uint64_t payload = PayloadBytes(request, limits.style);
  const Action action = Validate(request, limits).action;
  // Whatever is not closed can be drained.
  FL_CHECK(action == Action::kClose || request.type == kDisconnect || payload <= kMaxDrainBytes);
  if (action != Action::kExecute) return;
  if (request.type == kDisconnect || request.type == nbd::kFlush) return;
  if (request.type == kBlockStatus && request.has(kPayloadLen)) {
    FL_CHECK(payload > kStatusPayloadBytes);
    FL_CHECK(payload <= kStatusPayloadBytes + kMaxContexts * kContextIdBytes);
    return;
  }
  FL_CHECK(payload == (request.type == kWrite ? request.length : 0));
  FL_CHECK(request.offset <= limits.size_bytes);
  FL_CHECK(request.length <= limits.size_bytes - request.offset);
  FL_CHECK((request.offset | request.length) % limits.min_block == 0);
  const bool reads =
      request.type == kRead || request.type == kCache || request.type == kBlockStatus;
  FL_CHECK(reads || !limits.read_only);
  const bool carries_data = request.type == kRead || request.type == kWrite;
  FL_CHECK(!carries_data || request.length <= kMaxPayloadBytes);
  FL_CHECK(request.type != kBlockStatus || (limits.contexts != 0 && request.length != 0));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  FuzzInput input(data, size);
  ExportLimits limits;
  limits.size_bytes = input.Take<uint64_t>();
  // The kept inputs of before extended headers have 0 or 1 here.
  const auto settings = input.Take<uint8_t>();
  limits.read_only = (settings & 1) != 0;
  limits.style = static_cast<ReplyStyle>((settings >> 1) % 3);
  limits.contexts = settings >> 3 & 3;
  limits.min_block = (settings & 0x20) != 0 ? 4096 : 1;
  const size_t header = RequestBytes(limits.style);
  while (input.left() >= header) {
    const std::vector<uint8_t> wire = input.TakeBytes(header);
    Request request;
    if (DecodeRequest(wire.data(), limits.style, &request)) CheckVerdict(request, limits);
  }
  return 0;
}
