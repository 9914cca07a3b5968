// OpenSslContext: a server's credentials as an SSL_CTX.
#pragma once

#include <openssl/ssl.h>

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "core/status.h"
#include "tls/provider.h"

namespace flashlun::tls {

struct FreeContext {
  void operator()(SSL_CTX* context) const { SSL_CTX_free(context); }
};

class OpenSslContext final : public Context {
 public:
  // kInvalid: says which part of the credentials cannot be used.
  static Result<std::unique_ptr<Context>> Make(const Credentials& credentials);
  std::unique_ptr<Session> NewSession() const override;

 private:
  explicit OpenSslContext(uint64_t rekey_records);
  Status Configure(const Credentials& credentials);
  Status UseCertificate(const Credentials& credentials);
  Status UseClientCa(const Credentials& credentials);
  Status UsePsk(const std::vector<PskEntry>& entries);

  using Keys = std::map<std::string, std::vector<uint8_t>>;
  static const std::vector<uint8_t>* FindKey(SSL* ssl, const std::string& identity);
  static int FindPskSession(SSL* ssl, const unsigned char* identity, size_t bytes,
                            SSL_SESSION** found);
  static unsigned FindPsk12(SSL* ssl, const char* identity, unsigned char* key, unsigned room);

  const uint64_t rekey_records_;
  // Shared with the sessions, which may outlive the context.
  const std::shared_ptr<Keys> keys_;
  std::unique_ptr<SSL_CTX, FreeContext> context_;
};

}  // namespace flashlun::tls
