/** What negotiation and hand-over need of an encrypted connection, however it is done. */

import type { Duplex } from 'node:stream';
import type { TlsSession } from '../engine/types.js';
import type { TlsPeer } from './tls-identity.js';

/**
 * Takes the descriptor (duplicates it) and what has been read behind the handshake, in plain text;
 * `session` when the descriptor carries ciphertext. Returns a connection id.
 */
export type AdoptSecure = (
  fd: number,
  leftover: Uint8Array,
  session: TlsSession | undefined,
) => number;

export interface SecureTransport {
  /** Plain text. Destroying it closes the socket. */
  readonly stream: Duplex;
  /** Called once, when the handshake has succeeded; before that nothing can be read. */
  onOpen: ((peer: TlsPeer) => void) | undefined;
  /** Called at most once instead; the socket is closed then, or is about to be. */
  onFailed: ((reason: string) => void) | undefined;
  /**
   * Gives the connection to `adopt`, in this turn of the event loop; the last write is flushed.
   *
   * @throws whatever `adopt` throws; the socket is closed then
   */
  handOver(leftover: Uint8Array, adopt: AdoptSecure): number;
}
