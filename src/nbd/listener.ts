/**
 * The NBD server: listens, lets negotiation run on each connection, hands the socket to the engine,
 * and keeps count of what the engine serves.
 *
 *   accept -> negotiate (TypeScript, 10 s at most) -> hand-over -> native transmission -> onClosed
 *
 * Runs on the main thread; no payload byte passes here.
 */

import { rmSync } from 'node:fs';
import type { Server, Socket } from 'node:net';
import type { ExportCatalog } from '../array/export-catalog.js';
import { FlashlunError } from '../base/errors.js';
import { LIMITS } from '../base/limits.js';
import type { Logger } from '../base/log.js';
import { duplicateDescriptor } from '../engine/index.js';
import type { Engine } from '../engine/types.js';
import { ConnectionRegistry, type NbdConnection, type NbdPeer } from './connections.js';
import { checkDescriptorsShown, descriptorOf, unixPeerOf } from './hand-over.js';
import { formatAddress, listenOn, listenTcp, listenUnix, type TcpAddress } from './listen.js';
import { type NegotiationFailure, negotiate } from './negotiation.js';

export interface NbdListenerOptions {
  readonly engine: Pick<
    Engine,
    'adopt' | 'resume' | 'disconnect' | 'connections' | 'park' | 'unpark'
  >;
  /** Connections that are there already; without it, none are. */
  readonly registry?: ConnectionRegistry | undefined;
  /** Listening sockets of another server, taken instead of new ones. */
  readonly inherited?: Partial<ListeningDescriptors> | undefined;
  readonly catalog: ExportCatalog;
  readonly tcp?: TcpAddress | undefined;
  readonly unixPath?: string | undefined;
  readonly log: Logger;
  /** Instead of LIMITS.nbdHandshakeMs. */
  readonly handshakeMs?: number | undefined;
  /** Instead of LIMITS.nbdHandshakes. */
  readonly handshakes?: number | undefined;
}

/** Descriptors of the listening sockets; whoever has them closes them. */
export interface ListeningDescriptors {
  readonly tcp: number | undefined;
  readonly unix: number | undefined;
}

/** A running NBD server. */
export interface NbdServer {
  /** Where it listens; a port given as 0 is the one the kernel chose. */
  addresses(): { tcp?: TcpAddress; unix?: string };
  /**
   * Stops accepting, without a client noticing: the sockets go on listening, and whoever gets the
   * descriptors may accept. Resolves when no negotiation is under way any more; those that take
   * longer than `graceMs` are dropped.
   */
  pause(graceMs: number): Promise<ListeningDescriptors>;
  /** Accepts again, after a pause. */
  goOn(paused: ListeningDescriptors): Promise<void>;
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
  readonly #registry: ConnectionRegistry;
  readonly #negotiating = { tcp: new Set<Socket>(), unix: new Set<Socket>() };
  #tcp: Server | undefined;
  #unix: Server | undefined;
  #closing: Promise<void> | undefined;
  /** One warning for each time a limit is reached, not one for each client turned away. */
  readonly #isFull = { tcp: false, unix: false };

  constructor(options: NbdListenerOptions) {
    this.#options = options;
    this.#log = options.log.child({ part: 'nbd' });
    this.#registry = options.registry ?? new ConnectionRegistry(options.engine, options.log);
  }

  async listen(): Promise<void> {
    const { tcp, unixPath, inherited = {} } = this.#options;
    if (inherited.tcp !== undefined) await this.#listenOn('tcp', inherited.tcp);
    else if (tcp) {
      this.#tcp = await listenTcp(tcp, (socket) => this.#onConnection(socket, 'tcp'));
      this.#watch(this.#tcp);
    }
    if (inherited.unix !== undefined) await this.#listenOn('unix', inherited.unix);
    else if (unixPath !== undefined) {
      this.#unix = await listenUnix(unixPath, (socket) => this.#onConnection(socket, 'unix'));
      this.#watch(this.#unix);
    }
    this.#log.debug(this.addresses(), 'NBD is listening');
  }

  /** Takes the descriptor. */
  async #listenOn(transport: Transport, fd: number): Promise<void> {
    const server = await listenOn(fd, (socket) => this.#onConnection(socket, transport));
    if (transport === 'tcp') this.#tcp = server;
    else this.#unix = server;
    this.#watch(server);
  }

  async pause(graceMs: number): Promise<ListeningDescriptors> {
    const { tcp, unix } = this.#negotiating;
    const paused = { tcp: duplicateOf(this.#tcp), unix: duplicateOf(this.#unix) };
    const closed = Promise.all([closeServer(this.#tcp), closeServer(this.#unix)]);
    this.#tcp = undefined;
    this.#unix = undefined;
    const drop = setTimeout(() => {
      for (const socket of [...tcp, ...unix]) socket.destroy();
    }, graceMs);
    await closed;
    clearTimeout(drop);
    return paused;
  }

  async goOn({ tcp, unix }: ListeningDescriptors): Promise<void> {
    if (tcp !== undefined) await this.#listenOn('tcp', tcp);
    if (unix !== undefined) await this.#listenOn('unix', unix);
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
    this.#registry.disconnectAll();
    await Promise.all(closed);
    // The socket was made by descriptor, so nobody else removes its path.
    if (this.#unix !== undefined) rmSync(this.#options.unixPath ?? '', { force: true });
    if (await this.#registry.untilEmpty(LIMITS.nbdCloseMs)) return;
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
    const about = peerOf(socket, transport);
    const { peer } = about;
    if (this.#closing || !this.#hasRoom(transport)) {
      socket.on('error', () => {
        // It was turned away; how it takes that is its own business.
      });
      socket.destroy();
      return;
    }
    this.#negotiating[transport].add(socket);
    const deadlineMs = this.#options.handshakeMs ?? LIMITS.nbdHandshakeMs;
    negotiate({ socket, catalog: this.#options.catalog, deadlineMs }, (end) => {
      this.#negotiating[transport].delete(socket);
      if (end.kind === 'ready') {
        const { leftover, structuredReplies, export: target } = end.outcome;
        const { volumeId, readOnly, name } = target;
        const settings = { volumeId, structuredReplies, readOnly };
        this.#registry.adopt(socket, about, { exportName: name, settings }, leftover);
      } else this.#logFailure(peer, end);
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

  #logFailure(peer: string, end: NegotiationFailure): void {
    const facts = { peer, cause: end.cause, reason: end.reason };
    if (end.cause === 'failed') this.#log.error({ ...facts, err: end.error }, 'negotiation failed');
    else if (end.cause === 'abort' || end.cause === 'lost') this.#log.debug(facts, 'client left');
    else this.#log.info(facts, 'negotiation refused');
  }
}

function peerOf(socket: Socket, transport: Transport): NbdPeer {
  if (transport === 'unix') return { transport, peer: 'unix', ...unixPeerOf(socket) };
  const { remoteAddress, remotePort } = socket;
  // Both are missing when the client has gone before we looked.
  const peer = remoteAddress === undefined ? 'gone' : formatAddress(remoteAddress, remotePort ?? 0);
  return { transport, peer };
}

function duplicateOf(server: Server | undefined): number | undefined {
  const fd = server === undefined ? undefined : descriptorOf(server);
  return fd === undefined ? undefined : duplicateDescriptor(fd);
}

function closeServer(server: Server | undefined): Promise<void> {
  return new Promise((resolve) => {
    if (server) server.close(() => resolve());
    else resolve();
  });
}
