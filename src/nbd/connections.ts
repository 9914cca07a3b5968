/**
 * The NBD connections that native code serves. Node does not count them any more once their
 * sockets are handed over, so this does, for the API, metrics and an orderly stop.
 */

import type { PeerIdentity } from '../array/peer.js';
import type { TlsPeer } from './tls-identity.js';

/** One client in its transmission phase. */
export interface NbdConnection {
  /** The engine's id of the connection. */
  readonly id: number;
  readonly volumeId: number;
  /** `127.0.0.1:40112`, or `unix`: the peer of a unix socket has no name. */
  readonly peer: string;
  readonly transport: 'tcp' | 'unix';
  /** What access rules know of the client. */
  readonly identity: PeerIdentity;
  readonly readOnly: boolean;
  /** Undefined: plain text. */
  readonly tls: TlsPeer | undefined;
  /** ISO time of the hand-over. */
  readonly since: string;
}

export class ConnectionRegistry {
  readonly #connections = new Map<number, NbdConnection>();
  #onEmpty: (() => void)[] = [];

  add(connection: NbdConnection): void {
    this.#connections.set(connection.id, connection);
  }

  remove(id: number): void {
    this.#connections.delete(id);
    if (this.#connections.size > 0) return;
    const waiting = this.#onEmpty;
    this.#onEmpty = [];
    for (const resolve of waiting) resolve();
  }

  list(): NbdConnection[] {
    return [...this.#connections.values()];
  }

  /** Resolves to true when no connection is left, to false when the deadline passes first. */
  async untilEmpty(deadlineMs: number): Promise<boolean> {
    if (this.#connections.size === 0) return true;
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<boolean>((resolve) => {
      timer = setTimeout(() => resolve(false), deadlineMs);
    });
    const empty = new Promise<boolean>((resolve) => {
      this.#onEmpty.push(() => resolve(true));
    });
    try {
      return await Promise.race([empty, late]);
    } finally {
      clearTimeout(timer);
    }
  }
}
