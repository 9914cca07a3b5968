// TLS as the rest of the native side sees it: no OpenSSL type passes here.
//
// The implementation is a library of its own (flashlun_tls.so) that takes OpenSSL from the process,
// that is from Node. The addon opens it when TLS is wanted, so a runtime without these symbols, or
// a build without OpenSSL's headers, still serves plain NBD.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/status.h"
#include "nbd/secure_stream.h"

namespace flashlun::tls {

struct PskEntry {
  std::string identity;
  std::vector<uint8_t> key;
};

// Whether clients must show a certificate. kOptional: one that is shown must verify.
enum class VerifyPeer : uint8_t { kNo, kOptional, kRequired };

// Of a server: a certificate (PEM texts), or pre-shared keys and no certificate.
struct Credentials {
  std::string certificate;  // with its chain
  std::string key;
  std::string ca;   // of clients; needed unless kNo
  std::string crl;  // may be empty
  VerifyPeer verify_peer = VerifyPeer::kNo;
  std::vector<PskEntry> psk;
  // Records in one direction after which both sides change keys (TLS 1.3).
  uint64_t rekey_records = 0;  // 0: kRekeyRecords
};

// Who is at the other end, once the session is open. Verified.
struct Peer {
  std::string protocol;              // "TLSv1.3"
  std::string cipher;                // IANA's name
  std::vector<uint8_t> certificate;  // DER; empty without one
  std::string psk_identity;          // empty without one
};

// The server's end of one connection.
class Session : public nbd::SecureStream {
 public:
  // Goes on with the handshake: kData when it is complete, else kWantInput or kBroken. Output may
  // be there after each.
  virtual Step Accept() = 0;
  // Precondition: Accept has returned kData.
  virtual Peer GetPeer() const = 0;
};

// Credentials, parsed and checked. Immutable; any thread.
class Context {
 public:
  virtual ~Context() = default;
  // The session keeps what it needs of the context. nullptr: no memory.
  virtual std::unique_ptr<Session> NewSession() const = 0;
};

class Provider {
 public:
  virtual ~Provider() = default;
  // "OpenSSL 3.0.19".
  virtual std::string Version() const = 0;
  // kInvalid: the credentials cannot be used; says which part.
  virtual Result<std::unique_ptr<Context>> NewContext(const Credentials& credentials) const = 0;
};

// The provider of the library this is linked into; never nullptr, never destroyed.
const Provider* GetProvider();
// What flashlun_tls.so exports: the same, or nullptr when this process has another OpenSSL than it
// was built for.
inline constexpr char kEntryPoint[] = "FlashlunTlsProvider";
using EntryPoint = const Provider* (*)();

}  // namespace flashlun::tls
