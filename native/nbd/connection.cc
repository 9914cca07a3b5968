#include "nbd/connection.h"

#include <algorithm>
#include <cinttypes>
#include <cstdio>
#include <utility>

namespace flashlun::nbd {
namespace {

// The largest count <= bytes, starting at offset, that ends on a track boundary; 0 when none does.
uint64_t WholeTracks(uint64_t offset, uint64_t bytes) {
  const uint64_t tail = (offset + bytes) % kTrackBytes;
  return bytes > tail ? bytes - tail : 0;
}

}  // namespace

Connection::Connection(Store& store, SlowPool& slow_pool, OpSlot& slot, ConnectionOptions options)
    : store_(store),
      slow_pool_(slow_pool),
      slot_(slot),
      volume_(std::move(options.volume)),
      limits_{volume_.size_bytes(), options.read_only},
      structured_(options.structured_replies),
      channel_(options.fd, std::move(options.leftover)),
      in_flight_(channel_, volume_) {}

CloseReport Connection::Run() {
  in_flight_.BindToThisThread();
  while (ReceiveMore() && ServeBuffered()) continue;
  while (in_flight_.count() > 0) AwaitCompletion();
  channel_.Flush();
  volume_ = Volume();  // lingering must not keep it attached
  const CloseReason reason = report_.reason;
  if (reason == CloseReason::kProtocol || reason == CloseReason::kStopped) channel_.Linger();
  channel_.Close();
  report_.bytes_in = channel_.bytes_in();
  report_.bytes_out = channel_.bytes_out();
  return report_;
}

bool Connection::End(CloseReason reason, std::string detail) {
  report_.reason = reason;
  report_.detail = std::move(detail);
  return false;
}

// Waits for more bytes. Replies leave first, and those of requests that complete meanwhile too.
bool Connection::ReceiveMore() {
  for (;;) {
    if (!channel_.Flush()) return End(CloseReason::kIo, channel_.error());
    if (in_flight_.has_completed()) {
      AnswerCompleted();
      continue;
    }
    if (channel_.stopping()) return End(CloseReason::kStopped, "");
    switch (channel_.Receive(in_flight_.count() > 0)) {
      case Channel::Event::kData:
        return true;
      case Channel::Event::kWoken:
        break;
      case Channel::Event::kEof:
        // Stop also shows as an end of file.
        return End(channel_.stopping() ? CloseReason::kStopped : CloseReason::kEof, "");
      case Channel::Event::kBroken:
        return End(CloseReason::kIo, channel_.error());
    }
  }
}

// Executes every complete request that is buffered. False when the connection ends.
bool Connection::ServeBuffered() {
  while (channel_.available() >= kRequestBytes) {
    if (!MayGoOn()) return false;
    Request request;
    if (!DecodeRequest(channel_.data(), &request)) {
      return End(CloseReason::kProtocol, "bad request magic");
    }
    channel_.Consume(kRequestBytes);
    report_.requests++;
    if (!Serve(request)) return false;
  }
  return true;
}

// Before each request: thousands fit into the buffer, each of which can take seconds. Those not
// begun need no answer.
bool Connection::MayGoOn() {
  if (channel_.broken()) return End(CloseReason::kIo, channel_.error());
  if (channel_.stopping()) return End(CloseReason::kStopped, "");
  return true;
}

bool Connection::Serve(const Request& request) {
  const Verdict verdict = Validate(request, limits_);
  if (verdict.action != Action::kExecute) return Refuse(request, verdict);
  switch (request.type) {
    case kRead:
      ServeRead(request);
      return true;
    case kWrite:
      return ServeWrite(request);
    case kTrim:
    case kWriteZeroes:
      ServeRange(request);
      return true;
    case kFlush:
      volume_.CountFlush();
      StartFlush(request);
      return true;
    default:
      return End(CloseReason::kDisconnect, "");  // Validate lets nothing else through
  }
}

bool Connection::Refuse(const Request& request, const Verdict& verdict) {
  if (verdict.action == Action::kClose) {
    return End(CloseReason::kProtocol,
               std::string(CommandName(request.type)) + ": " + verdict.reason);
  }
  if (request.type == kWrite && !DrainPayload(request.length)) return false;
  AnswerError(request, verdict.error, verdict.reason);
  return true;
}

// READ ------------------------------------------------------------------------

void Connection::ServeRead(const Request& request) {
  if (request.length == 0 && structured_) {
    channel_.Commit(PutNoneChunk(channel_.Reserve(kMaxReplyHeaderBytes), request.cookie));
    return;
  }
  uint32_t position = 0;
  // A simple reply says OK before its data and cannot take it back, so a long one is read whole,
  // outside the send buffer.
  const bool whole = !structured_ && request.length > kChunkDataBytes;
  if (whole || !ReadCached(request, &position)) ReadSlowly(request, position);
}

// Bytes of the next piece of a READ. Pieces end on track boundaries.
uint32_t Connection::PieceBytes(const Request& request, uint32_t position) const {
  const uint32_t left = request.length - position;
  if (!structured_ || left <= kChunkDataBytes) return left;
  return static_cast<uint32_t>(WholeTracks(request.offset + position, kChunkDataBytes));
}

size_t Connection::PutReadHeader(uint8_t* to, const Request& request, uint32_t position,
                                 uint32_t bytes) {
  if (!structured_) return PutSimpleReply(to, kWireOk, request.cookie);
  const bool last = position + bytes == request.length;
  return PutDataChunk(to, request.cookie, request.offset + position, bytes, last);
}

// Answers from the page cache, straight into the send buffer. False when the disk has to be waited
// for at *position.
bool Connection::ReadCached(const Request& request, uint32_t* position) {
  const size_t header = ReadHeaderBytes(structured_);
  do {
    if (channel_.broken()) return true;  // nobody hears the answer
    const uint32_t bytes = PieceBytes(request, *position);
    uint8_t* to = channel_.Reserve(header + bytes);
    const Status status =
        volume_.Read(slot_, request.offset + *position, to + header, bytes, ReadMode::kNoWait);
    if (status.code() == Code::kWouldBlock) return false;
    if (!status.ok()) {
      Answer(request, status);
      return true;
    }
    PutReadHeader(to, request, *position, bytes);
    channel_.Commit(header + bytes);
    *position += bytes;
  } while (*position < request.length);
  return true;
}

// Hands the rest of the request to the slow pool, piece by piece with one buffer.
void Connection::ReadSlowly(const Request& request, uint32_t position) {
  const uint32_t bytes = PieceBytes(request, position);
  const size_t header = ReadHeaderBytes(structured_);
  if (channel_.broken()) return;  // nobody hears the answer
  // A later piece can be one track longer than the first, which an unaligned start makes shorter.
  const uint32_t left = request.length - position;
  const size_t capacity =
      header + (structured_ ? std::min<size_t>(left, kChunkDataBytes) : size_t{left});
  while (!in_flight_.MayBuffer(capacity)) AwaitCompletion();
  Pending* pending = TakePending(request);
  if (!in_flight_.AllocateBuffer(pending, capacity)) {
    AnswerError(request, kWireNoMemory, "no memory for the read");
    in_flight_.Release(pending);
    return;
  }
  pending->position = position;
  pending->piece_bytes = bytes;
  pending->header_bytes = static_cast<uint32_t>(header);
  slow_pool_.Submit(pending);
}

// The slow pool has read a piece (or failed).
void Connection::AnswerPiece(Pending* pending) {
  const Request& request = pending->request;
  if (!pending->status.ok()) {
    Answer(request, pending->status);
    in_flight_.Release(pending);
    return;
  }
  PutReadHeader(pending->buffer.get(), request, pending->position, pending->piece_bytes);
  channel_.Append(pending->buffer.get(), pending->header_bytes + pending->piece_bytes);
  uint32_t position = pending->position + pending->piece_bytes;
  if (position < request.length && channel_.stopping()) {
    Answer(request, Status(Code::kClosed, "the server is stopping"));
    position = request.length;
  }
  if (position == request.length || ReadCached(request, &position)) {
    in_flight_.Release(pending);
    return;
  }
  pending->position = position;
  pending->piece_bytes = PieceBytes(request, position);
  slow_pool_.Submit(pending);
}

// WRITE, TRIM, WRITE_ZEROES, FLUSH --------------------------------------------

// False when the connection ends before the payload is complete.
bool Connection::ServeWrite(const Request& request) {
  Status status;
  uint64_t offset = request.offset;
  uint64_t left = request.length;
  while (left > 0) {
    uint64_t piece = std::min<uint64_t>(left, channel_.available());
    // Whole tracks, so that no 4 KiB block is written in two halves.
    if (piece < left) piece = WholeTracks(offset, piece);
    if (piece == 0) {
      if (!ReceiveMore()) return false;
      continue;
    }
    // After an error the rest is only drained.
    if (status.ok()) status = volume_.Write(slot_, offset, channel_.data(), piece);
    channel_.Consume(piece);
    offset += piece;
    left -= piece;
  }
  AnswerDurably(request, status);
  return true;
}

bool Connection::DrainPayload(uint64_t bytes) {
  while (bytes > 0) {
    if (channel_.available() == 0 && !ReceiveMore()) return false;
    const size_t count = std::min<uint64_t>(bytes, channel_.available());
    channel_.Consume(count);
    bytes -= count;
  }
  return true;
}

void Connection::ServeRange(const Request& request) { AnswerDurably(request, RunRange(request)); }

Status Connection::RunRange(const Request& request) {
  const bool zeroes = request.type == kWriteZeroes;
  const bool no_hole = (request.flags & kNoHole) != 0;
  uint64_t offset = request.offset;
  uint64_t left = request.length;
  while (left > 0) {
    const uint64_t piece = left <= kRangePieceBytes ? left : WholeTracks(offset, kRangePieceBytes);
    Status status = zeroes ? volume_.WriteZeroes(slot_, offset, piece, no_hole)
                           : volume_.Trim(slot_, offset, piece);
    if (!status.ok()) return status;
    offset += piece;
    left -= piece;
    unchecked_bytes_ += piece;
    // Also across requests: many of one piece each are as long as one of many pieces.
    if (left > 0 || unchecked_bytes_ >= kRangePieceBytes) status = GoOnWithRange();
    if (left > 0 && !status.ok()) return status;
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

void Connection::StartFlush(const Request& request) { store_.FlushAsync(TakePending(request)); }

// In flight -------------------------------------------------------------------

Pending* Connection::TakePending(const Request& request) {
  while (in_flight_.full()) AwaitCompletion();
  return in_flight_.Take(request);
}

// Waits until at least one request in flight has completed, and answers.
void Connection::AwaitCompletion() {
  channel_.Flush();
  while (!in_flight_.has_completed()) channel_.WaitWake();
  AnswerCompleted();
}

void Connection::AnswerCompleted() {
  while (Pending* pending = in_flight_.TakeCompleted()) {
    if (pending->request.type == kRead) {
      AnswerPiece(pending);
    } else {
      Answer(pending->request, pending->status);
      in_flight_.Release(pending);
    }
  }
}

void Connection::Answer(const Request& request, const Status& status) {
  if (status.ok()) {
    uint8_t* to = channel_.Reserve(kMaxReplyHeaderBytes);
    channel_.Commit(PutSimpleReply(to, kWireOk, request.cookie));
  } else {
    AnswerError(request, WireErrorOf(status.code()), status.message().c_str());
  }
}

void Connection::AnswerError(const Request& request, WireError error, const char* reason) {
  uint8_t* to = channel_.Reserve(kMaxReplyHeaderBytes);
  if (!structured_) {
    channel_.Commit(PutSimpleReply(to, error, request.cookie));
    return;
  }
  char text[kMaxErrorText];
  const int wanted =
      std::snprintf(text, sizeof text, "%s of %" PRIu32 " bytes at %" PRIu64 ": %s",
                    CommandName(request.type), request.length, request.offset, reason);
  const size_t length = std::min<size_t>(static_cast<size_t>(std::max(wanted, 0)), sizeof text - 1);
  channel_.Commit(PutErrorChunk(to, error, request.cookie, {text, length}));
}

}  // namespace flashlun::nbd
