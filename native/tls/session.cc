#include "tls/session.h"

#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/x509.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "tls/error_text.h"

namespace flashlun::tls {

OpenSslSession::OpenSslSession(SSL* ssl, uint64_t rekey_records, std::shared_ptr<const void> keeps)
    : keeps_(std::move(keeps)),
      ssl_(ssl),
      rekey_records_(rekey_records),
      input_(new uint8_t[kInputBytes]),
      output_(new uint8_t[kOutputBytes]) {}

std::unique_ptr<OpenSslSession> OpenSslSession::Make(SSL_CTX* context, uint64_t rekey_records,
                                                     std::shared_ptr<const void> keeps) {
  SSL* ssl = SSL_new(context);
  if (ssl == nullptr) return nullptr;
  std::unique_ptr<OpenSslSession> session(new OpenSslSession(ssl, rekey_records, std::move(keeps)));
  BIO* bio = BIO_new(BioMethod());
  if (bio == nullptr) return nullptr;
  BIO_set_data(bio, session.get());
  BIO_set_init(bio, 1);
  SSL_set_bio(ssl, bio, bio);  // takes the one reference
  SSL_set_app_data(ssl, session.get());
  SSL_set_accept_state(ssl);
  return session;
}

OpenSslSession* OpenSslSession::Of(const SSL* ssl) {
  return static_cast<OpenSslSession*>(SSL_get_app_data(ssl));
}

// The buffers as a BIO ---------------------------------------------------------

const BIO_METHOD* OpenSslSession::BioMethod() {
  static BIO_METHOD* const method = [] {
    BIO_METHOD* made = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "flashlun");
    BIO_meth_set_read_ex(made, ReadBio);
    BIO_meth_set_write_ex(made, WriteBio);
    BIO_meth_set_ctrl(made, ControlBio);
    return made;
  }();
  return method;
}

int OpenSslSession::ReadBio(BIO* bio, char* to, size_t room, size_t* got) {
  auto* self = static_cast<OpenSslSession*>(BIO_get_data(bio));
  BIO_clear_retry_flags(bio);
  const size_t count = std::min(room, self->input_end_ - self->input_begin_);
  if (count == 0) {
    self->starved_ = true;
    BIO_set_retry_read(bio);
    return 0;
  }
  std::memcpy(to, self->input_.get() + self->input_begin_, count);
  self->input_begin_ += count;
  *got = count;
  return 1;
}

int OpenSslSession::WriteBio(BIO* bio, const char* from, size_t count, size_t* written) {
  auto* self = static_cast<OpenSslSession*>(BIO_get_data(bio));
  BIO_clear_retry_flags(bio);
  const size_t taken = std::min(count, kOutputBytes - self->output_end_);
  if (taken == 0) {
    BIO_set_retry_write(bio);
    return 0;
  }
  std::memcpy(self->output_.get() + self->output_end_, from, taken);
  self->output_end_ += taken;
  *written = taken;
  return 1;
}

long OpenSslSession::ControlBio(BIO*, int command, long, void*) {
  return command == BIO_CTRL_FLUSH ? 1 : 0;
}

uint8_t* OpenSslSession::InputRoom(size_t* room) {
  if (input_begin_ == input_end_) {
    input_begin_ = input_end_ = 0;
  } else if (input_begin_ > 0) {
    std::memmove(input_.get(), input_.get() + input_begin_, input_end_ - input_begin_);
    input_end_ -= input_begin_;
    input_begin_ = 0;
  }
  *room = kInputBytes - input_end_;
  return input_.get() + input_end_;
}

void OpenSslSession::InputArrived(size_t bytes) {
  input_end_ += bytes;
  starved_ = false;
}

const uint8_t* OpenSslSession::Output(size_t* count) const {
  *count = output_end_;
  return output_.get();
}

// Handshake --------------------------------------------------------------------

nbd::SecureStream::Step OpenSslSession::Accept() {
  if (broken_) return Step::kBroken;
  if (open_) return Step::kData;
  // Errors are kept per thread, and this may be Node's: nothing of ours may be left there, nor
  // anything of others be taken for ours.
  ERR_clear_error();
  const int result = SSL_do_handshake(ssl_.get());
  if (result == 1) {
    open_ = true;
    return Step::kData;
  }
  const int error = SSL_get_error(ssl_.get(), result);
  return error == SSL_ERROR_WANT_READ ? Step::kWantInput : Fail(error);
}

