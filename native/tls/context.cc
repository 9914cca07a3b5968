#include "tls/context.h"

#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509.h>

#include <cstring>
#include <functional>
#include <utility>

#include "tls/error_text.h"
#include "tls/session.h"

namespace flashlun::tls {
namespace {

// What AES-NI makes fastest first: AES-128 costs two thirds of AES-256.
constexpr char kCipherSuites13[] =
    "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256";
// TLS 1.2: forward secrecy and an AEAD, nothing else.
constexpr char kCiphers12[] =
    "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:"
    "ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384:"
    "ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305";
constexpr char kPskCiphers12[] =
    "DHE-PSK-AES128-GCM-SHA256:DHE-PSK-AES256-GCM-SHA384:"
    "ECDHE-PSK-CHACHA20-POLY1305:DHE-PSK-CHACHA20-POLY1305";
// NIST SP 800-57: 112 bits; RSA of 2048 bits and more.
constexpr int kSecurityLevel = 2;
// The one suite of an external key without a hash of its own (RFC 8446 section 4.2.11): SHA-256.
constexpr unsigned char kPskSuite[] = {0x13, 0x01};  // TLS_AES_128_GCM_SHA256
constexpr unsigned char kSessionContext[] = "flashlun";

Status Invalid(const std::string& what) {
  return Status(Code::kInvalid, what + ": " + LastErrorText());
}

struct FreeBio {
  void operator()(BIO* bio) const { BIO_free(bio); }
};

std::unique_ptr<BIO, FreeBio> Text(const std::string& pem) {
  return std::unique_ptr<BIO, FreeBio>(BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size())));
}

// Instead of OpenSSL's default, which asks the terminal.
int NoPassword(char*, int, int, void*) { return 0; }

struct FreeX509 {
  void operator()(X509* certificate) const { X509_free(certificate); }
};
using Certificate = std::unique_ptr<X509, FreeX509>;

// All certificates of a PEM text. Empty when there is none, or one cannot be read.
std::vector<Certificate> ReadCertificates(const std::string& pem) {
  std::vector<Certificate> certificates;
  const auto bio = Text(pem);
  while (X509* next = PEM_read_bio_X509(bio.get(), nullptr, NoPassword, nullptr)) {
    certificates.emplace_back(next);
  }
  // The end shows as an error too.
  const unsigned long last = ERR_peek_last_error();
  if (ERR_GET_LIB(last) == ERR_LIB_PEM && ERR_GET_REASON(last) == PEM_R_NO_START_LINE &&
      !certificates.empty()) {
    ERR_clear_error();
    return certificates;
  }
  return {};
}

Status AddCrls(X509_STORE* store, const std::string& pem) {
  const auto bio = Text(pem);
  int count = 0;
  while (X509_CRL* crl = PEM_read_bio_X509_CRL(bio.get(), nullptr, NoPassword, nullptr)) {
    const int added = X509_STORE_add_crl(store, crl);
    X509_CRL_free(crl);
    if (added != 1) return Invalid("the revocation list");
    count++;
  }
  if (count == 0) return Invalid("the revocation list");
  ERR_clear_error();
  // Of the whole chain: a revoked intermediate CA is as bad. Node does the same.
  X509_STORE_set_flags(store, X509_V_FLAG_CRL_CHECK | X509_V_FLAG_CRL_CHECK_ALL);
  return Status::Ok();
}

}  // namespace

OpenSslContext::OpenSslContext(uint64_t rekey_records)
    : rekey_records_(rekey_records == 0 ? kRekeyRecords : rekey_records),
      keys_(std::make_shared<Keys>()),
      context_(SSL_CTX_new(TLS_server_method())) {}

Result<std::unique_ptr<Context>> OpenSslContext::Make(const Credentials& credentials) {
  ERR_clear_error();
  std::unique_ptr<OpenSslContext> made(new OpenSslContext(credentials.rekey_records));
  if (!made->context_) return Invalid("TLS");
  Status status = made->Configure(credentials);
  ERR_clear_error();
  if (!status.ok()) return status;
  return std::unique_ptr<Context>(std::move(made));
}

std::unique_ptr<Session> OpenSslContext::NewSession() const {
  ERR_clear_error();
  std::unique_ptr<Session> session = OpenSslSession::Make(context_.get(), rekey_records_, keys_);
  ERR_clear_error();
  return session;
}

Status OpenSslContext::Configure(const Credentials& credentials) {
  SSL_CTX* context = context_.get();
  const bool psk = !credentials.psk.empty();
  SSL_CTX_set_security_level(context, kSecurityLevel);
  if (SSL_CTX_set_min_proto_version(context, TLS1_2_VERSION) != 1 ||
      SSL_CTX_set_ciphersuites(context, kCipherSuites13) != 1 ||
      SSL_CTX_set_cipher_list(context, psk ? kPskCiphers12 : kCiphers12) != 1) {
    return Invalid("TLS 1.2 and its ciphers");
  }
  SSL_CTX_set_options(context, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION | SSL_OP_NO_TICKET |
                                   SSL_OP_CIPHER_SERVER_PREFERENCE);
  // No resumption: disks stay attached, and a resumed session would outlive its certificate.
  SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF);
  SSL_CTX_set_num_tickets(context, 0);
  // Needed with a verified peer even so, for sessions by external keys.
  SSL_CTX_set_session_id_context(context, kSessionContext, sizeof kSessionContext - 1);
  SSL_CTX_set_mode(context, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
  if (psk) return UsePsk(credentials.psk);
  Status status = UseCertificate(credentials);
  if (!status.ok() || credentials.verify_peer == VerifyPeer::kNo) return status;
  return UseClientCa(credentials);
}

