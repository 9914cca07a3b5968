// Both ends of a TLS connection for tests: our session, and a client that is OpenSSL's own, with
// keys and certificates made on the spot.
#pragma once

#include <openssl/ssl.h>

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "test/nbd_fixture.h"
#include "tls/provider.h"

namespace flashlun::nbd {

// A certificate and its key as PEM.
struct Issued {
  std::string certificate;
  std::string key;
};

// A certificate authority. Its certificates are for `common_name`, with that as DNS name too.
class Authority {
 public:
  Authority();
  Issued Issue(const std::string& common_name);
  const std::string& certificate() const { return self_.certificate; }
  // A revocation list with these certificates.
  std::string Revoke(const std::vector<Issued>& revoked);

 private:
  Issued self_;
  long serial_ = 1;
};

struct ClientSettings {
  Issued identity;  // shown when asked for; empty: none
  std::string psk_identity;
  std::vector<uint8_t> psk;
  int version = 0;  // TLS1_2_VERSION, TLS1_3_VERSION; 0: any
  std::string ciphers12;
  std::string ciphers13;
};

// A blocking client on a socket it does not own.
class TlsClient final : public ClientStream {
 public:
  TlsClient(int fd, const ClientSettings& settings);
  ~TlsClient() override;
  // False when the handshake fails; error() says why. With TLS 1.3 a server's refusal of the
  // client's certificate shows at the first Receive.
  bool Connect();
  ssize_t Receive(void* to, size_t room) override;
  ssize_t Send(const void* from, size_t count) override;
  // Sends close_notify and goes on receiving.
  void End() { SSL_shutdown(ssl_); }
  SSL* ssl() const { return ssl_; }
  // Whether the last Receive ended by close_notify.
  bool ended_in_order() const { return ended_in_order_; }
  const std::string& error() const { return error_; }
  // Changes of keys that either side has announced.
  int key_updates() const { return key_updates_; }

 private:
  static void Watch(int sent, int version, int type, const void* bytes, size_t count, SSL* ssl,
                    void* self);

  SSL_CTX* context_;
  SSL* ssl_;
  ClientSettings settings_;
  bool ended_in_order_ = false;
  int key_updates_ = 0;
  std::string error_;
};

// Credentials of a server with a certificate of `authority`.
tls::Credentials ServerCredentials(Authority& authority);

// Runs the server's side of the handshake on a blocking socket; whether it succeeded.
bool AcceptOn(int fd, tls::Session& session);

// Runs both sides.
std::pair<std::unique_ptr<tls::Session>, std::unique_ptr<TlsClient>> Handshake(
    const tls::Credentials& credentials, const ClientSettings& settings, int server, int client);

}  // namespace flashlun::nbd
