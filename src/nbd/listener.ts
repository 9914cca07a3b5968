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
import { plainAddress } from '../array/peer.js';
import { FlashlunError } from '../base/errors.js';
import { formatVolumeId } from '../base/ids.js';
import { LIMITS } from '../base/limits.js';
import type { Logger } from '../base/log.js';
import { duplicateDescriptor } from '../engine/index.js';
import type { Engine } from '../engine/types.js';
import {
  type AccessRules,
  ClientCatalog,
  type ConnectionCaps,
  type ConnectionCounts,
  mayGoOn,
  newCounts,
  type Place,
  type RefusalReason,
  type Refusals,
} from './access.js';
import { ConnectionRegistry, type NbdConnection, type NbdPeer } from './connections.js';
import { checkDescriptorsShown, descriptorOf, unixPeerOf } from './hand-over.js';
import { formatAddress, listenOn, listenTcp, listenUnix, type TcpAddress } from './listen.js';
import { exportRefusal } from './starttls.js';
import { type NegotiationFailure, type NegotiationSuccess, negotiate } from './negotiation.js';
import { namesOf, type TlsPeer } from './tls-identity.js';
import type { TlsServer } from './tls-server.js';

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
  /** Undefined: no TLS. */
  readonly tls?: TlsServer | undefined;
  readonly log: Logger;
  /** Instead of LIMITS.nbdHandshakeMs. */
  readonly handshakeMs?: number | undefined;
  /** Instead of LIMITS.nbdHandshakes and its kin, when there is no registry that has them. */
  readonly caps?: Partial<ConnectionCaps> | undefined;
  /** Who may attach what; left out: everybody everything. */
  readonly access?: AccessRules | undefined;
}

/** A client on its way in. */
interface Arrival {
  readonly socket: Socket;
  readonly about: NbdPeer;
  readonly place: Place;
  readonly catalog: ClientCatalog;
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
  /** Clients in negotiation. */
  readonly negotiating: number;
  /** Connections that count for --nbd-connections: negotiating, attached, or about to end. */
  readonly placesUsed: number;
  /** Clients turned away since the start. */
  readonly refusals: Refusals;
  /** Resolves when no TLS bridge carries anything any more, or after a while. */
  bridgesIdle(): Promise<void>;
  /** Ends connections that access rules do not allow any more; how many those are. */
  enforceAccess(): number;
  /** Ends plain connections of another server that need TLS here; how many those are. */
  enforceTls(): number;
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
  readonly #counts: ConnectionCounts;
  readonly #negotiating = { tcp: new Map<Socket, Place>(), unix: new Map<Socket, Place>() };
  #tcp: Server | undefined;
  #unix: Server | undefined;
  #closing: Promise<void> | undefined;
  /** Whoever waits for the end of all negotiations. */
  readonly #onNegotiated: (() => void)[] = [];
  /** When clients were last said to be turned away, so that not each of them is told of. */
  readonly #warnedAt = new Map<string, number>();

  constructor(options: NbdListenerOptions) {
    this.#options = options;
    this.#log = options.log.child({ part: 'nbd' });
    const { engine, log, registry } = options;
    this.#registry = registry ?? new ConnectionRegistry(engine, newCounts(options.caps), log);
    this.#counts = this.#registry.counts;
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
    // Their promises would wait for sockets behind TLS bridges too, which end only later.
    void closeServer(this.#tcp);
    void closeServer(this.#unix);
    this.#tcp = undefined;
    this.#unix = undefined;
    const drop = setTimeout(() => {
      for (const socket of [...tcp.keys(), ...unix.keys()]) socket.destroy();
    }, graceMs);
    if (this.negotiating > 0) await new Promise<void>((done) => this.#onNegotiated.push(done));
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

  get negotiating(): number {
    return this.#negotiating.tcp.size + this.#negotiating.unix.size;
  }

  get placesUsed(): number {
    return this.#counts.total;
  }

  get refusals(): Refusals {
    return this.#counts.refusals;
  }

  enforceAccess(): number {
    const { access } = this.#options;
    return this.#endThose(({ volumeId, identity, settings }) => {
      const grant = access?.grant(volumeId, identity) ?? 'read-write';
      return !mayGoOn(grant, settings.readOnly);
    }, 'the access rules do not allow it any more');
  }

  enforceTls(): number {
    const negotiated = this.#options.tls?.negotiated;
    if (negotiated === undefined) return 0;
    return this.#endThose(({ exportName, tls }) => {
      if (tls !== undefined) return false;
      const target = this.#options.catalog.resolve(exportName);
      const refusal = target && exportRefusal(negotiated, target);
      return negotiated.mode === 'require' || refusal !== undefined;
    }, 'it has no TLS, which it needs here');
  }

