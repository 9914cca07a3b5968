// A minimal NBD client: connects, negotiates an export with NBD_OPT_GO, and moves bytes. Simple
// replies only.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "tls_stream.h"

namespace flashlun::bench {

inline constexpr uint32_t kRequestMagic = 0x25609513;
inline constexpr uint32_t kSimpleReplyMagic = 0x67446698;
inline constexpr size_t kRequestBytes = 28;
inline constexpr size_t kReplyBytes = 16;

enum Command : uint16_t { kRead = 0, kWrite = 1, kDisconnect = 2, kFlush = 3 };

class NbdClient {
 public:
  // address: "unix:PATH" or "HOST:PORT" with a numeric IPv4 HOST. @throws std::runtime_error saying
  // what failed. With a key the connection is encrypted (STARTTLS, identity "bench").
  NbdClient(const std::string& address, const std::string& export_name,
            const std::vector<uint8_t>& psk = {});
  ~NbdClient();
  NbdClient(const NbdClient&) = delete;
  NbdClient& operator=(const NbdClient&) = delete;

  uint64_t size_bytes() const { return size_bytes_; }
  void SendAll(const void* bytes, size_t count);
  // At least one byte, at most `count`.
  size_t ReceiveSome(void* bytes, size_t count);
  void ReceiveAll(void* bytes, size_t count);

 private:
  void Negotiate(const std::string& export_name, const std::vector<uint8_t>& psk);
  uint32_t ReceiveOptionReply();

  int fd_;
  std::unique_ptr<TlsStream> tls_;  // nullptr: plain text
  uint64_t size_bytes_ = 0;
};

void StoreBe16(uint8_t* to, uint16_t value);
void StoreBe32(uint8_t* to, uint32_t value);
void StoreBe64(uint8_t* to, uint64_t value);
uint16_t LoadBe16(const uint8_t* from);
uint32_t LoadBe32(const uint8_t* from);
uint64_t LoadBe64(const uint8_t* from);

}  // namespace flashlun::bench
