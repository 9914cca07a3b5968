// Fencing: what a client that has gone left behind must not be executed after the same client, or
// another machine that took its place, is served again.
//
// The hazard (shared/reference/nbd.md 1.11): a client sends a write, loses the connection, connects
// again, sends the write once more and then newer ones. If the first one were executed last, it
// would undo them. NBD has no client id, and one client may have several connections
// (CAN_MULTI_CONN), so what counts is whether the other end of the old socket still lives.
//
// The rule: before the first request of a new read-write connection is executed, every older
// read-write connection to the same volume is looked at.
//   closed       the peer has closed or reset it, whoever the new client is: fenced
//   silent       TCP, from the same address, with requests under way, and nothing was heard of the
//                peer for kHeardRecently: its system is asked for a sign of life (a keep-alive
//                probe). No answer within kProbeLimit, or a reset: fenced
//   else         it lives, as one of several connections of a client, and is left alone
// Fenced means: what it has sent but not begun is dropped, held writes too, what has begun has
// ended, and nothing more is received from it.
//
// What this cannot see: bytes that a client's own system still keeps of a socket that the client
// has given up, while that system answers probes. Clients that reconnect after an error of the
// socket (QEMU) leave no such bytes.
#pragma once

#include <cstdint>
#include <string>

namespace flashlun::nbd {

enum class PeerLife : uint8_t { kAlive, kSilent, kGone };

// What the system knows about the peer of a connected socket. A unix socket's peer is never silent:
// the system knows all of it.
PeerLife LookAtPeer(int fd);
// Makes the system ask a TCP peer for a sign of life now and every second.
void ProbePeer(int fd);
// The address of a TCP peer, without port, 4-in-6 as 4; empty for a unix socket.
std::string PeerAddress(int fd);

}  // namespace flashlun::nbd
