/**
 * The NBD server: listens, lets negotiation run on each connection, hands the socket to the engine,
 * and keeps count of what the engine serves.
 *
 *   accept -> negotiate (TypeScript, 10 s at most) -> hand-over -> native transmission -> onClosed
 *
 * Runs on the main thread; no payload byte passes here.
 */

import type { Server, Socket } from 'node:net';
import type { ExportCatalog } from '../array/export-catalog.js';
import { FlashlunError } from '../base/errors.js';
import { formatVolumeId } from '../base/ids.js';
import { LIMITS } from '../base/limits.js';
import type { Logger } from '../base/log.js';
import type { CloseReason, ConnectionCounters, Engine } from '../engine/types.js';
import { ConnectionRegistry, type NbdConnection } from './connections.js';
import { checkDescriptorsShown } from './hand-over.js';
import { formatAddress, listenTcp, listenUnix, type TcpAddress } from './listen.js';
import { type NegotiationFailure, type NegotiationSuccess, negotiate } from './negotiation.js';
import { describeIdentity } from './tls-identity.js';
import type { TlsServer } from './tls-server.js';

export interface NbdListenerOptions {
  readonly engine: Pick<Engine, 'adopt' | 'disconnect'>;
  readonly catalog: ExportCatalog;
  readonly tcp?: TcpAddress | undefined;
  readonly unixPath?: string | undefined;
  /** Undefined: no TLS. */
  readonly tls?: TlsServer | undefined;
  readonly log: Logger;
  /** Instead of LIMITS.nbdHandshakeMs. */
  readonly handshakeMs?: number | undefined;
  /** Instead of LIMITS.nbdHandshakes. */
  readonly handshakes?: number | undefined;
}

/** A running NBD server. */
export interface NbdServer {
  /** Where it listens; a port given as 0 is the one the kernel chose. */
  addresses(): { tcp?: TcpAddress; unix?: string };
  /** The clients in transmission; those still negotiating have no volume yet. */
  connections(): NbdConnection[];
  /**
   * Stops listening, drops negotiations, disconnects clients, and resolves when the engine has let
   * go of all of them. Calling it again returns the same promise.
   *
   * @throws FlashlunError INTERNAL a connection did not end in time
   */
  close(): Promise<void>;
}

type Transport = NbdConnection['transport'];

/**
 * Starts the listeners that are given; either all of them listen afterwards or none.
 *
 * @throws FlashlunError ADDRESS_IN_USE another program has the address
 * @throws FlashlunError ADDRESS_UNUSABLE it cannot be listened on
 */
export async function startNbdListeners(options: NbdListenerOptions): Promise<NbdServer> {
  const listeners = new NbdListeners(options);
  try {
    await listeners.listen();
  } catch (error) {
    await listeners.close();
    throw error;
  }
  return listeners;
}

class NbdListeners implements NbdServer {
  readonly #options: NbdListenerOptions;
  readonly #log: Logger;
  readonly #registry = new ConnectionRegistry();
  readonly #negotiating = { tcp: new Set<Socket>(), unix: new Set<Socket>() };
  #tcp: Server | undefined;
  #unix: Server | undefined;
  #closing: Promise<void> | undefined;
  /** One warning for each time a limit is reached, not one for each client turned away. */
  readonly #isFull = { tcp: false, unix: false };

  constructor(options: NbdListenerOptions) {
    this.#options = options;
    this.#log = options.log.child({ part: 'nbd' });
  }

  async listen(): Promise<void> {
    const { tcp, unixPath } = this.#options;
    if (tcp) {
      this.#tcp = await listenTcp(tcp, (socket) => this.#onConnection(socket, 'tcp'));
      this.#watch(this.#tcp);
    }
    if (unixPath !== undefined) {
      this.#unix = await listenUnix(unixPath, (socket) => this.#onConnection(socket, 'unix'));
      this.#watch(this.#unix);
    }
    this.#log.debug(this.addresses(), 'NBD is listening');
  }

