// Connection: the transmission phase of one NBD client, on a thread of its own.
//
// The thread receives a batch, executes every complete request in it against the volume, and sends
// the replies of the batch with one call. What the page cache holds is read inline. What has to
// wait - a flush, FUA, a read the disk must deliver, past the page cache also a write - goes to the
// in-flight table and is answered when it completes, out of order, while the thread goes on. A
// client with one request at a time is different: for it the thread waits itself.
//
// A WRITE's payload is stored as it arrives, in pieces of whole tracks; nothing ever holds a whole
// payload. A client that dies halfway leaves part of a write it was never told about, which the
// protocol allows.
//
// Memory is bounded: two buffers, the in-flight table, kOwnBufferedBytes of payload buffers, and
// more (up to kMaxBufferedBytes, or one larger read alone) from what all connections share.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/block_status.h"
#include "core/store.h"
#include "nbd/channel.h"
#include "nbd/early_write_out.h"
#include "nbd/fence.h"
#include "nbd/hold.h"
#include "nbd/in_flight.h"
#include "nbd/reply.h"
#include "nbd/request.h"
#include "nbd/shares.h"
#include "nbd/stats.h"
#include "nbd/throttle.h"

namespace flashlun::nbd {

enum class CloseReason : uint8_t {
  kDisconnect,
  kEof,
  kProtocol,
  kIo,
  kStopped,
  kFenced,  // a client that had gone was replaced (fence.h)
  kParked,  // somebody else goes on with it (park.h)
};

struct CloseReport {
  // Takes over what the connection has done.
  void Count(const ConnectionStats& stats) {
    requests = stats.all_requests();
    bytes_in = stats.bytes_in.load();
    bytes_out = stats.bytes_out.load();
  }

  CloseReason reason = CloseReason::kEof;
  std::string detail;
  uint64_t requests = 0;
  uint64_t bytes_in = 0;
  uint64_t bytes_out = 0;
};

// A metadata context that the client selected, under the id it was told.
struct SelectedContext {
  uint32_t id = 0;
  StatusContext context = StatusContext::kAllocation;
  uint64_t relationship = 0;  // of kChanges
};

struct ConnectionOptions {
  int fd = -1;  // taken over
  Volume volume;
  ReplyStyle replies = ReplyStyle::kSimple;
  bool read_only = false;
  std::vector<SelectedContext> contexts;  // at most kMaxContexts
  uint32_t min_block = 1;                 // that the client has promised to keep to; a power of two
  std::vector<uint8_t> leftover;          // received behind the handshake
  std::unique_ptr<SecureStream> secure;   // nullptr: plain text
  // Of a connection that was parked (park.h).
  bool resumed = false;
  uint64_t id = 0;              // 0: a new one
  std::vector<uint8_t> unsent;  // leaves first
  uint64_t drain_bytes = 0;     // of a WRITE that has been answered: dropped first
  std::shared_ptr<ConnectionStats> stats = std::make_shared<ConnectionStats>();
  // It can be handed to another process; without, as with `secure`, parking ends it.
  bool movable = true;
};

class Connection {
 public:
  // slot belongs to the connection's thread while Run runs. @throws std::system_error no descriptor
  // for waking. shares outlive the connection.
  Connection(Store& store, OpSlot& slot, Shares& shares, ConnectionOptions options);
  // Serves until the client leaves, breaks the protocol, or Stop. Every request that was begun is
  // finished before it returns; the socket is closed and the volume detached. Call once.
  CloseReport Run();
  // Any thread: ends the connection soon. Requests that were begun are answered when the client
  // reads, a long TRIM or WRITE_ZEROES with ESHUTDOWN; those not begun are not answered.
  void Stop() { channel_.Stop(); }
  // Any thread: the client is gone, or is treated so (fence.h). What has begun ends, nothing else
  // is executed.
  void Fence();
  // Any thread: Run ends at the next boundary between requests with kParked, unless it ends for
  // another reason before. Call it again until it has (interrupt.h).
  void Park();
  void Unpark() { channel_.Unpark(); }
  // After Run said kParked: how to go on. The socket is the caller's.
  ConnectionOptions TakeParked();

