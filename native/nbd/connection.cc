#include "nbd/connection.h"

#include <algorithm>
#include <cinttypes>
#include <cstdio>
#include <cstring>
#include <utility>

namespace flashlun::nbd {
namespace {

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

Connection::Connection(Store& store, OpSlot& slot, Shares& shares, ConnectionOptions options)
    : store_(store),
      slot_(slot),
      volume_(options.volume),
      limits_{volume_.size_bytes(), options.read_only, options.replies, options.contexts.size(),
              options.min_block},
      style_(options.replies),
      contexts_(options.contexts),
      channel_(options.fd, std::move(options.leftover), std::move(options.unsent), options.stats,
               shares.peer_timeout.load(), std::move(options.secure)),
      in_flight_(channel_, shares.memory, *options.stats),
      turnstile_(shares.throttles.Of(volume_.id()), channel_),
      held_(channel_, *options.stats),
      settings_(std::move(options)) {
  channel_.SetWhileStuck([this](std::chrono::nanoseconds waited) { ShedMemory(waited); });
}

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
  if (parked() && channel_.broken()) End(CloseReason::kIo, channel_.error());
  if (!parked()) settings_.volume = Volume();
  report_.Count(*settings_.stats);
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
    while (early_.any()) {  // the client has its replies
      const EarlyWriteOut::Range range = early_.Take();
      volume_.StartWriteOut(slot_, range.offset, range.length);
    }
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
  const size_t header_bytes = RequestBytes(style_);
  while (channel_.available() >= header_bytes) {
    if (!MayGoOn()) return false;
    Request request;
    if (!DecodeRequest(channel_.data(), style_, &request)) {
      return End(CloseReason::kProtocol, "bad request magic");
    }
    if (in_flight_.full() && !AwaitRoom()) return false;
    channel_.Consume(header_bytes);
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
  if (turnstile_.limited() && !AwaitTurn(request)) return false;
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
    case kBlockStatus:
      return ServeBlockStatus(request);
    case kCache:
      volume_.Prefetch(slot_, request.offset, request.length);
      Answer(request, Status::Ok());
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
  const bool in_step = DrainPayload(PayloadBytes(request, style_));
  if (in_step || parked()) AnswerError(request, verdict.error, verdict.reason);
  return in_step;
}

// Rate limits -----------------------------------------------------------------

// Waits until the volume's and the connection's limits let the request begin. False when the
// connection ends meanwhile.
bool Connection::AwaitTurn(const Request& request) {
  if (!IsLimited(request.type)) return true;
  const uint64_t bytes = PayloadToMove(request);
  if (turnstile_.Enter(bytes).count() == 0) return true;
  const auto begin = std::chrono::steady_clock::now();
  // Nothing that may block happens with a place in the queue.
  for (;;) {
    turnstile_.Leave();
    AnswerCompleted();
    if (held_.thawed() && !channel_.parking()) RunHeld();
    channel_.Flush();
    if (!MayGoOn()) {
      if (parked()) KeepForLater(request, nullptr, 0);  // it waits elsewhere
      return false;
    }
    if (StandInLine(bytes)) break;
  }
  turnstile_.CountDelay(std::chrono::steady_clock::now() - begin);
  return true;
}

// False when something else is to be done first.
bool Connection::StandInLine(uint64_t bytes) {
  for (;;) {
    const std::chrono::nanoseconds wait = turnstile_.Enter(bytes);
    if (wait.count() == 0) return true;
    // Looked for before the pause: a wait inside Flush may have taken their wake.
    if (channel_.broken() || channel_.stopping() || channel_.parking()) return false;
    if (in_flight_.has_completed() || held_.thawed()) return false;
    channel_.Pause(wait);
  }
}

// READ ------------------------------------------------------------------------

void Connection::ServeRead(const Request& request) {
  if (request.length == 0 && style_ != ReplyStyle::kSimple) {
    channel_.Commit(PutNoneChunk(channel_.Reserve(kMaxReplyHeaderBytes), style_, request));
    return;
  }
  uint32_t position = 0;
  // It does not fit into the send buffer.
  const bool whole = InOnePiece(request) && request.length > kChunkDataBytes;
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

// A simple reply says OK before its data and cannot take it back, so it is read whole first. With
// DF the client wants one chunk.
bool Connection::InOnePiece(const Request& request) const {
  return style_ == ReplyStyle::kSimple || request.has(kDf);
}

// Bytes of the next piece of a READ. Pieces end on track boundaries.
uint32_t Connection::PieceBytes(const Request& request, uint32_t position) const {
  const auto left = static_cast<uint32_t>(request.length) - position;
  if (InOnePiece(request) || left <= kChunkDataBytes) return left;
  return static_cast<uint32_t>(WholeTracks(request.offset + position, kChunkDataBytes));
}

// The same, ended where a hole begins; or the hole.
Connection::Piece Connection::NextPiece(const Request& request, uint32_t position) {
  const uint64_t left = request.length - position;
  // Small reads, which are most of them, are not looked up twice.
  if (InOnePiece(request) || left < kMinHoleBytes) return {PieceBytes(request, position), false};
  const DataRun run =
      volume_.FindRun(slot_, request.offset + position, left, kChunkDataBytes, kMinHoleBytes);
  const auto bytes = static_cast<uint32_t>(run.bytes);
  return {run.zero ? bytes : std::min(bytes, PieceBytes(request, position)), run.zero};
}

size_t Connection::PutReadHeader(uint8_t* to, const Request& request, uint32_t position,
                                 uint32_t bytes) {
  if (style_ == ReplyStyle::kSimple) return PutSimpleReply(to, kWireOk, request.cookie);
  const bool last = position + bytes == request.length;
  return PutDataChunk(to, style_, request, request.offset + position, bytes, last);
}

// Answers straight into the send buffer. False with kNoWait when the disk has to be waited for at
// *position.
bool Connection::ReadInline(const Request& request, uint32_t* position, ReadMode mode) {
  const size_t header = ReadHeaderBytes(style_);
  do {
    if (channel_.broken()) return true;  // nobody hears the answer
    const auto [bytes, hole] = NextPiece(request, *position);
    const uint64_t offset = request.offset + *position;
    if (hole) {
      const bool last = *position + bytes == request.length;
      uint8_t* to = channel_.Reserve(kMaxReplyHeaderBytes);
      channel_.Commit(PutHoleChunk(to, style_, request, offset, bytes, last));
      *position += bytes;
      continue;
    }
    uint8_t* to = channel_.Reserve(header + bytes);
    const Status status = volume_.Read(slot_, offset, to + header, bytes, mode);
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
  const size_t left = request.length - position;
  Pending* pending =
      TakeBuffered(request, InOnePiece(request) ? left : std::min(left, kChunkDataBytes));
  if (pending != nullptr) {
    StartPiece(pending, position);
  } else {
    ReadWithoutBuffer(request, position);
  }
}

// Through the send buffer, while this thread waits for the disk.
void Connection::ReadWithoutBuffer(const Request& request, uint32_t position) {
  if (!InOnePiece(request) || request.length - position <= kChunkDataBytes) {
    ReadInline(request, &position, ReadMode::kBlocking);
    return;
  }
  // A reply in one piece cannot take its OK back, so all of it is read once before. When it cannot
  // be read any more a moment later, nothing but an end of the connection is left (proto.md).
  if (!StreamPieces(request, 0, Stream::kTry)) return;
  BeginWholeReply(request);
  StreamPieces(request, 0, Stream::kSend);
}

// Reads the rest of the request's range, piece by piece, and with kSend sends it behind a reply
// that has said OK. False when that failed: the request has been answered, or the channel is
// broken.
bool Connection::StreamPieces(const Request& request, uint32_t position, Stream what) {
  while (position < request.length && !channel_.broken()) {
    const uint64_t offset = request.offset + position;
    const auto left = static_cast<uint32_t>(request.length) - position;
    const uint32_t bytes = left <= kChunkDataBytes
                               ? left
                               : static_cast<uint32_t>(WholeTracks(offset, kChunkDataBytes));
    uint8_t* to = channel_.Reserve(bytes);
    Status status = volume_.Read(slot_, offset, to, bytes, ReadMode::kBlocking);
    if (what == Stream::kSend) {
      if (!status.ok()) channel_.Abandon("read: failed in the middle of a reply");
      channel_.Commit(status.ok() ? bytes : 0);
    } else if (status.ok() && channel_.stopping()) {
      status = Status(Code::kClosed, "the server is stopping");
    }
    if (!status.ok()) {
      if (what == Stream::kTry) Answer(request, status);
      return false;
    }
    position += bytes;
  }
  return true;
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
  if (!pending->buffer) {  // ShedMemory took it
    ReadWithoutBuffer(request, pending->position);
    in_flight_.Release(pending);
    return;
  }
  if (pending->buffer_is_shared && pending->piece_bytes > kChunkDataBytes && InOnePiece(request)) {
    SendLong(pending);
    return;
  }
  const size_t header = ReadHeaderBytes(style_);
  PutReadHeader(pending->data() - header, request, pending->position, pending->piece_bytes);
  channel_.Append(pending->data() - header, header + pending->piece_bytes);
  uint32_t position = pending->position + pending->piece_bytes;
  if (position < request.length && channel_.stopping()) {
    Answer(request, Status(Code::kClosed, "the server is stopping"));
    position = static_cast<uint32_t>(request.length);
  }
  if (position == request.length || ReadInline(request, &position, ReadMode::kNoWait)) {
    in_flight_.Release(pending);
    return;
  }
  StartPiece(pending, position);
}

// The header of a READ's reply in one piece; its data follows.
void Connection::BeginWholeReply(const Request& request) {
  const auto bytes = static_cast<uint32_t>(request.length);
  channel_.Commit(PutReadHeader(channel_.Reserve(kMaxReplyHeaderBytes), request, 0, bytes));
}

// A long reply in one piece in shared memory leaves through the send buffer, so that the memory can
// be taken in the middle of it. The rest is then read again: the request has not ended, so what
// another one writes meanwhile may be in its answer.
void Connection::SendLong(Pending* pending) {
  const Request& request = pending->request;
  BeginWholeReply(request);
  sending_ = pending;
  sending_since_ = std::chrono::steady_clock::now();
  uint32_t position = 0;
  while (position < request.length && !channel_.broken()) {
    const size_t bytes = std::min<uint64_t>(request.length - position, kChunkDataBytes);
    uint8_t* to = channel_.Reserve(bytes);  // here it waits for the client
    if (!pending->buffer) break;
    std::memcpy(to, pending->data() + position, bytes);
    channel_.Commit(bytes);
    position += static_cast<uint32_t>(bytes);
  }
  sending_ = nullptr;
  in_flight_.FreeBuffer(pending);
  StreamPieces(request, position, Stream::kSend);
  in_flight_.Release(pending);
}

// While the client does not read: what it holds of the shared memory is given back when that is
// short.
void Connection::ShedMemory(std::chrono::nanoseconds stuck) {
  if (!in_flight_.memory_is_short()) return;
  if (stuck >= kReadPatience) in_flight_.ShedCompleted();
  if (sending_ == nullptr || !sending_->buffer) return;
  if (std::chrono::steady_clock::now() - sending_since_ >= kReadPatience) {
    in_flight_.FreeBuffer(sending_);
  }
}

// In flight -------------------------------------------------------------------

Pending* Connection::TakePending(const Request& request) {
  while (in_flight_.full()) AwaitCompletion();
  return in_flight_.Take(request);
}

// With memory for `bytes`; nullptr when there is none, and none of this connection's own to wait
// for.
Pending* Connection::TakeBuffered(const Request& request, size_t bytes) {
  while (!in_flight_.MayBuffer(bytes)) AwaitCompletion();
  Pending* pending = TakePending(request);
  while (!in_flight_.AllocateBuffer(pending, bytes)) {
    if (bytes > kOwnBufferedBytes || in_flight_.buffered_bytes() == 0) {
      in_flight_.Release(pending);
      return nullptr;
    }
    AwaitCompletion();
  }
  return pending;
}

// Before a request begins: one that is held, or waits, for as long as a freeze lasts must not keep
// the next from being parked. False when the connection ends.
bool Connection::AwaitRoom() {
  while (in_flight_.full()) {
    AwaitCompletion(Until::kCompletionOrPark);
    if (!MayGoOn()) return false;
  }
  return true;
}

// Waits until at least one request in flight has completed, and answers. Held ones complete by a
// thaw, or by the client's end or ours, for which they are dropped.
void Connection::AwaitCompletion(Until until) {
  channel_.Flush();
  while (!in_flight_.has_completed() && (!held_.thawed() || channel_.parking())) {
    const bool holding = held_.count() > 0;
    if (holding && (channel_.stopping() || channel_.broken())) return DropHeld();
    if (until == Until::kCompletionOrPark && channel_.parking()) break;
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
  if (!status.ok()) {
    AnswerError(request, WireErrorOf(status.code()), status.message().c_str());
    return;
  }
  uint8_t* to = channel_.Reserve(kMaxReplyHeaderBytes);
  channel_.Commit(style_ == ReplyStyle::kExtended ? PutNoneChunk(to, style_, request)
                                                  : PutSimpleReply(to, kWireOk, request.cookie));
}

void Connection::AnswerError(const Request& request, WireError error, const char* reason) {
  Add(settings_.stats->errors, 1);
  uint8_t* to = channel_.Reserve(kMaxReplyHeaderBytes);
  if (style_ == ReplyStyle::kSimple) {
    channel_.Commit(PutSimpleReply(to, error, request.cookie));
    return;
  }
  char text[kMaxErrorText];
  const int wanted =
      std::snprintf(text, sizeof text, "%s of %" PRIu64 " bytes at %" PRIu64 ": %s",
                    CommandName(request.type), request.length, request.offset, reason);
  const size_t length = std::min<size_t>(static_cast<size_t>(std::max(wanted, 0)), sizeof text - 1);
  channel_.Commit(PutErrorChunk(to, style_, request, error, {text, length}));
}

}  // namespace flashlun::nbd
