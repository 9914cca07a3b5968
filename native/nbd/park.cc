// Parking a channel: the socket leaves it as the client sees it, with every byte of both directions
// accounted for (park.h).
#include "nbd/park.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "nbd/connection.h"
#include "nbd/limits.h"
#include "nbd/protocol.h"

namespace flashlun::nbd {

void EncodeRequest(const Request& request, ReplyStyle style, uint8_t* wire) {
  const bool extended = style == ReplyStyle::kExtended;
  StoreBe32(wire, extended ? kExtendedRequestMagic : kRequestMagic);
  StoreBe16(wire + 4, request.flags);
  StoreBe16(wire + 6, request.type);
  std::memcpy(wire + 8, &request.cookie, sizeof request.cookie);
  StoreBe64(wire + 16, request.offset);
  if (extended) {
    StoreBe64(wire + 24, request.length);
  } else {
    StoreBe32(wire + 24, static_cast<uint32_t>(request.length));
  }
}

// Channel -----------------------------------------------------------------------

void Channel::Park() {
  if (secure_) return Stop();
  parking_.store(true);
  Wake();
  interrupt_.Now();
}

// What the client does not take now. Later bytes go behind it.
void Channel::Keep(const uint8_t* bytes, size_t count) {
  if (unsent_.size() + count > kMaxUnsentBytes) return Break("send", ETIMEDOUT);
  unsent_.insert(unsent_.end(), bytes, bytes + count);
}

int Channel::Release(std::vector<uint8_t>* received, std::vector<uint8_t>* unsent) {
  received->assign(data(), data() + available());
  received->insert(received->end(), leftover_.begin() + static_cast<ptrdiff_t>(leftover_begin_),
                   leftover_.end());
  // They are counted when they are handed out again.
  const uint64_t bytes_in = stats_->bytes_in.load();
  stats_->bytes_in.store(bytes_in - std::min<uint64_t>(bytes_in, available()));
  *unsent = std::move(unsent_);
  unsent_.clear();
  begin_ = end_ = 0;
  leftover_ = {};
  leftover_begin_ = 0;
  std::lock_guard<std::mutex> lock(close_mutex_);
  return std::exchange(fd_, -1);
}

// Connection --------------------------------------------------------------------

void Connection::Park() { channel_.Park(); }

// Puts a request that is not over in front of what comes next.
void Connection::KeepForLater(const Request& rest, const uint8_t* payload, size_t bytes) {
  const size_t at = resume_.size();
  resume_.resize(at + RequestBytes(style_));
  EncodeRequest(rest, style_, resume_.data() + at);
  resume_.insert(resume_.end(), payload, payload + bytes);
}

// A WRITE, or another request with a payload, ends halfway through that: what is left of it is for
// whoever goes on, or, after an error, only its bytes are. False, as ReceiveMore.
bool Connection::LeavePayload(const Request& rest, const Status& status) {
  if (!parked()) return false;
  if (status.ok()) {
    KeepForLater(rest, nullptr, 0);
  } else {
    Answer(rest, status);
    settings_.drain_bytes = rest.length;
  }
  return false;
}

// What whoever goes on with this connection needs. After Run ended with kParked.
ConnectionOptions Connection::TakeParked() {
  // Those were first; the request that was cut follows.
  std::vector<uint8_t> cut = std::move(resume_);
  resume_.clear();
  for (Pending* pending : held_.queue()) {
    const bool write = pending->request.type == kWrite;
    KeepForLater(pending->request, write ? pending->data() : nullptr,
                 write ? pending->request.length : 0);
  }
  DropHeld();
  resume_.insert(resume_.end(), cut.begin(), cut.end());
  std::vector<uint8_t> received;
  ConnectionOptions options = std::move(settings_);
  options.fd = channel_.Release(&received, &options.unsent);
  options.leftover = std::move(resume_);
  options.leftover.insert(options.leftover.end(), received.begin(), received.end());
  options.resumed = true;
  return options;
}

}  // namespace flashlun::nbd
