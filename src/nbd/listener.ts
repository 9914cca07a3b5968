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
import type { PeerIdentity } from '../array/peer.js';
import { FlashlunError } from '../base/errors.js';
import { formatVolumeId } from '../base/ids.js';
import { LIMITS } from '../base/limits.js';
import type { Logger } from '../base/log.js';
import type { CloseReason, ConnectionCounters, Engine } from '../engine/types.js';
import {
  type AccessRules,
  ClientCatalog,
  type ConnectionCaps,
  ConnectionCounts,
  identifyPeer,
  mayGoOn,
  type Place,
  type RefusalReason,
  type Refusals,
} from './access.js';
import { ConnectionRegistry, type NbdConnection } from './connections.js';
import { checkDescriptorsShown } from './hand-over.js';
import { formatAddress, listenTcp, listenUnix, type TcpAddress } from './listen.js';
import { type NegotiationFailure, type NegotiationSuccess, negotiate } from './negotiation.js';
import { describeIdentity, namesOf, type TlsPeer } from './tls-identity.js';
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
  /** Instead of LIMITS.nbdHandshakes and its kin. */
  readonly caps?: Partial<ConnectionCaps> | undefined;
  /** Who may attach what; left out: everybody everything. */
  readonly access?: AccessRules | undefined;
  /** User behind a unix socket's descriptor; left out: nobody knows. */
  readonly uidOf?: ((fd: number) => number | undefined) | undefined;
}

/** A client on its way in. */
interface Arrival {
  readonly socket: Socket;
  readonly transport: Transport;
  /** For people. */
  readonly peer: string;
  readonly identity: PeerIdentity;
  readonly place: Place;
  readonly catalog: ClientCatalog;
}

const DEFAULT_CAPS: ConnectionCaps = {
  handshakes: LIMITS.nbdHandshakes,
  total: LIMITS.nbdConnections,
  perClient: LIMITS.nbdConnectionsPerClient,
  perExport: LIMITS.nbdConnectionsPerExport,
};

/** A running NBD server. */
export interface NbdServer {
  /** Where it listens; a port given as 0 is the one the kernel chose. */
  addresses(): { tcp?: TcpAddress; unix?: string };
  /** The clients in transmission; those still negotiating have no volume yet. */
  connections(): NbdConnection[];
  /** Clients in negotiation. */
  readonly negotiating: number;
  /** Connections that count for --nbd-connections: negotiating, attached, or about to end. */
  readonly placesUsed: number;
  /** Clients turned away since the start. */
  readonly refusals: Refusals;
  /** Ends connections that access rules do not allow any more; how many those are. */
  enforceAccess(): number;
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
  readonly #counts: ConnectionCounts;
  readonly #negotiating = { tcp: new Map<Socket, Place>(), unix: new Map<Socket, Place>() };
  #tcp: Server | undefined;
  #unix: Server | undefined;
  #closing: Promise<void> | undefined;
  /** When clients were last said to be turned away, so that not each of them is told of. */
  readonly #warnedAt = new Map<string, number>();

  constructor(options: NbdListenerOptions) {
    this.#options = options;
    this.#log = options.log.child({ part: 'nbd' });
    this.#counts = new ConnectionCounts({ ...DEFAULT_CAPS, ...options.caps });
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
    const { access, engine } = this.#options;
    let ended = 0;
    for (const { id, volumeId, peer, identity, readOnly } of this.#registry.list()) {
      const grant = access?.grant(volumeId, identity) ?? 'read-write';
      if (mayGoOn(grant, readOnly)) continue;
      const facts = { audit: true, connection: id, peer, volume: formatVolumeId(volumeId), grant };
      this.#log.info(facts, 'disconnected: the access rules do not allow it any more');
      engine.disconnect(id);
      ended += 1;
    }
    return ended;
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
    const arrival = this.#closing ? undefined : this.#arrive(socket, transport);
    if (arrival === undefined) {
      socket.on('error', () => {
        // It was turned away; how it takes that is its own business.
      });
      socket.destroy();
      return;
    }
    const { catalog, peer, place } = arrival;
    this.#negotiating[transport].set(socket, place);
    const deadlineMs = this.#options.handshakeMs ?? LIMITS.nbdHandshakeMs;
    const { tls } = this.#options;
    const onSecured = (secured: TlsPeer): void => {
      arrival.identity.tlsIdentities = namesOf(secured.identity);
    };
    negotiate({ socket, catalog, deadlineMs, tls, onSecured }, (end) => {
      this.#negotiating[transport].delete(socket);
      if (end.kind === 'ready' && this.#adopt(arrival, end)) return;
      this.#counts.leave(place);
      if (end.kind !== 'ready') this.#logFailure(peer, end);
    });
  }

  /** Undefined: there is no room for one more. */
  #arrive(socket: Socket, transport: Transport): Arrival | undefined {
    const { access, catalog, uidOf = () => undefined } = this.#options;
    const peer = peerOf(socket, transport);
    const identity = identifyPeer(socket, transport, uidOf);
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
    return { socket, transport, peer, identity, place, catalog: view };
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
  #adopt(arrival: Arrival, end: NegotiationSuccess): boolean {
    const { outcome, tls } = end;
    const { socket, transport, peer, identity, place } = arrival;
    const { volumeId, readOnly } = outcome.export;
    const { replies, contexts, minBlockBytes } = outcome;
    const log = this.#log.child({ peer, volume: formatVolumeId(volumeId) });
    // Both may have changed while the last reply was on its way.
    if (!mayGoOn(arrival.catalog.grant(volumeId), readOnly) || this.#counts.isFull(volumeId)) {
      log.info('closed: access or room for it has gone during negotiation');
      socket.destroy();
      return false;
    }
    let id = -1;
    const onClosed = (reason: CloseReason, detail: string, counters: ConnectionCounters): void => {
      this.#registry.remove(id);
      this.#counts.leave(place);
      logClosed(log, reason, detail, counters);
    };
    try {
      const { engine } = this.#options;
      const settings = { volumeId, readOnly, replies, contexts, minBlockBytes };
      id = end.handOver((fd, leftover, session) =>
        engine.adopt(fd, { ...settings, tls: session }, leftover, onClosed),
      );
    } catch (error) {
      logNotAdopted(log, error);
      return false;
    }
    this.#counts.attach(place, volumeId);
    const since = new Date().toISOString();
    this.#registry.add({ id, volumeId, peer, transport, identity, readOnly, tls, since });
    const secured = tls && { tls: tls.protocol, client: describeIdentity(tls.identity) };
    const negotiated = { replies, contexts: contexts.length, readOnly, ...secured };
    log.info({ connection: id, ...negotiated }, 'attached');
    return true;
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
