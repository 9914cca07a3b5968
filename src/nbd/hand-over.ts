/**
 * Passing a socket from Node to native code without losing or doubling a byte: the one place that
 * knows `socket._handle`, which Node does not document (but is "unlikely to be removed",
 * nodejs/node#8974).
 *
 * The server of the socket must have `allowHalfOpen: true`: otherwise Node answers an early EOF of
 * the client by closing the direction native code is going to write to.
 */

import type { Server, Socket } from 'node:net';
import { assert } from '../base/assert.js';
import { FlashlunError } from '../base/errors.js';
import { type PeerCredentials, peerCredentials } from '../engine/index.js';

/** What we use of Node's TCP and pipe wraps. */
interface StreamHandle {
  readonly fd: number;
  reading?: boolean;
  readStop(): void;
}

/** Takes the descriptor (duplicates it) and the bytes read so far; returns a connection id. */
export type Adopt = (fd: number, leftover: Uint8Array) => number;

/**
 * Gives the socket's descriptor to `adopt` and destroys the socket. All in this one turn of the
 * event loop: between stopping to read and destroying, libuv must not get to run.
 *
 * The caller has waited until its last write was flushed, and `leftover` is what it has read behind
 * the handshake. Whatever happens, the socket is destroyed afterwards.
 *
 * @throws FlashlunError CANNOT_CONNECT the client is gone
 * @throws whatever `adopt` throws
 */
export function handOver(socket: Socket, leftover: Uint8Array, adopt: Adopt): number {
  try {
    const parts = [leftover];
    // The stream may hold more than was taken from it. Reading may start the handle again, so this
    // comes before readStop.
    for (let chunk = read(socket); chunk !== null; chunk = read(socket)) parts.push(chunk);
    const handle = handleOf(socket);
    if (socket.destroyed || handle === undefined) {
      throw new FlashlunError('CANNOT_CONNECT', 'the client left before its first request');
    }
    assert(socket.writableLength === 0, 'the last handshake reply is flushed before hand-over');
    handle.readStop();
    handle.reading = false;
    for (const event of ['data', 'readable', 'end', 'close', 'error', 'timeout']) {
      socket.removeAllListeners(event);
    }
    socket.on('error', () => {
      // What happens to the descriptor from here on is native code's to report.
    });
    return adopt(handle.fd, Buffer.concat(parts));
  } finally {
    // destroy() closes our descriptor without shutdown(), so no FIN leaves while the duplicate
    // lives. end() would send one.
    socket.destroy();
  }
}

/**
 * Checks on a listening server that this version of Node still shows descriptors, so that a start
 * fails with one clear line instead of every connection.
 *
 * @throws FlashlunError INTERNAL
 */
export function checkDescriptorsShown(server: Server): void {
  if (handleOf(server) !== undefined) return;
  throw new FlashlunError(
    'INTERNAL',
    `Node ${process.version} does not show socket descriptors to the program, which NBD needs. ` +
      'Use Node 20, 22 or 24 on Linux.',
  );
}

/** The descriptor of a socket or listening server that Node still has; undefined: it is gone. */
export function descriptorOf(owner: Socket | Server): number | undefined {
  return handleOf(owner)?.fd;
}

/**
 * The process at the other end of a unix socket and its user; empty when it has gone before we
 * looked. One in a PID namespace of its own has no pid here.
 */
export function unixPeerOf(socket: Socket): Partial<PeerCredentials> {
  const handle = handleOf(socket);
  if (handle === undefined) return {};
  try {
    const { pid, uid } = peerCredentials(handle.fd);
    return pid === 0 ? { uid } : { pid, uid };
  } catch {
    return {};
  }
}

function read(socket: Socket): Uint8Array | null {
  return socket.read() as Uint8Array | null;
}

function handleOf(owner: Socket | Server): StreamHandle | undefined {
  const handle = (owner as { _handle?: StreamHandle | null })._handle;
  return handle && typeof handle.fd === 'number' && handle.fd >= 0 ? handle : undefined;
}