  addresses(): { tcp?: TcpAddress; unix?: string } {
    const address = this.#tcp?.address();
    const { unixPath } = this.#options;
    return {
      ...(address && typeof address === 'object'
        ? { tcp: { host: address.address, port: address.port } }
        : {}),
      ...(this.#unix && unixPath !== undefined ? { unix: unixPath } : {}),
    };
  }

  connections(): NbdConnection[] {
    return this.#registry.list();
  }

  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close(): Promise<void> {
    // A listening server's close() never waits for sockets that were handed over, and resolves
    // once the negotiating ones are destroyed.
    const closed = [this.#tcp, this.#unix].map((server) => closeServer(server));
    const { tcp, unix } = this.#negotiating;
    for (const socket of [...tcp, ...unix]) socket.destroy();
    for (const connection of this.#registry.list()) this.#options.engine.disconnect(connection.id);
    await Promise.all(closed);
    if (await this.#registry.untilEmpty(LIMITS.nbdCloseMs)) {
      await this.#options.tls?.idle(LIMITS.nbdBridgeCloseMs);
      return;
    }
    const stuck = this.#registry.list().map(({ id, peer }) => `${id} (${peer})`);
    throw new FlashlunError(
      'INTERNAL',
      `NBD connections did not end within ${LIMITS.nbdCloseMs / 1000} s: ${stuck.join(', ')}`,
    );
  }

  #watch(server: Server): void {
    checkDescriptorsShown(server);
    // Accepting can fail for a while, for example when the process is out of descriptors.
    server.on('error', (error) => this.#log.error({ err: error }, 'accepting a client failed'));
  }

  #onConnection(socket: Socket, transport: Transport): void {
    const peer = peerOf(socket, transport);
    if (this.#closing || !this.#hasRoom(transport)) {
      socket.on('error', () => {
        // It was turned away; how it takes that is its own business.
      });
      socket.destroy();
      return;
    }
    this.#negotiating[transport].add(socket);
    const deadlineMs = this.#options.handshakeMs ?? LIMITS.nbdHandshakeMs;
    const { catalog, tls } = this.#options;
    negotiate({ socket, catalog, deadlineMs, tls }, (end) => {
      this.#negotiating[transport].delete(socket);
      if (end.kind === 'ready') this.#adopt(transport, peer, end);
      else this.#logFailure(peer, end);
    });
  }

  #hasRoom(transport: Transport): boolean {
    const most = this.#options.handshakes ?? LIMITS.nbdHandshakes;
    const isFull = this.#negotiating[transport].size >= most;
    if (isFull && !this.#isFull[transport]) {
      this.#log.warn(
        { transport, limit: most },
        'too many clients negotiate at once; turning others away',
      );
    }
    this.#isFull[transport] = isFull;
    return !isFull;
  }

  #adopt(transport: Transport, peer: string, end: NegotiationSuccess): void {
    const { outcome, tls } = end;
    const { volumeId, readOnly } = outcome.export;
    const { structuredReplies } = outcome;
    const log = this.#log.child({ peer, volume: formatVolumeId(volumeId) });
    let id = -1;
    const onClosed = (reason: CloseReason, detail: string, counters: ConnectionCounters): void => {
      this.#registry.remove(id);
      logClosed(log, reason, detail, counters);
    };
    try {
      const { engine } = this.#options;
      const settings = { volumeId, structuredReplies, readOnly };
      id = end.handOver((fd, leftover, session) =>
        engine.adopt(fd, { ...settings, tls: session }, leftover, onClosed),
      );
    } catch (error) {
      logNotAdopted(log, error);
      return;
    }
    this.#registry.add({ id, volumeId, peer, transport, tls, since: new Date().toISOString() });
    const secured = tls && { tls: tls.protocol, client: describeIdentity(tls.identity) };
    log.info({ connection: id, structuredReplies, readOnly, ...secured }, 'attached');
  }

  #logFailure(peer: string, end: NegotiationFailure): void {
    const facts = { peer, cause: end.cause, reason: end.reason };
    if (end.cause === 'failed') this.#log.error({ ...facts, err: end.error }, 'negotiation failed');
    else if (end.cause === 'abort' || end.cause === 'lost') this.#log.debug(facts, 'client left');
    else this.#log.info(facts, 'negotiation refused');
  }
}

/**
 * NBD has no way to say anything after GO, so the client only sees the connection close. Likely
 * reasons: the volume was deleted a moment ago, or too many clients are attached.
 */
function logNotAdopted(log: Logger, error: unknown): void {
  if (error instanceof FlashlunError && error.code === 'CANNOT_CONNECT') {
    log.debug({ reason: error.message }, 'client left');
  } else {
    log.warn({ err: error }, 'the connection could not be served and was closed');
  }
}

function logClosed(
  log: Logger,
  reason: CloseReason,
  detail: string,
  counters: ConnectionCounters,
): void {
  const facts = { reason, detail, ...counters };
  if (reason === 'protocol' || reason === 'io') log.warn(facts, 'detached');
  else log.info(facts, 'detached');
}

function peerOf(socket: Socket, transport: Transport): string {
  if (transport === 'unix') return 'unix';
  const { remoteAddress, remotePort } = socket;
  // Both are missing when the client has gone before we looked.
  return remoteAddress === undefined ? 'gone' : formatAddress(remoteAddress, remotePort ?? 0);
}

function closeServer(server: Server | undefined): Promise<void> {
  return new Promise((resolve) => {
    if (server) server.close(() => resolve());
    else resolve();
  });
}
