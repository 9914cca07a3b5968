// Server: the live connections of one store.
//
// Thread safety: all methods from any thread.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>

#include "core/store.h"
#include "nbd/connection.h"
#include "nbd/shares.h"

namespace flashlun::nbd {

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
  // connection's id. kLimit: kMaxConnections are live, or the system gives no thread.
  Result<uint64_t> Serve(ConnectionOptions options, OnClosed on_closed);
  // Ends one connection soon; its OnClosed follows. Unknown ids are ignored: it has ended by
  // itself.
  void Stop(uint64_t id);
  // Ends all and returns when the last OnClosed has run. Blocks at most kStopGrace for clients that
  // do not read, kLingerTime for those that go on sending, and what the volume needs for the piece
  // each connection is at (kRangePieceBytes, or one READ) and for its flushes and reads in flight.
  // Requests that are not begun and the rest of long ones are not waited for.
  void StopAll();

  // Rate limits and memory; see there.
  Shares& shares() { return shares_; }

 private:
  struct Live {
    std::shared_ptr<Connection> connection;
    OpSlot* slot = nullptr;
    OnClosed on_closed;
  };
  void RunConnection(uint64_t id, const Live& live);
  void Forget(uint64_t id);

  Store& store_;
  Shares shares_;

  // State below is protected by mutex_.
  std::mutex mutex_;
  std::condition_variable ended_;
  std::map<uint64_t, std::shared_ptr<Connection>> live_;
  uint64_t next_id_ = 1;
};

}  // namespace flashlun::nbd
