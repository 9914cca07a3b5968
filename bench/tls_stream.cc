#include "tls_stream.h"

#include <stdexcept>

#ifdef FLASHLUN_BENCH_TLS
#include <openssl/err.h>
#include <openssl/ssl.h>

namespace flashlun::bench {
namespace {

// So that one recv takes a whole batch of replies, as without TLS.
constexpr size_t kReadAheadBytes = 256u << 10;

[[noreturn]] void Fail(const char* what) {
  const char* reason = ERR_reason_error_string(ERR_get_error());
  throw std::runtime_error(std::string(what) + ": " + (reason ? reason : "connection lost"));
}

class OpenSslStream final : public TlsStream {
 public:
  OpenSslStream(int fd, std::string identity, std::vector<uint8_t> key)
      : identity_(std::move(identity)), key_(std::move(key)) {
    context_ = SSL_CTX_new(TLS_client_method());
    SSL_CTX_set_psk_use_session_callback(context_, UseKey);
    SSL_CTX_set_default_read_buffer_len(context_, kReadAheadBytes);
    SSL_CTX_set_read_ahead(context_, 1);
    ssl_ = SSL_new(context_);
    SSL_set_app_data(ssl_, this);
    SSL_set_fd(ssl_, fd);
    if (SSL_connect(ssl_) != 1) Fail("TLS handshake");
  }
  ~OpenSslStream() override {
    SSL_free(ssl_);
    SSL_CTX_free(context_);
  }
  OpenSslStream(const OpenSslStream&) = delete;
  OpenSslStream& operator=(const OpenSslStream&) = delete;

  void Send(const void* bytes, size_t count) override {
    size_t sent = 0;
    if (SSL_write_ex(ssl_, bytes, count, &sent) != 1 || sent != count) Fail("TLS send");
  }

  size_t Receive(void* bytes, size_t count) override {
    auto* to = static_cast<uint8_t*>(bytes);
    size_t got = 0;
    do {
      size_t some = 0;
      if (SSL_read_ex(ssl_, to + got, count - got, &some) != 1) Fail("TLS receive");
      got += some;
      // The rest of a record that has begun follows at once, so waiting for it costs nothing.
    } while (got < count && SSL_has_pending(ssl_) == 1);
    return got;
  }

 private:
  static int UseKey(SSL* ssl, const EVP_MD*, const unsigned char** identity, size_t* bytes,
                    SSL_SESSION** session) {
    auto* self = static_cast<OpenSslStream*>(SSL_get_app_data(ssl));
    const unsigned char suite[] = {0x13, 0x01};
    *session = SSL_SESSION_new();
    SSL_SESSION_set1_master_key(*session, self->key_.data(), self->key_.size());
    SSL_SESSION_set_cipher(*session, SSL_CIPHER_find(ssl, suite));
    SSL_SESSION_set_protocol_version(*session, TLS1_3_VERSION);
    *identity = reinterpret_cast<const unsigned char*>(self->identity_.data());
    *bytes = self->identity_.size();
    return 1;
  }

  const std::string identity_;
  const std::vector<uint8_t> key_;
  SSL_CTX* context_;
  SSL* ssl_;
};

}  // namespace

std::unique_ptr<TlsStream> StartTls(int fd, const std::string& identity,
                                    const std::vector<uint8_t>& key) {
  return std::make_unique<OpenSslStream>(fd, identity, key);
}

}  // namespace flashlun::bench

#else

namespace flashlun::bench {

std::unique_ptr<TlsStream> StartTls(int, const std::string&, const std::vector<uint8_t>&) {
  throw std::runtime_error("built without OpenSSL: apt-get install libssl-dev, build again");
}

}  // namespace flashlun::bench

#endif
