// Opens flashlun_tls.so, the library beside the addon.
#pragma once

#include <string>

#include "tls/provider.h"

namespace flashlun::tls {

// The provider, or nullptr with the reason in *why. The first call decides; any thread. Never
// closed: sessions run its code until the process ends.
const Provider* LoadProvider(std::string* why);

}  // namespace flashlun::tls
