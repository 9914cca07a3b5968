// What changes a volume: WRITE, TRIM, WRITE_ZEROES, FLUSH. A freeze holds them (hold.cc), parking
// cuts them (park.cc).
#include <algorithm>
#include <cstring>

#include "nbd/connection.h"
#include "nbd/limits.h"

namespace flashlun::nbd {

// False when the connection ends before the payload is complete.
bool Connection::ServeWrite(const Request& request) {
  const bool whole_blocks = (request.offset | request.length) % kSubBytes == 0;
  if (store_.direct() && whole_blocks && request.length <= kMaxAsyncWriteBytes)
    return ServeDirectWrite(request);
  return WriteAsItComes(request);
}

bool Connection::WriteAsItComes(const Request& request) {
  Status status;
  Request rest = request;
  while (rest.length > 0) {
    uint64_t piece = std::min<uint64_t>(rest.length, channel_.available());
    // Whole tracks, so that no 4 KiB block is written in two halves.
    if (piece < rest.length) piece = WholeTracks(rest.offset, piece);
    if (piece == 0) {
      if (!ReceiveMore()) return LeavePayload(rest, status);
      continue;
    }
    // After an error the rest is only drained.
    if (status.ok()) {
      if (!volume_.BeginHostWrite(slot_)) {  // frozen
        if (held_.MayHold(rest.length)) return HoldWrite(rest);
        if (!AwaitThaw()) return LeavePayload(rest, status);
        continue;
      }
      status = volume_.Write(slot_, rest.offset, channel_.data(), piece);
      volume_.EndHostWrite(slot_);
    }
    channel_.Consume(piece);
    rest.offset += piece;
    rest.length -= piece;
  }
  early_.Wrote(request.offset, request.length);
  AnswerDurably(request, status);
  return true;
}

// A WRITE that waits for the disk: asynchronous when it can be. The payload is copied out of the
// receive buffer, where it lies as the stream put it: the disk wants it on a page, and later
// requests want the room. Receiving each payload into its own page instead would take two recv per
// request where a batch takes one.
bool Connection::ServeDirectWrite(const Request& request) {
  while (channel_.available() < request.length)
    if (!ReceiveMore()) return LeavePayload(request, Status::Ok());
  const bool alone = Alone(request.length);
  Pending* pending = TakeBuffered(request, request.length);
  if (pending == nullptr) return WriteAsItComes(request);  // no memory: from where it lies
  std::memcpy(pending->data(), channel_.data(), request.length);
  channel_.Consume(request.length);
  const uint8_t* data = pending->data();
  while (!volume_.BeginHostWrite(slot_)) {  // frozen
    if (held_.MayHold(request.length)) {
      in_flight_.MakeHeld(pending);
      Hold(pending);
      return true;
    }
    if (AwaitThaw()) continue;
    if (parked()) KeepForLater(request, data, request.length);
    in_flight_.Release(pending);
    return false;
  }
  pending->writing = &volume_;
  pending->slot = &slot_;
  if (!alone && volume_.WriteAsync(request.offset, data, request.length, pending)) return true;
  pending->writing = nullptr;
  const Status status = volume_.Write(slot_, request.offset, data, request.length);
  volume_.EndHostWrite(slot_);
  if (alone) LookForMore();
  in_flight_.Release(pending);
  AnswerDurably(request, status);
  return true;
}

bool Connection::DrainPayload(uint64_t bytes) {
  while (bytes > 0) {
    if (channel_.available() == 0 && !ReceiveMore()) {
      if (parked()) settings_.drain_bytes = bytes;
      return false;
    }
    const size_t count = std::min<uint64_t>(bytes, channel_.available());
    channel_.Consume(count);
    bytes -= count;
  }
  return true;
}

// False when the connection ends before the request has.
bool Connection::ServeRange(const Request& request) {
  Request rest = request;
  const Status status = RunRange(&rest);
  if (status.code() != Code::kWouldBlock) {
    AnswerDurably(request, status);
    return true;
  }
  if (!channel_.parking()) {
    HoldRange(rest);
    return true;
  }
  KeepForLater(rest, nullptr, 0);
  return End(CloseReason::kParked, "");
}

// Executes a TRIM or WRITE_ZEROES; *rest becomes what is left of it. kWouldBlock: the volume is
// frozen, or the connection is being parked.
Status Connection::RunRange(Request* rest) {
  const bool zeroes = rest->type == kWriteZeroes;
  const bool no_hole = (rest->flags & kNoHole) != 0;
  while (rest->length > 0) {
    const uint64_t piece = rest->length <= kRangePieceBytes
                               ? rest->length
                               : WholeTracks(rest->offset, kRangePieceBytes);
    if (channel_.parking() || !volume_.BeginHostWrite(slot_)) return Status(Code::kWouldBlock);
    Status status = zeroes ? volume_.WriteZeroes(slot_, rest->offset, piece, no_hole)
                           : volume_.Trim(slot_, rest->offset, piece);
    volume_.EndHostWrite(slot_);
    if (!status.ok()) return status;
    rest->offset += piece;
    rest->length -= piece;
    unchecked_bytes_ += piece;
    // Also across requests: many of one piece each are as long as one of many pieces.
    const bool more = rest->length > 0;
    if (more || unchecked_bytes_ >= kRangePieceBytes) status = GoOnWithRange();
    if (more && !status.ok()) return status;
  }
  return Status::Ok();
}

// Between the pieces of a long range: replies that wait leave, and a client that is gone, or a
// stop, ends it. A TCP client that has closed is seen by the reset that answers a reply, no sooner.
Status Connection::GoOnWithRange() {
  unchecked_bytes_ = 0;
  if (channel_.stopping()) return Status(Code::kClosed, "the server is stopping");
  if (!channel_.Flush() || channel_.PeerGone()) return Status(Code::kClosed, "the client is gone");
  return Status::Ok();
}

// Answers now, or with FUA once the change is durable. Every FUA joins a commit, also that of a
// write in place: the mapping the write relies on may still be a record in memory only (trap T29).
void Connection::AnswerDurably(const Request& request, const Status& status) {
  if (status.ok() && request.fua()) {
    StartFlush(request);
  } else {
    Answer(request, status);
  }
}

void Connection::StartFlush(const Request& request) {
  early_.Flushed();
  if (Alone(0)) {
    channel_.Flush();  // what was answered before does not wait for the disk
    // Parking waits for it: a signal must not reach what brings the data to the disk.
    channel_.EndInterrupts();
    const Status status = store_.Flush();
    channel_.BeginInterrupts();
    LookForMore();
    return Answer(request, status);
  }
  Pending* pending = TakePending(request);
  pending->flushing = true;
  store_.FlushAsync(pending);
}

}  // namespace flashlun::nbd
