// OpenSslSession: one TLS connection on OpenSSL, between two buffers of fixed size.
#pragma once

#include <openssl/ssl.h>

#include <memory>
#include <string>

#include "tls/limits.h"
#include "tls/provider.h"

namespace flashlun::tls {

struct FreeSsl {
  void operator()(SSL* ssl) const { SSL_free(ssl); }
};

class OpenSslSession final : public Session {
 public:
  // nullptr: no memory. `keeps` is what the callbacks of the context use.
  static std::unique_ptr<OpenSslSession> Make(SSL_CTX* context, uint64_t rekey_records,
                                              std::shared_ptr<const void> keeps);

  Step Accept() override;
  Peer GetPeer() const override;
  uint8_t* InputRoom(size_t* room) override;
  void InputArrived(size_t bytes) override;
  Step Decrypt(uint8_t* to, size_t room, size_t* got) override;
  bool HasInput() const override;
  size_t Encrypt(const uint8_t* from, size_t count) override;
  const uint8_t* Output(size_t* count) const override;
  void OutputSent() override { output_end_ = 0; }
  void End() override;
  const std::string& error() const override { return error_; }

  // Of the callbacks that look for a pre-shared key: who the client says it is. Counts only if the
  // handshake then uses the key, see GetPeer.
  void ClaimPskIdentity(std::string identity) { claimed_psk_ = std::move(identity); }
  static OpenSslSession* Of(const SSL* ssl);

 private:
  OpenSslSession(SSL* ssl, uint64_t rekey_records, std::shared_ptr<const void> keeps);
  static const BIO_METHOD* BioMethod();
  static int ReadBio(BIO* bio, char* to, size_t room, size_t* got);
  static int WriteBio(BIO* bio, const char* from, size_t count, size_t* written);
  static long ControlBio(BIO* bio, int command, long number, void* pointer);
  bool UsedPsk() const;
  void ChangeKeys();
  Step Fail(int ssl_error);

  const std::shared_ptr<const void> keeps_;
  const std::unique_ptr<SSL, FreeSsl> ssl_;
  const uint64_t rekey_records_;
  const std::unique_ptr<uint8_t[]> input_;
  const std::unique_ptr<uint8_t[]> output_;
  size_t input_begin_ = 0;
  size_t input_end_ = 0;
  size_t output_end_ = 0;
  uint64_t records_in_ = 0;  // with the present keys
  uint64_t records_out_ = 0;
  bool starved_ = false;  // OpenSSL has seen all input and wants more
  bool open_ = false;
  bool broken_ = false;
  std::string claimed_psk_;
  std::string error_;
};

}  // namespace flashlun::tls
