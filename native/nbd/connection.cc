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

Kind KindOf(const Request& request) {
  switch (request.type) {
    case kRead:
      return Kind::kRead;
    case kWrite:
      return Kind::kWrite;
    case kFlush:
      return Kind::kFlush;
    case kTrim:
      return Kind::kTrim;
    case kWriteZeroes:
      return Kind::kWriteZeroes;
    default:
      return Kind::kOther;
  }
}

}  // namespace

Connection::Connection(Store& store, OpSlot& slot, ConnectionOptions options)
    : store_(store),
      slot_(slot),
      volume_(options.volume),
      limits_{volume_.size_bytes(), options.read_only},
      structured_(options.structured_replies),
      channel_(options.fd, std::move(options.leftover), std::move(options.unsent), options.stats),
      in_flight_(channel_, *options.stats),
      held_(channel_, *options.stats),
      settings_(std::move(options)) {}

CloseReport Connection::Run() {
  in_flight_.BindToThisThread();
  channel_.BeginInterrupts();
  const bool in_step = DrainPayload(std::exchange(settings_.drain_bytes, uint64_t{0}));
  while (in_step && ServeBuffered() && ReceiveMore()) continue;
  FinishInFlight();
  channel_.Flush();
  channel_.EndInterrupts();
  held_.Unwatch(volume_);
  volume_ = Volume();  // lingering must not keep it attached
  report_.requests = settings_.stats->all_requests();
  if (parked() && channel_.broken()) End(CloseReason::kIo, channel_.error());
  if (!parked()) settings_.volume = Volume();
  report_.bytes_in = settings_.stats->bytes_in.load();
  report_.bytes_out = settings_.stats->bytes_out.load();
  if (parked()) return report_;
  DropHeld();
  if (fenced_) End(CloseReason::kFenced, "the client is gone and another one has come");
  const CloseReason reason = report_.reason;
  if (reason == CloseReason::kProtocol || reason == CloseReason::kStopped) channel_.Linger();
  channel_.Close();
  return report_;
}

void Connection::Fence() {
  fenced_ = true;
  channel_.Cut();
}

// What was begun ends. Held requests have not begun: they are for whoever goes on, or wait for the
// thaw when the client said DISC, which asks for all of them; any other end drops them.
void Connection::FinishInFlight() {
  if (!parked() && report_.reason != CloseReason::kDisconnect) DropHeld();
  while (in_flight_.count() > (parked() ? held_.count() : 0)) AwaitCompletion();
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
    if (held_.thawed()) {
      RunHeld();
      continue;
    }
    if (!MayGoOn()) return false;
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
    Add(settings_.stats->requests[static_cast<size_t>(KindOf(request))], 1);
    settings_.stats->serving.store(true, std::memory_order_relaxed);
    const bool in_step = Serve(request);
    settings_.stats->serving.store(false, std::memory_order_relaxed);
    if (!in_step) return false;
  }
  return true;
}

// Before each request: thousands fit into the buffer, each of which can take seconds. Those not
// begun need no answer.
bool Connection::MayGoOn() {
  if (channel_.broken()) return End(CloseReason::kIo, channel_.error());
  if (channel_.stopping()) return End(CloseReason::kStopped, "");
  if (channel_.parking()) return End(CloseReason::kParked, "");
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
      return ServeRange(request);
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
  const bool in_step = request.type != kWrite || DrainPayload(request.length);
  if (in_step || parked()) AnswerError(request, verdict.error, verdict.reason);
  return in_step;
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
  Request rest = request;
  while (rest.length > 0) {
    uint64_t piece = std::min<uint64_t>(rest.length, channel_.available());
    // Whole tracks, so that no 4 KiB block is written in two halves.
    if (piece < rest.length) piece = WholeTracks(rest.offset, piece);
    if (piece == 0) {
      if (!ReceiveMore()) return LeaveWrite(rest, status);
      continue;
    }
    // After an error the rest is only drained.
    if (status.ok()) {
      if (!volume_.BeginHostWrite(slot_)) {  // frozen
        if (held_.MayHold(rest.length)) return HoldWrite(rest);
        if (!AwaitThaw()) return LeaveWrite(rest, status);
        continue;
      }
      status = volume_.Write(slot_, rest.offset, channel_.data(), piece);
      volume_.EndHostWrite(slot_);
    }
    channel_.Consume(piece);
    rest.offset += piece;
    rest.length -= static_cast<uint32_t>(piece);
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
    if (!ReceiveMore()) return LeaveWrite(request, Status::Ok());
  const bool alone = Alone(request.length);
  Pending* pending = TakeBuffered(request, request.length);
  if (pending != nullptr) std::memcpy(pending->data(), channel_.data(), request.length);
  channel_.Consume(request.length);
  if (pending == nullptr) return true;
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
    rest->length -= static_cast<uint32_t>(piece);
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

// Waits until at least one request in flight has completed, and answers. Held ones complete by a
// thaw, or by the client's end or ours, for which they are dropped.
void Connection::AwaitCompletion() {
  channel_.Flush();
  while (!in_flight_.has_completed() && (!held_.thawed() || channel_.parking())) {
    const bool holding = held_.count() > 0;
    if (holding && (channel_.stopping() || channel_.broken())) return DropHeld();
    channel_.WaitWake(holding);
  }
  AnswerCompleted();
  if (held_.thawed() && !channel_.parking()) RunHeld();
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
  Add(settings_.stats->errors, 1);
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
