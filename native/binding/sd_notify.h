// sd_notify(3) without libsystemd: Node has no datagram unix sockets, and a helper process would
// race with systemd's question who sent the message.
#pragma once

#include <string>

#include "core/status.h"

namespace flashlun::binding {

// Sends `state` ("READY=1") to $NOTIFY_SOCKET. kNotFound when the variable is not set (not run by
// systemd).
Status SdNotify(const std::string& state);

}  // namespace flashlun::binding
