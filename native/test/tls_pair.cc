#include "test/tls_pair.h"

#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>

#include <csignal>
#include <thread>

namespace flashlun::nbd {
namespace {

std::string TextOf(const std::function<void(BIO*)>& write) {
  BIO* bio = BIO_new(BIO_s_mem());
  write(bio);
  char* data = nullptr;
  const long bytes = BIO_get_mem_data(bio, &data);
  std::string text(data, static_cast<size_t>(bytes));
  BIO_free(bio);
  return text;
}

X509* ReadCertificate(const std::string& pem) {
  BIO* bio = BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size()));
  X509* certificate = PEM_read_bio_X509(bio, nullptr, nullptr, nullptr);
  BIO_free(bio);
  REQUIRE(certificate != nullptr);
  return certificate;
}

EVP_PKEY* ReadKey(const std::string& pem) {
  BIO* bio = BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size()));
  EVP_PKEY* key = PEM_read_bio_PrivateKey(bio, nullptr, nullptr, nullptr);
  BIO_free(bio);
  REQUIRE(key != nullptr);
  return key;
}

void AddExtension(X509* certificate, int nid, const std::string& value) {
  X509_EXTENSION* extension = X509V3_EXT_conf_nid(nullptr, nullptr, nid, value.c_str());
  REQUIRE(extension != nullptr);
  X509_add_ext(certificate, extension, -1);
  X509_EXTENSION_free(extension);
}

// Signed by `issuer`, or by itself with an empty one.
Issued MakeCertificate(const std::string& common_name, long serial, const Issued& issuer) {
  EVP_PKEY* key = EVP_EC_gen("P-256");
  X509* certificate = X509_new();
  X509_set_version(certificate, X509_VERSION_3);
  ASN1_INTEGER_set(X509_get_serialNumber(certificate), serial);
  X509_gmtime_adj(X509_getm_notBefore(certificate), -3600);
  X509_gmtime_adj(X509_getm_notAfter(certificate), 3600);
  X509_set_pubkey(certificate, key);
  X509_NAME_add_entry_by_txt(X509_get_subject_name(certificate), "CN", MBSTRING_UTF8,
                             reinterpret_cast<const unsigned char*>(common_name.c_str()), -1, -1,
                             0);
  const bool self_signed = issuer.key.empty();
  if (self_signed) {
    X509_set_issuer_name(certificate, X509_get_subject_name(certificate));
    AddExtension(certificate, NID_basic_constraints, "critical,CA:TRUE");
    X509_sign(certificate, key, EVP_sha256());
  } else {
    X509* authority = ReadCertificate(issuer.certificate);
    EVP_PKEY* authority_key = ReadKey(issuer.key);
    X509_set_issuer_name(certificate, X509_get_subject_name(authority));
    AddExtension(certificate, NID_subject_alt_name, "DNS:" + common_name);
    X509_sign(certificate, authority_key, EVP_sha256());
    EVP_PKEY_free(authority_key);
    X509_free(authority);
  }
  Issued issued;
  issued.certificate = TextOf([&](BIO* bio) { PEM_write_bio_X509(bio, certificate); });
  issued.key = TextOf(
      [&](BIO* bio) { PEM_write_bio_PrivateKey(bio, key, nullptr, nullptr, 0, nullptr, nullptr); });
  X509_free(certificate);
  EVP_PKEY_free(key);
  return issued;
}

int UsePsk(SSL* ssl, const EVP_MD*, const unsigned char** identity, size_t* bytes,
           SSL_SESSION** session) {
  const auto* settings = static_cast<const ClientSettings*>(SSL_get_app_data(ssl));
  const unsigned char suite[] = {0x13, 0x01};
  *session = SSL_SESSION_new();
  SSL_SESSION_set1_master_key(*session, settings->psk.data(), settings->psk.size());
  SSL_SESSION_set_cipher(*session, SSL_CIPHER_find(ssl, suite));
  SSL_SESSION_set_protocol_version(*session, TLS1_3_VERSION);
  *identity = reinterpret_cast<const unsigned char*>(settings->psk_identity.data());
  *bytes = settings->psk_identity.size();
  return 1;
}

unsigned UsePsk12(SSL* ssl, const char*, char* identity, unsigned identity_room, unsigned char* key,
                  unsigned key_room) {
  const auto* settings = static_cast<const ClientSettings*>(SSL_get_app_data(ssl));
  REQUIRE(settings->psk_identity.size() < identity_room);
  REQUIRE(settings->psk.size() <= key_room);
  std::strcpy(identity, settings->psk_identity.c_str());
  std::memcpy(key, settings->psk.data(), settings->psk.size());
  return static_cast<unsigned>(settings->psk.size());
}

}  // namespace

Authority::Authority() : self_(MakeCertificate("Test CA", 1, {})) {}

Issued Authority::Issue(const std::string& common_name) {
  return MakeCertificate(common_name, ++serial_, self_);
}

std::string Authority::Revoke(const std::vector<Issued>& revoked) {
  X509_CRL* crl = X509_CRL_new();
  X509* authority = ReadCertificate(self_.certificate);
  EVP_PKEY* key = ReadKey(self_.key);
  X509_CRL_set_version(crl, X509_CRL_VERSION_2);
  X509_CRL_set_issuer_name(crl, X509_get_subject_name(authority));
  ASN1_TIME* now = X509_gmtime_adj(nullptr, -60);
  X509_CRL_set1_lastUpdate(crl, now);
  X509_gmtime_adj(now, 3600);
  X509_CRL_set1_nextUpdate(crl, now);
  for (const Issued& issued : revoked) {
    X509* certificate = ReadCertificate(issued.certificate);
    X509_REVOKED* entry = X509_REVOKED_new();
    X509_REVOKED_set_serialNumber(entry, X509_get_serialNumber(certificate));
    X509_REVOKED_set_revocationDate(entry, now);
    X509_CRL_add0_revoked(crl, entry);
    X509_free(certificate);
  }
  X509_CRL_sign(crl, key, EVP_sha256());
  std::string text = TextOf([&](BIO* bio) { PEM_write_bio_X509_CRL(bio, crl); });
  ASN1_TIME_free(now);
  EVP_PKEY_free(key);
  X509_free(authority);
  X509_CRL_free(crl);
  return text;
}