// A client may name an identity whose key it does not have, and then go on with a handshake that
// does not use it. Resumption is off, so a resumed TLS 1.3 session is one by an external key.
bool OpenSslSession::UsedPsk() const {
  const SSL* ssl = ssl_.get();
  if (SSL_version(ssl) >= TLS1_3_VERSION) return SSL_session_reused(ssl) == 1;
  return SSL_CIPHER_get_auth_nid(SSL_get_current_cipher(ssl)) == NID_auth_psk;
}

Peer OpenSslSession::GetPeer() const {
  Peer peer;
  peer.protocol = SSL_get_version(ssl_.get());
  peer.cipher = SSL_CIPHER_standard_name(SSL_get_current_cipher(ssl_.get()));
  if (UsedPsk()) peer.psk_identity = claimed_psk_;
  X509* certificate = SSL_get1_peer_certificate(ssl_.get());
  if (certificate == nullptr) return peer;
  // The handshake has failed otherwise; said again because everything else relies on it.
  if (SSL_get_verify_result(ssl_.get()) == X509_V_OK) {
    unsigned char* der = nullptr;
    const int bytes = i2d_X509(certificate, &der);
    if (bytes > 0) peer.certificate.assign(der, der + bytes);
    OPENSSL_free(der);
  }
  X509_free(certificate);
  return peer;
}

nbd::SecureStream::Step OpenSslSession::Fail(int ssl_error) {
  broken_ = true;
  error_ = ErrorText(ssl_.get(), ssl_error);
  ERR_clear_error();
  return Step::kBroken;
}

// Transmission -----------------------------------------------------------------

bool OpenSslSession::HasInput() const {
  return !starved_ && (input_begin_ < input_end_ || SSL_has_pending(ssl_.get()) == 1);
}

nbd::SecureStream::Step OpenSslSession::Decrypt(uint8_t* to, size_t room, size_t* got) {
  if (broken_) return Step::kBroken;
  *got = 0;
  ERR_clear_error();
  // A call gives one record at most; a batch of small ones shall be one receive.
  while (*got < room && !starved_) {
    size_t bytes = 0;
    const int result = SSL_read_ex(ssl_.get(), to + *got, room - *got, &bytes);
    if (result == 1) {
      *got += bytes;
      records_in_++;
      continue;
    }
    const int error = SSL_get_error(ssl_.get(), result);
    if (error == SSL_ERROR_WANT_READ) break;
    if (error == SSL_ERROR_ZERO_RETURN) return *got > 0 ? Step::kData : Step::kEnd;
    Fail(error);
    return *got > 0 ? Step::kData : Step::kBroken;  // the next call tells
  }
  return *got > 0 ? Step::kData : Step::kWantInput;
}

// Both directions: a client on OpenSSL never changes keys by itself.
void OpenSslSession::ChangeKeys() {
  if (records_out_ < rekey_records_ && records_in_ < rekey_records_) return;
  records_out_ = records_in_ = 0;
  // TLS 1.2 has only renegotiation for it, which is off.
  if (SSL_version(ssl_.get()) < TLS1_3_VERSION) return;
  if (SSL_key_update(ssl_.get(), SSL_KEY_UPDATE_REQUESTED) != 1) ERR_clear_error();
}

size_t OpenSslSession::Encrypt(const uint8_t* from, size_t count) {
  if (broken_) return 0;
  ERR_clear_error();
  size_t taken = 0;
  while (taken < count && kOutputBytes - output_end_ >= kRecordBytes + kRecordOverheadBytes) {
    ChangeKeys();
    size_t written = 0;
    const size_t wanted = std::min(count - taken, kRecordBytes);
    const int result = SSL_write_ex(ssl_.get(), from + taken, wanted, &written);
    if (result != 1) {
      Fail(SSL_get_error(ssl_.get(), result));
      return taken;
    }
    taken += written;
    records_out_++;
  }
  return taken;
}

void OpenSslSession::End() {
  if (broken_ || !open_) return;
  ERR_clear_error();
  if ((SSL_get_shutdown(ssl_.get()) & SSL_SENT_SHUTDOWN) != 0) return;
  if (SSL_shutdown(ssl_.get()) < 0) ERR_clear_error();
}

}  // namespace flashlun::tls
