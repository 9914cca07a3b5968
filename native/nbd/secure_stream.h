// SecureStream: encryption between a channel's bytes and its socket's, without a socket of its own:
// ciphertext is put in and taken out, so that the channel keeps every wait, deadline and limit.
//
// One thread at a time uses a stream: the JavaScript thread while it negotiates, then the
// connection's.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace flashlun::nbd {

class SecureStream {
 public:
  enum class Step {
    kData,       // some bytes
    kWantInput,  // nothing without more ciphertext
    kEnd,        // the peer has said that it sends nothing more
    kBroken,     // for good; error() says why, and an alert may be in the output
  };

  virtual ~SecureStream() = default;

  // Receiving. Where ciphertext goes, and how much of it; more than nothing after kWantInput.
  virtual uint8_t* InputRoom(size_t* room) = 0;
  virtual void InputArrived(size_t bytes) = 0;
  // Up to `room` bytes of plaintext; *got is set with kData only.
  virtual Step Decrypt(uint8_t* to, size_t room, size_t* got) = 0;
  // Whether there is input that Decrypt has not seen all of.
  virtual bool HasInput() const = 0;

  // Sending. Turns bytes into output and returns how many; fewer than `count` when the output is
  // full. 0 with an empty output: broken.
  virtual size_t Encrypt(const uint8_t* from, size_t count) = 0;
  // What is to be sent; the caller sends all of it before it encrypts more.
  virtual const uint8_t* Output(size_t* count) const = 0;
  virtual void OutputSent() = 0;
  // Puts close_notify into the output, once.
  virtual void End() = 0;

  virtual const std::string& error() const = 0;
};

}  // namespace flashlun::nbd
