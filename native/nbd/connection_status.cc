// BLOCK_STATUS of a connection: one chunk for each selected context (proto.md "Metadata contexts").
//
// Each context looks at a bounded part of the map (core/block_status.h), so a chunk may end before
// what was asked; the client asks again for the rest, and other requests come in between.
#include <algorithm>
#include <cstring>

#include "nbd/connection.h"
#include "nbd/limits.h"

namespace flashlun::nbd {

static_assert(kMaxContexts <= 32, "a set of contexts is a word");

// False when the connection ends before the payload is complete.
bool Connection::ServeBlockStatus(const Request& request) {
  uint32_t wanted = ~0u;
  Request effective = request;
  if (request.has(kPayloadLen)) {
    if (!ReceiveStatusPayload(&effective, &wanted)) return false;
    if (wanted == 0) {
      AnswerError(effective, kWireInvalid, "a context that was not selected, or one twice");
      return true;
    }
    const Verdict verdict = Validate(effective, limits_);
    if (verdict.action != Action::kExecute) {
      AnswerError(effective, verdict.error, verdict.reason);
      return true;
    }
  }
  AnswerStatus(effective, wanted);
  return true;
}

// Extended headers only: the effect length and the contexts, of which Validate has checked the
// number of bytes. The request becomes the one that it means.
bool Connection::ReceiveStatusPayload(Request* request, uint32_t* wanted) {
  const auto bytes = static_cast<size_t>(request->length);
  while (channel_.available() < bytes)
    if (!ReceiveMore()) return LeavePayload(*request, Status::Ok());
  const uint8_t* payload = channel_.data();
  *wanted = WantedContexts(payload + kStatusPayloadBytes,
                           (bytes - kStatusPayloadBytes) / kContextIdBytes);
  request->length = LoadBe64(payload);
  request->flags = static_cast<uint16_t>(request->flags & ~kPayloadLen);
  channel_.Consume(bytes);
  return true;
}

// A bit for each of contexts_; 0: the ids are not all different ones of them.
uint32_t Connection::WantedContexts(const uint8_t* ids, size_t count) const {
  uint32_t wanted = 0;
  for (size_t i = 0; i < count; ++i) {
    const uint32_t id = LoadBe32(ids + i * kContextIdBytes);
    const auto found = std::find_if(contexts_.begin(), contexts_.end(),
                                    [id](const SelectedContext& each) { return each.id == id; });
    if (found == contexts_.end()) return 0;
    const uint32_t bit = 1u << (found - contexts_.begin());
    if ((wanted & bit) != 0) return 0;
    wanted |= bit;
  }
  return wanted;
}

void Connection::AnswerStatus(const Request& request, uint32_t wanted) {
  size_t left = 0;
  for (size_t i = 0; i < contexts_.size(); ++i) left += wanted >> i & 1;
  for (size_t i = 0; i < contexts_.size() && !channel_.broken(); ++i) {
    if ((wanted >> i & 1) == 0) continue;
    const StatusQuery query{contexts_[i].context, contexts_[i].relationship, request.offset,
                            request.length, request.has(kReqOne) ? size_t{1} : kMaxStatusExtents};
    const Status status = volume_.BlockStatus(slot_, query, &extents_);
    if (!status.ok()) {
      Answer(request, status);
      return;
    }
    uint8_t* to = channel_.Reserve(StatusChunkBytes(style_, extents_.size()));
    channel_.Commit(PutStatusChunk(to, style_, request, contexts_[i].id, extents_, --left == 0));
  }
}

}  // namespace flashlun::nbd