Status OpenSslContext::UseCertificate(const Credentials& credentials) {
  SSL_CTX* context = context_.get();
  std::vector<Certificate> chain = ReadCertificates(credentials.certificate);
  if (chain.empty()) return Invalid("the server's certificate");
  if (SSL_CTX_use_certificate(context, chain.front().get()) != 1) {
    return Invalid("the server's certificate");
  }
  for (size_t i = 1; i < chain.size(); i++) {
    if (SSL_CTX_add1_chain_cert(context, chain[i].get()) != 1) {
      return Invalid("the server's certificate chain");
    }
  }
  const auto bio = Text(credentials.key);
  EVP_PKEY* key = PEM_read_bio_PrivateKey(bio.get(), nullptr, NoPassword, nullptr);
  if (key == nullptr) return Invalid("the server's key");
  const int used = SSL_CTX_use_PrivateKey(context, key);
  EVP_PKEY_free(key);
  if (used != 1 || SSL_CTX_check_private_key(context) != 1) {
    return Invalid("the server's key and certificate");
  }
  return Status::Ok();
}

Status OpenSslContext::UseClientCa(const Credentials& credentials) {
  SSL_CTX* context = context_.get();
  X509_STORE* store = SSL_CTX_get_cert_store(context);
  const std::vector<Certificate> authorities = ReadCertificates(credentials.ca);
  if (authorities.empty()) return Invalid("the CA certificate");
  for (const Certificate& authority : authorities) {
    // Its name is told to clients, which choose their certificate by it.
    if (X509_STORE_add_cert(store, authority.get()) != 1 ||
        SSL_CTX_add_client_CA(context, authority.get()) != 1) {
      return Invalid("the CA certificate");
    }
  }
  if (!credentials.crl.empty()) {
    Status status = AddCrls(store, credentials.crl);
    if (!status.ok()) return status;
  }
  const bool required = credentials.verify_peer == VerifyPeer::kRequired;
  SSL_CTX_set_verify(context, SSL_VERIFY_PEER | (required ? SSL_VERIFY_FAIL_IF_NO_PEER_CERT : 0),
                     nullptr);
  return Status::Ok();
}

// Pre-shared keys --------------------------------------------------------------

Status OpenSslContext::UsePsk(const std::vector<PskEntry>& entries) {
  if (entries.size() > kMaxPskEntries) return Status(Code::kInvalid, "too many pre-shared keys");
  for (const PskEntry& entry : entries) {
    if (entry.key.size() < kMinPskBytes || entry.key.size() > kMaxPskBytes ||
        entry.identity.empty() || entry.identity.size() > kMaxPskIdentityBytes) {
      return Status(Code::kInvalid, "a pre-shared key or its identity is too short or too long");
    }
    (*keys_)[entry.identity] = entry.key;
  }
  SSL_CTX* context = context_.get();
  SSL_CTX_set_app_data(context, keys_.get());
  SSL_CTX_set_psk_find_session_callback(context, FindPskSession);
  SSL_CTX_set_psk_server_callback(context, FindPsk12);
  SSL_CTX_set_dh_auto(context, 1);
  return Status::Ok();
}

const std::vector<uint8_t>* OpenSslContext::FindKey(SSL* ssl, const std::string& identity) {
  const auto* keys = static_cast<const Keys*>(SSL_CTX_get_app_data(SSL_get_SSL_CTX(ssl)));
  const auto found = keys->find(identity);
  return found == keys->end() ? nullptr : &found->second;
}

// TLS 1.3. Returns 1 also when there is no such key: the client's next identity is tried then.
int OpenSslContext::FindPskSession(SSL* ssl, const unsigned char* identity, size_t bytes,
                                   SSL_SESSION** found) {
  *found = nullptr;
  const std::string name(reinterpret_cast<const char*>(identity), bytes);
  const std::vector<uint8_t>* key = FindKey(ssl, name);
  const SSL_CIPHER* suite = SSL_CIPHER_find(ssl, kPskSuite);
  if (key == nullptr || suite == nullptr) return 1;
  SSL_SESSION* session = SSL_SESSION_new();
  if (session == nullptr) return 0;
  if (SSL_SESSION_set1_master_key(session, key->data(), key->size()) != 1 ||
      SSL_SESSION_set_cipher(session, suite) != 1 ||
      SSL_SESSION_set_protocol_version(session, TLS1_3_VERSION) != 1) {
    SSL_SESSION_free(session);
    return 0;
  }
  OpenSslSession::Of(ssl)->ClaimPskIdentity(name);
  *found = session;
  return 1;
}

// TLS 1.2, and 1.3 for a key that FindPskSession did not find. 0: there is none.
unsigned OpenSslContext::FindPsk12(SSL* ssl, const char* identity, unsigned char* key,
                                   unsigned room) {
  const std::vector<uint8_t>* found = FindKey(ssl, identity);
  if (found == nullptr || found->size() > room) return 0;
  std::memcpy(key, found->data(), found->size());
  OpenSslSession::Of(ssl)->ClaimPskIdentity(identity);
  return static_cast<unsigned>(found->size());
}

}  // namespace flashlun::tls
