// Server: the live connections of one store.
//
// Thread safety: all methods from any thread.
#pragma once

#include <array>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "core/store.h"
#include "nbd/connection.h"
#include "nbd/limits.h"
#include "nbd/shares.h"

namespace flashlun::nbd {

// What one connection has done and is doing, at some moment.
struct ConnectionInfo {
  uint64_t id = 0;
  std::array<uint64_t, kKinds> requests{};  // by Kind
  uint64_t errors = 0;
  uint64_t bytes_in = 0;
  uint64_t bytes_out = 0;
  uint64_t in_flight = 0;  // wait for the disk, a flush or a thaw
  uint64_t held = 0;       // of those: for a thaw
};

// A connection that is parked (park.h). The server owns the descriptor.
struct ParkedInfo {
  uint64_t id = 0;
  int fd = -1;
  std::vector<uint8_t> leftover;
  std::vector<uint8_t> unsent;
  uint64_t drain_bytes = 0;
};

class Server {
 public:
  // Runs on the connection's thread as its last act: socket closed, volume detached. Must not
  // block.
  using OnClosed = std::function<void(uint64_t id, const CloseReport& report)>;

  explicit Server(Store& store);
  // Stops all connections and waits for them.
  ~Server();
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  // Takes over options.fd (also when it fails) and serves it on a thread of its own. Returns the
  // connection's id, options.id if that is set. kLimit: kMaxConnections are live, or the system
  // gives no thread; kExists: the id is in use; kBusy: connections are parked.
  Result<uint64_t> Serve(ConnectionOptions options, OnClosed on_closed);
  // Ends one connection soon; its OnClosed follows. Unknown ids are ignored: it has ended by
  // itself.
  void Stop(uint64_t id);
  // Ends all and returns when the last OnClosed has run. Blocks at most kStopGrace for clients that
  // do not read, kLingerTime for those that go on sending, and what the volume needs for the piece
  // each connection is at (kRangePieceBytes, or one READ) and for its flushes and reads in flight.
  // Requests that are not begun and the rest of long ones are not waited for.
  void StopAll();
  std::vector<ConnectionInfo> List();

  // Parks every connection; those that cannot be handed on are ended. Serve refuses from then on.
  // Blocks `limit` at most; kTimeout: one has a request in flight that does not end, and all go on.
  // kBusy: parked already.
  Status ParkAll(std::chrono::milliseconds limit = kParkLimit);
  // What is parked, in order of id. Empty when nothing is.
  std::vector<ParkedInfo> Parked();
  // All parked connections go on here, as if nothing had been.
  void UnparkAll();
  // Somebody else has them: closes our descriptors of them, which the clients do not see. Their
  // OnClosed runs with kParked.
  void ForgetParked();

  // Rate limits and memory; see there.
  Shares& shares() { return shares_; }

 private:
  struct Live {
    std::shared_ptr<Connection> connection;  // null: parked
    std::unique_ptr<ConnectionOptions> parked;
    OnClosed on_closed;
    std::shared_ptr<ConnectionStats> stats;
    uint16_t volume = 0;
    bool read_only = false;
    bool movable = true;
    std::string address;  // of a TCP peer
  };
  Status Start(uint64_t id, Live& live, ConnectionOptions options, OpSlot* slot);
  void RunConnection(uint64_t id, const std::shared_ptr<Connection>& connection, OpSlot* slot);
  void End(uint64_t id, const CloseReport& report);
  bool KeepParked(uint64_t id, Connection& connection);
  void Resume(uint64_t id, ConnectionOptions options);
  bool AllStopped();
  bool AllParked();
  // fence.cc
  struct Older;
  void FenceOlder(uint64_t id, const Connection& own);
  std::vector<Older> LookForOlder(uint64_t id);
  void AwaitSigns(std::vector<Older>* silent, const Connection& own);
  void AwaitEnded(const std::vector<uint64_t>& ids);

  Store& store_;
  Shares shares_;

  // State below is protected by mutex_.
  std::mutex mutex_;
  std::condition_variable ended_;
  std::map<uint64_t, Live> live_;
  uint64_t next_id_ = 1;
  bool parking_ = false;
};

}  // namespace flashlun::nbd