TlsClient::TlsClient(int fd, const ClientSettings& settings)
    : context_(SSL_CTX_new(TLS_client_method())), ssl_(nullptr), settings_(settings) {
  // OpenSSL writes to its socket without MSG_NOSIGNAL.
  std::signal(SIGPIPE, SIG_IGN);
  if (!settings_.psk.empty()) {
    SSL_CTX_set_psk_use_session_callback(context_, UsePsk);
    SSL_CTX_set_psk_client_callback(context_, UsePsk12);
  }
  if (settings_.version != 0) {
    SSL_CTX_set_min_proto_version(context_, settings_.version);
    SSL_CTX_set_max_proto_version(context_, settings_.version);
  }
  if (!settings_.ciphers12.empty()) {
    REQUIRE(SSL_CTX_set_cipher_list(context_, settings_.ciphers12.c_str()) == 1);
  }
  if (!settings_.ciphers13.empty()) {
    REQUIRE(SSL_CTX_set_ciphersuites(context_, settings_.ciphers13.c_str()) == 1);
  }
  if (!settings_.identity.key.empty()) {
    X509* certificate = ReadCertificate(settings_.identity.certificate);
    EVP_PKEY* key = ReadKey(settings_.identity.key);
    REQUIRE(SSL_CTX_use_certificate(context_, certificate) == 1);
    REQUIRE(SSL_CTX_use_PrivateKey(context_, key) == 1);
    X509_free(certificate);
    EVP_PKEY_free(key);
  }
  ssl_ = SSL_new(context_);
  SSL_set_app_data(ssl_, &settings_);
  SSL_set_fd(ssl_, fd);
  SSL_set_msg_callback(ssl_, Watch);
  SSL_set_msg_callback_arg(ssl_, this);
}

void TlsClient::Watch(int, int, int type, const void* bytes, size_t count, SSL*, void* self) {
  const auto* message = static_cast<const unsigned char*>(bytes);
  if (type != SSL3_RT_HANDSHAKE || count == 0 || message[0] != SSL3_MT_KEY_UPDATE) return;
  static_cast<TlsClient*>(self)->key_updates_++;
}

TlsClient::~TlsClient() {
  SSL_free(ssl_);
  SSL_CTX_free(context_);
}

bool TlsClient::Connect() {
  ERR_clear_error();
  if (SSL_connect(ssl_) == 1) return true;
  const char* reason = ERR_reason_error_string(ERR_get_error());
  error_ = reason == nullptr ? "connection lost" : reason;
  return false;
}

ssize_t TlsClient::Receive(void* to, size_t room) {
  ERR_clear_error();
  size_t got = 0;
  const int result = SSL_read_ex(ssl_, to, room, &got);
  if (result == 1) return static_cast<ssize_t>(got);
  const int error = SSL_get_error(ssl_, result);
  ended_in_order_ = error == SSL_ERROR_ZERO_RETURN;
  if (ended_in_order_) return 0;
  const char* reason = ERR_reason_error_string(ERR_get_error());
  error_ = reason == nullptr ? "connection lost" : reason;
  return -1;
}

ssize_t TlsClient::Send(const void* from, size_t count) {
  ERR_clear_error();
  size_t sent = 0;
  return SSL_write_ex(ssl_, from, count, &sent) == 1 ? static_cast<ssize_t>(sent) : -1;
}

tls::Credentials ServerCredentials(Authority& authority) {
  const Issued server = authority.Issue("localhost");
  tls::Credentials credentials;
  credentials.certificate = server.certificate;
  credentials.key = server.key;
  credentials.ca = authority.certificate();
  return credentials;
}

bool AcceptOn(int fd, tls::Session& session) {
  for (;;) {
    const SecureStream::Step step = session.Accept();
    size_t count = 0;
    const uint8_t* output = session.Output(&count);
    session.OutputSent();
    if (count > 0 && ::send(fd, output, count, MSG_NOSIGNAL) < 0) return false;
    if (step != SecureStream::Step::kWantInput) return step == SecureStream::Step::kData;
    size_t room = 0;
    uint8_t* to = session.InputRoom(&room);
    const ssize_t got = ::recv(fd, to, room, 0);
    if (got <= 0) return false;
    session.InputArrived(static_cast<size_t>(got));
  }
}

std::pair<std::unique_ptr<tls::Session>, std::unique_ptr<TlsClient>> Handshake(
    const tls::Credentials& credentials, const ClientSettings& settings, int server, int client) {
  Result<std::unique_ptr<tls::Context>> context = tls::GetProvider()->NewContext(credentials);
  REQUIRE_MESSAGE(context.ok(), context.status().message());
  std::unique_ptr<tls::Session> session = context.value()->NewSession();
  auto peer = std::make_unique<TlsClient>(client, settings);
  std::thread connecting([&peer] { peer->Connect(); });
  // Not ended: an end of file would hide what the alert says.
  AcceptOn(server, *session);
  connecting.join();
  return {std::move(session), std::move(peer)};
}

}  // namespace flashlun::nbd