  #endThose(which: (connection: NbdConnection) => boolean, why: string): number {
    const ended = this.#registry.list().filter(which);
    for (const { id, peer, volumeId } of ended) {
      const facts = { audit: true, connection: id, peer, volume: formatVolumeId(volumeId) };
      this.#log.info(facts, `disconnected: ${why}`);
      this.#registry.disconnect(id);
    }
    return ended.length;
  }

  async bridgesIdle(): Promise<void> {
    await this.#options.tls?.idle(LIMITS.nbdBridgeCloseMs);
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
    for (const socket of [...tcp.keys(), ...unix.keys()]) socket.destroy();
    this.#registry.disconnectAll();
    await Promise.all(closed);
    // The socket was made by descriptor, so nobody else removes its path.
    if (this.#unix !== undefined) rmSync(this.#options.unixPath ?? '', { force: true });
    if (await this.#registry.untilEmpty(LIMITS.nbdCloseMs)) {
      await this.bridgesIdle();
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
    const arrival = this.#closing ? undefined : this.#arrive(socket, transport);
    if (arrival === undefined) {
      socket.on('error', () => {
        // It was turned away; how it takes that is its own business.
      });
      socket.destroy();
      return;
    }
    const { about, catalog, place } = arrival;
    this.#negotiating[transport].set(socket, place);
    const deadlineMs = this.#options.handshakeMs ?? LIMITS.nbdHandshakeMs;
    const { tls } = this.#options;
    const onSecured = (secured: TlsPeer): void => {
      about.identity.tlsIdentities = namesOf(secured.identity);
    };
    negotiate({ socket, catalog, deadlineMs, tls, onSecured }, (end) => {
      this.#negotiating[transport].delete(socket);
      if (this.negotiating === 0) for (const done of this.#onNegotiated.splice(0)) done();
      if (end.kind === 'ready' && this.#adopt(arrival, end)) return;
      this.#counts.leave(place);
      if (end.kind !== 'ready') this.#logFailure(about.peer, end);
    });
  }

  /** Undefined: there is no room for one more. */
  #arrive(socket: Socket, transport: Transport): Arrival | undefined {
    const { access, catalog } = this.#options;
    const about = peerOf(socket, transport);
    const { identity, peer } = about;
    const negotiating = this.#negotiating[transport];
    const place = this.#counts.enter(identity, {
      inAll: negotiating.size,
      of: (key) => [...negotiating.values()].filter((each) => each.key === key).length,
    });
    if (typeof place === 'string') {
      this.#turnAway(place, peer, transport);
      return undefined;
    }
    const onDenied = (volumeId: number): void => {
      const facts = { peer, identity, volume: formatVolumeId(volumeId) };
      this.#log.info({ audit: true, ...facts }, 'refused: no access rule lets this client in');
    };
    const options = { catalog, rules: access, counts: this.#counts, peer: identity, onDenied };
    const view = new ClientCatalog(options);
    return { socket, about, place, catalog: view };
  }

  #turnAway(reason: RefusalReason, peer: string, transport: Transport): void {
    this.#counts.countRefusal(reason);
    const what = `${reason} ${transport}`;
    const now = performance.now();
    if (now - (this.#warnedAt.get(what) ?? -Infinity) < LIMITS.nbdWarnMs) return;
    this.#warnedAt.set(what, now);
    this.#log.warn({ transport, peer, limit: reason }, TURNED_AWAY[reason]);
  }

  /** Whether the engine has the connection now; else it is closed. */
  #adopt({ about, catalog, place, socket }: Arrival, end: NegotiationSuccess): boolean {
    const { volumeId, readOnly } = end.outcome.export;
    // Both may have changed while the last reply was on its way.
    if (mayGoOn(catalog.grant(volumeId), readOnly) && !this.#counts.isFull(volumeId)) {
      return this.#registry.adopt(about, place, end);
    }
    const log = this.#log.child({ peer: about.peer, volume: formatVolumeId(volumeId) });
    log.info('closed: access or room for it has gone during negotiation');
    socket.destroy();
    return false;
  }

  #logFailure(peer: string, end: NegotiationFailure): void {
    const facts = { peer, cause: end.cause, reason: end.reason };
    if (end.cause === 'failed') this.#log.error({ ...facts, err: end.error }, 'negotiation failed');
    else if (end.cause === 'abort' || end.cause === 'lost') this.#log.debug(facts, 'client left');
    else this.#log.info(facts, 'negotiation refused');
  }
}

const TURNED_AWAY: Readonly<Record<RefusalReason, string>> = {
  handshakes: 'too many clients negotiate at once; turning others away (--nbd-handshakes)',
  total: 'too many NBD connections; turning others away (--nbd-connections)',
  client: 'one client has too many connections (--nbd-connections-per-client)',
  export: 'a volume has too many connections (--nbd-connections-per-export)',
  access: 'no access rule lets this client in',
};

/** Finds out who a fresh client is. */
function peerOf(socket: Socket, transport: Transport): NbdPeer {
  if (transport === 'unix') {
    const { pid, uid } = unixPeerOf(socket);
    return { transport, peer: 'unix', pid, identity: { transport, uid } };
  }
  const { remoteAddress, remotePort } = socket;
  // Both are missing when the client has gone before we looked.
  if (remoteAddress === undefined) {
    return { transport, peer: 'gone', identity: { transport, address: undefined } };
  }
  const peer = formatAddress(remoteAddress, remotePort ?? 0);
  return { transport, peer, identity: { transport, address: plainAddress(remoteAddress) } };
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
