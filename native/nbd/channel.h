// Channel: the socket of one connection with a receive and a send buffer of fixed size, and a way
// to wake its thread.
//
// Only the connection's thread touches the socket's data and the buffers; other threads only Wake
// and Stop it. So replies need no lock, and a client that does not read blocks nothing but its own
// thread.
//
// Waking: an eventfd. Every wait of the channel clears it, so a waker must leave a trace (a list, a
// flag) first, and the connection's thread looks at the traces after each Flush and before each
// Receive.
//
// With a SecureStream the same calls go through it: what is received is decrypted into the receive
// buffer, what is flushed is encrypted on the way. Without one, each recv and send costs one branch
// more.
#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "nbd/fence.h"
#include "nbd/interrupt.h"
#include "nbd/limits.h"
#include "nbd/secure_stream.h"
#include "nbd/stats.h"

namespace flashlun::nbd {

class Channel {
 public:
  enum class Event { kData, kEof, kWoken, kBroken };

  // Takes over fd. `leftover` is handed out exactly as if it had come from the socket (decrypted).
  // `unsent` leaves before everything else. Counts the bytes of the NBD stream in `stats`: what TLS
  // adds is not counted. peer_timeout: see peer.h. `secure` is an open session, nullptr for plain
  // text; with it nothing is unsent.
  Channel(int fd, std::vector<uint8_t> leftover, std::vector<uint8_t> unsent,
          std::shared_ptr<ConnectionStats> stats, std::chrono::seconds peer_timeout,
          std::unique_ptr<SecureStream> secure = nullptr);
  ~Channel();
  Channel(const Channel&) = delete;
  Channel& operator=(const Channel&) = delete;

  // What the connection's thread calls now and then while it waits for the client to read, with how
  // long it has waited. Must not use the channel.
  using WhileStuck = std::function<void(std::chrono::nanoseconds waited)>;
  void SetWhileStuck(WhileStuck while_stuck) { while_stuck_ = std::move(while_stuck); }

  // Connection's thread: receiving. What is received and not yet consumed is data()[0,
  // available()).
  const uint8_t* data() const { return receive_.get() + begin_; }
  size_t available() const { return end_ - begin_; }
  void Consume(size_t bytes) { begin_ += bytes; }
  // Waits for at least one more byte; with `wakeable` also for Wake. There must be room: a caller
  // consumes all but one incomplete request, or one piece of a payload, before it asks for more.
  Event Receive(bool wakeable);
  // Whether bytes have arrived that Receive would give, without waiting. Encrypted ones may turn
  // out to be less than a record.
  bool HasInput() const;
  // Waits for Wake; with `watch_peer` also for the client's end. False: it is gone, and the channel
  // broken.
  bool WaitWake(bool watch_peer);
  // Waits for Wake, but not longer than `most`. A client that is gone for good breaks the channel.
  void Pause(std::chrono::nanoseconds most);

  // Connection's thread: sending. Reserve gives room for `bytes` (<= kSendBytes), Commit makes them
  // part of what is sent. Once the socket is broken everything is dropped silently, and Flush
  // returns false.
  uint8_t* Reserve(size_t bytes);
  void Commit(size_t bytes) { send_end_ += bytes; }
  // Sends bytes of any length, behind what is committed.
  void Append(const uint8_t* bytes, size_t count);
  bool Flush();
  size_t unsent() const { return send_end_; }

  // Whether the client is gone for good, without waiting. One that has only ended its sending side
  // still reads its replies, so nothing but a hang-up of both sides or a reset counts. What it says
  // stays: the channel is broken then.
  bool PeerGone();
  bool broken() const { return broken_; }
  // Breaks it: what was sent cannot be completed.
  void Abandon(const char* why);
  bool stopping() const { return stopping_.load(std::memory_order_relaxed); }
  const std::string& error() const { return error_; }
  // Reads what the client still sends, into nothing, for a short time, so that Close does not make
  // TCP reset the connection: a reset may take back replies that have been sent. For ends that the
  // client does not expect.
  void Linger();
  // Sends close_notify, if the stream is encrypted, and FIN, and closes the socket; Stop becomes a
  // no-op.
  void Close();
  // Parking (park.cc). The socket with what was received and not consumed, and what could not be
  // sent; the channel has none of it any more. Nothing is sent or closed.
  int Release(std::vector<uint8_t>* received, std::vector<uint8_t>* unsent);
  // Called by the thread that Park may interrupt, before it receives and after.
  void BeginInterrupts() { interrupt_.Begin(); }
  void EndInterrupts() { interrupt_.End(); }

  // Any thread.
  void Wake();
  // Ends waiting for requests at once, and for a client that does not read after kStopGrace.
  void Stop();
  // From now on nothing waits for the client: Receive gives kWoken, and what the client does not
  // take is kept for Release. Ends a Receive that waits; called again until it has, see
  // interrupt.h. The same as Stop for an encrypted stream, whose keys nobody else has.
  void Park();
  void Unpark() { parking_.store(false); }
  bool parking() const { return parking_.load(std::memory_order_relaxed); }
  // What the system knows of the client (fence.cc); kGone once the socket is closed here.
  PeerLife Look();
  // Whether the system has received bytes that were not read.
  bool HasUnread();
  // Asks the client's system for a sign of life, which Look then sees.
  void Probe(bool ask);
  // Stop, and the client can neither send nor be answered any more.
  void Cut();

 private:
  bool TakeLeftover();
  void MakeRoom();
  Event ReceiveNow(int flags, bool* would_block);
  Event ReceiveRaw(uint8_t* to, size_t room, int flags, bool* would_block, size_t* got);
  Event ReceiveSecure(int flags, bool* would_block);
  Event ReceiveBlocking(bool wakeable);
  bool Spin(Event* event);
  void ClearWake();
  bool WaitWritable();
  bool DropInput(size_t* left);
  bool AllAcknowledged() const;
  bool SendAll(const uint8_t* bytes, size_t count);
  bool SendRaw(const uint8_t* bytes, size_t count, Counter* total);
  bool SendSecure(const uint8_t* bytes, size_t count);
  bool SendOutput();
  void EndSecure();
  void Keep(const uint8_t* bytes, size_t count);
  void Break(const char* operation, int error_number);
  void Break(std::string error);

  // Constant after construction. fd_ changes once, in Close, under close_mutex_.
  int fd_;
  int wake_fd_;
  const bool tcp_;
  const std::chrono::seconds peer_timeout_;
  const std::unique_ptr<uint8_t[]> receive_;
  const std::unique_ptr<uint8_t[]> send_;
  const std::unique_ptr<SecureStream> secure_;  // its state is of the connection's thread

  // Of the connection's thread.
  std::vector<uint8_t> leftover_;
  size_t leftover_begin_ = 0;
  size_t begin_ = 0;
  size_t end_ = 0;
  size_t send_end_ = 0;
  WhileStuck while_stuck_;
  int spin_credit_ = kSpinCredit;
  bool broken_ = false;
  std::string error_;
  std::vector<uint8_t> unsent_;  // what an earlier process could not send, or Park kept

  // Shared.
  const std::shared_ptr<ConnectionStats> stats_;
  Interrupt interrupt_;
  std::atomic<bool> parking_{false};
  std::mutex close_mutex_;  // shutdown must not hit a descriptor that was closed and used again
  std::atomic<bool> stopping_{false};
  std::atomic<std::chrono::steady_clock::rep> stop_deadline_{0};
};

}  // namespace flashlun::nbd
