#include "nbd/connection.h"

#include <algorithm>
#include <cinttypes>
#include <cstdio>
#include <cstring>
#include <utility>

namespace flashlun::nbd {
namespace {

// The largest count <= bytes, starting at offset, that ends on a track boundary; 0 when none does.
uint64_t WholeTracks(uint64_t offset, uint64_t bytes) {
  const uint64_t tail = (offset + bytes) % kTrackBytes;
  return bytes > tail ? bytes - tail : 0;
}

}  // namespace

Connection::Connection(Store& store, OpSlot& slot, ConnectionOptions options)
    : store_(store),
      slot_(slot),
      volume_(std::move(options.volume)),
      limits_{volume_.size_bytes(), options.read_only},
      structured_(options.structured_replies),
      channel_(options.fd, std::move(options.leftover), std::move(options.secure)),
      in_flight_(channel_) {}

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
  if (!whole && ReadInline(request, &position, ReadMode::kNoWait)) return;
  if (request.length - position <= kMaxInlineWaitBytes && Alone(0)) {
    ReadInline(request, &position, ReadMode::kBlocking);
    LookForMore();
    return;
  }
  ReadSlowly(request, position);
}

// Whether this client has one request at a time: nothing else is under way, or waits behind the
// `payload` bytes of this one. The connection's thread then waits for the disk itself: handing
// the request over and hearing of its end are two switches of threads, which cost more than an
// NVMe disk's answer takes.
bool Connection::Alone(size_t payload) {
  if (deep_credit_ > 0) {
    --deep_credit_;
    return false;
  }
  return in_flight_.count() == 0 && channel_.available() == payload;
}

// After such a wait, and before the reply: what has arrived meanwhile tells of a client that does
// not wait for replies, which Alone could not see.
void Connection::LookForMore() {
  if (channel_.HasInput()) deep_credit_ = kDeepCredit;
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

// Answers straight into the send buffer. False with kNoWait when the disk has to be waited for at
// *position.
bool Connection::ReadInline(const Request& request, uint32_t* position, ReadMode mode) {
  const size_t header = ReadHeaderBytes(structured_);
  do {
    if (channel_.broken()) return true;  // nobody hears the answer
    const uint32_t bytes = PieceBytes(request, *position);
    uint8_t* to = channel_.Reserve(header + bytes);
    const Status status = volume_.Read(slot_, request.offset + *position, to + header, bytes, mode);
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

// Reads the rest of the request asynchronously, piece by piece with one buffer.
void Connection::ReadSlowly(const Request& request, uint32_t position) {
  if (channel_.broken()) return;  // nobody hears the answer
  // A later piece can be one track longer than the first, which an unaligned start makes shorter.
  const uint32_t left = request.length - position;
  Pending* pending =
      TakeBuffered(request, structured_ ? std::min<size_t>(left, kChunkDataBytes) : size_t{left});
  if (pending != nullptr) StartPiece(pending, position);
}

void Connection::StartPiece(Pending* pending, uint32_t position) {
  const Request& request = pending->request;
  pending->position = position;
  pending->piece_bytes = PieceBytes(request, position);
  const uint64_t offset = request.offset + position;
  if (volume_.ReadAsync(offset, pending->data(), pending->piece_bytes, pending)) return;
  // As many as there may be are under way: this one waits here.
  pending->Done(
      volume_.Read(slot_, offset, pending->data(), pending->piece_bytes, ReadMode::kBlocking));
}

// A piece has been read (or failed).
void Connection::AnswerPiece(Pending* pending) {
  const Request& request = pending->request;
  if (!pending->status.ok()) {
    Answer(request, pending->status);
    in_flight_.Release(pending);
    return;
  }
  const size_t header = ReadHeaderBytes(structured_);
  PutReadHeader(pending->data() - header, request, pending->position, pending->piece_bytes);
  channel_.Append(pending->data() - header, header + pending->piece_bytes);
  uint32_t position = pending->position + pending->piece_bytes;
  if (position < request.length && channel_.stopping()) {
    Answer(request, Status(Code::kClosed, "the server is stopping"));
    position = request.length;
  }
  if (position == request.length || ReadInline(request, &position, ReadMode::kNoWait)) {
    in_flight_.Release(pending);
    return;
  }
  StartPiece(pending, position);
}

// WRITE, TRIM, WRITE_ZEROES, FLUSH --------------------------------------------

// False when the connection ends before the payload is complete.
bool Connection::ServeWrite(const Request& request) {
  const bool whole_blocks = (request.offset | request.length) % kSubBytes == 0;
  if (store_.direct() && whole_blocks && request.length <= kMaxAsyncWriteBytes)
    return ServeDirectWrite(request);
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

// A WRITE that waits for the disk: asynchronous when it can be. The payload is copied out of the
// receive buffer, where it lies as the stream put it: the disk wants it on a page, and later
// requests want the room. Receiving each payload into its own page instead would take two recv per
// request where a batch takes one.
bool Connection::ServeDirectWrite(const Request& request) {
  while (channel_.available() < request.length)
    if (!ReceiveMore()) return false;
  const bool alone = Alone(request.length);
  Pending* pending = TakeBuffered(request, request.length);
  if (pending != nullptr) std::memcpy(pending->data(), channel_.data(), request.length);
  channel_.Consume(request.length);
  if (pending == nullptr) return true;
  const uint8_t* data = pending->data();
  if (!alone && volume_.WriteAsync(request.offset, data, request.length, pending)) return true;
  const Status status = volume_.Write(slot_, request.offset, data, request.length);
  if (alone) LookForMore();
  in_flight_.Release(pending);
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

void Connection::StartFlush(const Request& request) {
  Pending* pending = TakePending(request);
  pending->flushing = true;
  store_.FlushAsync(pending);
}

// In flight -------------------------------------------------------------------

Pending* Connection::TakePending(const Request& request) {
  while (in_flight_.full()) AwaitCompletion();
  return in_flight_.Take(request);
}

// With memory for `bytes`; nullptr when there is none, which has been answered.
Pending* Connection::TakeBuffered(const Request& request, size_t bytes) {
  while (!in_flight_.MayBuffer(bytes)) AwaitCompletion();
  Pending* pending = TakePending(request);
  if (in_flight_.AllocateBuffer(pending, bytes)) return pending;
  AnswerError(request, kWireNoMemory, "no memory for the request");
  in_flight_.Release(pending);
  return nullptr;
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
    } else if (pending->status.ok() && pending->request.fua() && !pending->flushing) {
      pending->flushing = true;  // the write is there; now it is made durable
      store_.FlushAsync(pending);
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
