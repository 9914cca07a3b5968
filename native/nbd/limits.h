// Limits of the transmission phase, each with its reason. Limits shared with the engine are in
// core/limits.h.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>

#include "core/limits.h"

namespace flashlun::nbd {

// Receive buffer of a connection: 64 writes of 4 KiB in one recv, and L2-sized. A larger WRITE is
// stored piecewise as it arrives, so no payload ever needs a bigger buffer.
inline constexpr size_t kReceiveBytes = 256u << 10;
static_assert(kReceiveBytes >= 2 * kTrackBytes, "a piece of a WRITE is at least one whole track");
static_assert(kReceiveBytes >= 2 * kMaxAsyncWriteBytes, "an asynchronous WRITE is received whole");

// Most data of one reply chunk built in the send buffer. Longer structured reads leave in several
// chunks.
inline constexpr size_t kChunkDataBytes = 256u << 10;
// A hole of a structured READ that gets a chunk of its own; shorter ones are sent as zeroes,
// because a chunk more costs both sides more than these bytes.
inline constexpr uint64_t kMinHoleBytes = 16u << 10;
// Metadata contexts of one connection (src/nbd offers no more).
inline constexpr size_t kMaxContexts = 16;
// Extents of one BLOCK_STATUS chunk: 128 KiB of the longer form. The protocol allows 2^20; who
// wants more asks again.
inline constexpr size_t kMaxStatusExtents = 8192;
// Send buffer of a connection: replies of one batch (32 reads of 4 KiB are 131 KiB), and one
// largest chunk.
inline constexpr size_t kSendBytes = 512u << 10;
static_assert(kSendBytes >= kChunkDataBytes + 64, "a chunk with its header fits");
static_assert(kSendBytes >= 16 * kMaxStatusExtents + 64, "a status chunk fits");

// A WRITE longer than kMaxPayloadBytes breaks the protocol's default; up to this it is drained and
// refused (libnbd lets its user send 64 MiB), above it the connection is closed.
inline constexpr uint32_t kMaxDrainBytes = 64u << 20;

// TRIM and WRITE_ZEROES run in pieces of this, so that one request of 4 GiB does not hold an
// operation slot for seconds, which an establish waits for. Whole tracks: pieces must not make
// ragged ends.
inline constexpr uint32_t kRangePieceBytes = 32u << 20;
static_assert(kRangePieceBytes % kTrackBytes == 0);

// Requests of one connection that wait for a flush or for the disk. When all are taken the
// connection stops receiving. nbd.ko has 128 in flight, QEMU 16, libnbd users 64.
inline constexpr size_t kMaxInFlight = 256;
// Buffers of one connection's reads and writes that wait for the disk, in bytes. A single one above
// it waits to be alone.
inline constexpr size_t kMaxBufferedBytes = 2u << 20;
// Of those, what a connection always has: 64 reads of 4 KiB, or one chunk. More comes from what all
// connections share; who gets none of that goes on with this.
inline constexpr size_t kOwnBufferedBytes = kChunkDataBytes;
static_assert(kOwnBufferedBytes >= kMaxAsyncWriteBytes, "an asynchronous WRITE always fits");
// Shared by all connections of a server, unless it is told otherwise (--nbd-memory): eight of the
// longest reads, or 1,000 connections with 64 more reads of 4 KiB each.
inline constexpr size_t kSharedBufferBytes = size_t{256} << 20;
// What a connection's thread waits for itself when its client has one request at a time: longer
// ones leave it free, for Stop and for what the client may send next.
inline constexpr size_t kMaxInlineWaitBytes = kMaxAsyncWriteBytes;
// After a connection has shown that it sends requests while one is under way, so many of them are
// asynchronous before it is looked at again (Connection::Alone).
inline constexpr int kDeepCredit = 64;
// Plain bytes that are encrypted before they are sent: two records. The client decrypts them while
// the next ones are encrypted; a whole batch of replies at once would make the two take turns
// (measured, 4 KiB random reads at queue depth 32, of the plain rate: 0.45 by the batch, 0.65 with
// 48 KiB, 0.68 with 32 KiB).
inline constexpr size_t kSecureSendBytes = 32 << 10;

// Bytes the negotiation may hand over as already received (src/nbd reads at most 64 KiB at a time).
inline constexpr size_t kMaxLeftoverBytes = 1u << 20;

// Connections of one pool: each takes an OpSlot; the rest is for asynchronous operations, workers
// and control calls.
inline constexpr size_t kMaxConnections = kMaxOpSlots - kMaxAsyncOps - 64;

// How long a connection looks for bytes before it sleeps: about what the sleep and its wake-up
// cost.
inline constexpr std::chrono::microseconds kSpinTime{30};
// Times that it may look in vain until it only sleeps: after a short sleep, and after a busy while.
inline constexpr int kSpinCredit = 4;
inline constexpr int kSpinCreditMost = 16;

// Payloads of writes that a freeze holds, of one connection: what QEMU may have in flight (16
// requests) at 2 MiB each, and one of the longest. More is not received.
inline constexpr size_t kMaxHeldBytes = size_t{kMaxPayloadBytes};
// The same of all connections of the process: held writes of 16 such connections.
inline constexpr size_t kMaxHeldBytesInAll = size_t{512} << 20;

// How long parking waits for requests in flight: longer than a disk takes, shorter than clients do.
inline constexpr std::chrono::milliseconds kParkLimit{5000};
// What a client has not taken of its replies when its connection is parked: with one READ of the
// longest, and small ones. A connection with more is closed.
inline constexpr size_t kMaxUnsentBytes = size_t{64} << 20;
// Bytes of requests of a parked connection: what it held, what its buffer has, what it was given.
inline constexpr size_t kMaxResumeBytes = kMaxHeldBytes + kReceiveBytes + kMaxLeftoverBytes;
// A message between two servers: the two above and a description. Descriptors: SCM_MAX_FD of Linux.
inline constexpr size_t kMaxMessageBytes = kMaxUnsentBytes + kMaxResumeBytes + (size_t{1} << 20);
inline constexpr size_t kMaxDescriptors = 253;

// A TCP client that was heard of so recently lives.
inline constexpr std::chrono::milliseconds kHeardRecently{1000};
// How long a silent one has to answer a keep-alive probe, sent every second, before its writes are
// fenced off. Its system answers by itself, whatever the program does.
inline constexpr std::chrono::milliseconds kProbeLimit{3000};

// How long a stopping connection waits for a client that does not read its last replies.
inline constexpr std::chrono::milliseconds kStopGrace{2000};

// What a client still sends when we end the connection is read into nothing for so long, and so
// much: a client that sees our end stops within a round trip.
inline constexpr std::chrono::milliseconds kLingerTime{500};
inline constexpr size_t kLingerBytes = size_t{kMaxDrainBytes};

// A TCP peer that vanished without a word is noticed after this, and its volume freed (peer.h;
// --nbd-peer-timeout).
inline constexpr std::chrono::seconds kPeerTimeout{120};
// How often a connection that waits for its client to read looks whether the client is there, and
// whether the memory is needed elsewhere.
inline constexpr std::chrono::milliseconds kPeerCheckTime{1000};
// A client that takes longer than this to take a reply has it read again in pieces, if the shared
// memory it lies in is short.
inline constexpr std::chrono::milliseconds kReadPatience{2000};

}  // namespace flashlun::nbd
