// What OpenSSL has to say about a failure, as one line for people.
#pragma once

#include <openssl/ssl.h>

#include <string>

namespace flashlun::tls {

// Of a connection: `ssl_error` is SSL_get_error's. The thread's error queue may keep some.
std::string ErrorText(const SSL* ssl, int ssl_error);
// Of the last call that failed on this thread; "unknown error" when nothing is queued. Empties the
// queue.
std::string LastErrorText();

}  // namespace flashlun::tls
