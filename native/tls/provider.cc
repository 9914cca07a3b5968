#include "tls/provider.h"

#include <openssl/crypto.h>
#include <openssl/opensslv.h>

#include "tls/context.h"

namespace flashlun::tls {
namespace {

class OpenSslProvider final : public Provider {
 public:
  std::string Version() const override { return OpenSSL_version(OPENSSL_FULL_VERSION_STRING); }
  Result<std::unique_ptr<Context>> NewContext(const Credentials& credentials) const override {
    return OpenSslContext::Make(credentials);
  }
};

}  // namespace

const Provider* GetProvider() {
  static const OpenSslProvider* const provider = new OpenSslProvider;
  return provider;
}

}  // namespace flashlun::tls

// OpenSSL keeps its ABI within a major version.
extern "C" __attribute__((visibility("default"))) const flashlun::tls::Provider*
FlashlunTlsProvider() {
  if (OPENSSL_version_major() != OPENSSL_VERSION_MAJOR) return nullptr;
  return flashlun::tls::GetProvider();
}
