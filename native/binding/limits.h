// The addon's functions for limits of connections, and for who is at the other end of a socket.
#pragma once

#include <napi.h>

namespace flashlun::binding {

// Adds setRates, throttled, setConnectionLimits and connectionMemory to the addon.
void AddLimitFunctions(Napi::Env env, Napi::Object exports);

}  // namespace flashlun::binding