  // Any thread.
  PeerLife Look() { return channel_.Look(); }
  void Probe(bool ask) { channel_.Probe(ask); }
  bool HasUnread() { return channel_.HasUnread(); }
  bool stopping() const { return channel_.stopping(); }
  bool resumed() const { return settings_.resumed; }
  bool read_only() const { return limits_.read_only; }

 private:
  bool ServeBuffered();
  void FinishInFlight();
  bool parked() const { return report_.reason == CloseReason::kParked; }
  bool MayGoOn();
  bool Serve(const Request& request);
  bool AwaitTurn(const Request& request);
  bool StandInLine(uint64_t bytes);
  bool Refuse(const Request& request, const Verdict& verdict);
  bool ReceiveMore();
  bool End(CloseReason reason, std::string detail);

  void ServeRead(const Request& request);
  bool InOnePiece(const Request& request) const;
  bool Alone(size_t payload);
  void LookForMore();
  bool ReadInline(const Request& request, uint32_t* position, ReadMode mode);
  void ReadSlowly(const Request& request, uint32_t position);
  void ReadWithoutBuffer(const Request& request, uint32_t position);
  enum class Stream { kTry, kSend };
  bool StreamPieces(const Request& request, uint32_t position, Stream what);
  void StartPiece(Pending* pending, uint32_t position);
  void AnswerPiece(Pending* pending);
  void BeginWholeReply(const Request& request);
  void SendLong(Pending* pending);
  void ShedMemory(std::chrono::nanoseconds stuck);
  uint32_t PieceBytes(const Request& request, uint32_t position) const;
  struct Piece {
    uint32_t bytes;
    bool hole;
  };
  Piece NextPiece(const Request& request, uint32_t position);
  size_t PutReadHeader(uint8_t* to, const Request& request, uint32_t position, uint32_t bytes);

  bool ServeWrite(const Request& request);
  bool WriteAsItComes(const Request& request);
  bool ServeDirectWrite(const Request& request);
  bool DrainPayload(uint64_t bytes);
  // connection_status.cc
  bool ServeBlockStatus(const Request& request);
  bool ReceiveStatusPayload(Request* request, uint32_t* wanted);
  uint32_t WantedContexts(const uint8_t* ids, size_t count) const;
  void AnswerStatus(const Request& request, uint32_t wanted);

  bool ServeRange(const Request& request);
  Status RunRange(Request* rest);
  Status GoOnWithRange();
  void AnswerDurably(const Request& request, const Status& status);
  void StartFlush(const Request& request);

  // hold.cc
  bool HoldWrite(const Request& rest);
  void HoldRange(const Request& rest);
  void Hold(Pending* pending);
  bool AwaitThaw();
  void RunHeld();
  void DropHeld();
  // park.cc
  void KeepForLater(const Request& rest, const uint8_t* payload, size_t bytes);
  bool LeavePayload(const Request& rest, const Status& status);

  Pending* TakePending(const Request& request);
  Pending* TakeBuffered(const Request& request, size_t bytes);
  bool AwaitRoom();
  enum class Until { kCompletion, kCompletionOrPark };
  void AwaitCompletion(Until until = Until::kCompletion);
  void AnswerCompleted();
  void Answer(const Request& request, const Status& status);
  void AnswerError(const Request& request, WireError error, const char* reason);

  Store& store_;
  OpSlot& slot_;
  Volume volume_;
  const ExportLimits limits_;
  const ReplyStyle style_;
  const std::vector<SelectedContext> contexts_;
  std::vector<StatusExtent> extents_;  // of the BLOCK_STATUS at hand
  Channel channel_;
  InFlight in_flight_;
  Turnstile turnstile_;
  HeldRequests held_;
  std::vector<uint8_t> resume_;  // what was begun and is to be done by whoever goes on
  std::atomic<bool> fenced_{false};
  Pending* sending_ = nullptr;  // whose reply leaves in pieces, since sending_since_
  std::chrono::steady_clock::time_point sending_since_;
  int deep_credit_ = 0;  // requests that are taken for one of many, see Alone
  EarlyWriteOut early_;
  uint64_t unchecked_bytes_ = 0;  // of ranges, since the client was last looked at
  CloseReport report_;
  ConnectionOptions settings_;  // what it was made with, but for what has moved on
};

}  // namespace flashlun::nbd
