// The client's end of TLS with a pre-shared key, over a connected socket.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace flashlun::bench {

class TlsStream {
 public:
  virtual ~TlsStream() = default;
  virtual void Send(const void* bytes, size_t count) = 0;
  // At least one byte; everything that has arrived, up to `count`.
  virtual size_t Receive(void* bytes, size_t count) = 0;
};

// Does the handshake on fd. @throws std::runtime_error it failed, or this program was built without
// OpenSSL.
std::unique_ptr<TlsStream> StartTls(int fd, const std::string& identity,
                                    const std::vector<uint8_t>& key);

}  // namespace flashlun::bench
