#include "tls/error_text.h"

#include <openssl/err.h>
#include <openssl/x509_vfy.h>

namespace flashlun::tls {

std::string LastErrorText() {
  // The first is the cause, the others the callers it went through.
  const unsigned long first = ERR_get_error();
  ERR_clear_error();
  if (first == 0) return "unknown error";
  const char* reason = ERR_reason_error_string(first);
  return reason != nullptr ? reason : "error " + std::to_string(ERR_GET_REASON(first));
}

std::string ErrorText(const SSL* ssl, int ssl_error) {
  if (ssl_error == SSL_ERROR_WANT_WRITE) return "the handshake sends more than can be buffered";
  const long verified = SSL_get_verify_result(ssl);
  if (verified == X509_V_OK) return LastErrorText();
  return std::string("certificate verify failed (") + X509_verify_cert_error_string(verified) + ")";
}

}  // namespace flashlun::tls
