// TLS for src/engine/tls.ts: contexts, and sessions that negotiate on the JavaScript thread until
// a connection takes them over.
#pragma once

#include <napi.h>

#include <memory>

#include "nbd/secure_stream.h"

namespace flashlun::binding {

// Adds the tls* functions.
void AddTls(Napi::Env env, Napi::Object exports);

// The session of an argument made by tlsSession, which must be open; nullptr when the argument is
// undefined. JavaScript has no more of it afterwards. Throws INVALID.
std::unique_ptr<nbd::SecureStream> TakeSession(const Napi::CallbackInfo& info, size_t index);

}  // namespace flashlun::binding
