/**
 * The NBD connections that native code serves. Node does not count them any more once their
 * sockets are handed over, so this does, for the API, metrics, an orderly stop, and for handing
 * them to another server.
 *
 * What a connection is (peer, export, what was agreed) is kept here; what it does is counted by the
 * engine and asked for when somebody wants to know.
 */

import type { PeerIdentity } from '../array/peer.js';
import { FlashlunError } from '../base/errors.js';
import { formatVolumeId } from '../base/ids.js';
import type { Logger } from '../base/log.js';
import type {
  CloseReason,
  ConnectionCounters,
  ConnectionSettings,
  ConnectionState,
  Engine,
  ResumedConnection,
} from '../engine/types.js';
import type { ConnectionCounts, Place } from './access.js';
import type { NegotiationSuccess } from './negotiation.js';
import { describeIdentity, type TlsPeer } from './tls-identity.js';

/** The other end of a connection. */
export interface NbdPeer {
  readonly transport: 'tcp' | 'unix';
  /** `127.0.0.1:40112`, or `unix`: the peer of a unix socket has no name. */
  readonly peer: string;
  /** Of a unix socket: the process that connected. */
  readonly pid?: number | undefined;
  /** What access rules know of the client. */
  readonly identity: PeerIdentity;
}

/** One client in its transmission phase. */
export interface NbdConnection extends NbdPeer {
  /** The engine's id of the connection. */
  readonly id: number;
  readonly volumeId: number;
  /** As the client named it. */
  readonly exportName: string;
  /** What was agreed. */
  readonly settings: ConnectionSettings;
  /** Undefined: plain text. Nobody else can go on with a connection that has it. */
  readonly tls?: TlsPeer | undefined;
  /** ISO time of the hand-over from negotiation. */
  readonly since: string;
}

/** A connection with what it does, as the API shows it. */
export interface ConnectionView {
  readonly id: number;
  readonly volume: string;
  readonly export: string;
  readonly transport: 'tcp' | 'unix';
  readonly peer: string;
  readonly pid: number | null;
  readonly uid: number | null;
  readonly tlsIdentity: string | null;
  readonly since: string;
  readonly readOnly: boolean;
  readonly features: string[];
  readonly requests: ConnectionState['requests'];
  readonly errors: number;
  readonly bytesIn: number;
  readonly bytesOut: number;
  readonly inFlight: number;
  readonly held: number;
}

/** A connection on its way to another server, without its socket. */
export interface HandedConnection extends ResumedConnection {
  readonly connection: NbdConnection;
}

type ConnectionEngine = Pick<
  Engine,
  'adopt' | 'resume' | 'disconnect' | 'connections' | 'park' | 'unpark'
>;

export class ConnectionRegistry {
  /** Places of these connections, and of those that still negotiate. */
  readonly counts: ConnectionCounts;
  readonly #engine: ConnectionEngine;
  readonly #log: Logger;
  readonly #connections = new Map<number, NbdConnection>();
  #onEmpty: (() => void)[] = [];

  constructor(engine: ConnectionEngine, counts: ConnectionCounts, log: Logger) {
    this.#engine = engine;
    this.counts = counts;
    this.#log = log.child({ part: 'nbd' });
  }

  /**
   * Hands a negotiated socket to the engine, and gives `place` back when the connection has ended.
   * False: the client cannot be served and keeps no place. It is only logged: NBD has no way to say
   * anything after GO, so the client sees the connection close.
   */
  adopt(about: NbdPeer, place: Place, end: NegotiationSuccess): boolean {
    const { export: target, replies, contexts, minBlockBytes } = end.outcome;
    const { tls } = end;
    const { volumeId, readOnly, name } = target;
    const settings = { volumeId, readOnly, replies, contexts, minBlockBytes };
    const since = new Date().toISOString();
    const connection = { ...about, volumeId, exportName: name, settings, tls, since };
    const log = this.#logOf(connection);
    let id = -1;
    try {
      id = end.handOver((fd, leftover, session) => {
        // Without a session of its own, the descriptor of a TLS client is a pipe to this process.
        const options = { ...settings, tls: session, movable: tls === undefined };
        return this.#engine.adopt(fd, options, leftover, (...ended) => {
          this.#onClosed(id, place, log, ...ended);
        });
      });
    } catch (error) {
      logNotAdopted(log, error);
      return false;
    }
    this.counts.attach(place, volumeId);
    this.#connections.set(id, { id, ...connection });
    const secured = tls && { tls: tls.protocol, client: describeIdentity(tls.identity) };
    const negotiated = { replies, contexts: contexts.length, readOnly, ...secured };
    log.info({ connection: id, ...negotiated }, 'attached');
    return true;
  }

  /** Goes on with a connection of another server. `fd` stays the caller's. @throws NativeError */
  resume(handed: HandedConnection, fd: number): void {
    const { connection, counters, ...parked } = handed;
    const log = this.#logOf(connection);
    const { id, identity, settings } = connection;
    const place = this.counts.inherit(identity, connection.volumeId);
    try {
      this.#engine.resume(fd, settings, { ...parked, id, counters }, (...ended) => {
        this.#onClosed(id, place, log, ...ended);
      });
    } catch (error) {
      this.counts.leave(place);
      throw error;
    }
    this.#connections.set(id, connection);
    log.debug({ connection: id }, 'taken over');
  }

  /** Parks all of them. @throws NativeError TIMEOUT, and all go on */
  async park(): Promise<{ handed: HandedConnection; fd: number }[]> {
    const parked = await this.#engine.park();
    const states = new Map(this.#engine.connections().map((state) => [state.id, state]));
    return parked.flatMap(({ fd, ...state }) => {
      const connection = this.#connections.get(state.id);
      const counters = states.get(state.id);
      if (connection === undefined || counters === undefined) return [];
      return [{ fd, handed: { ...state, connection, counters } }];
    });
  }

  /** What is parked goes on here. */
  unpark(): void {
    this.#engine.unpark();
  }

  list(): NbdConnection[] {
    return [...this.#connections.values()];
  }

  /** All of them with what they do, in one question to the engine. */
  views(): ConnectionView[] {
    return this.#engine.connections().flatMap((state) => {
      const connection = this.#connections.get(state.id);
      return connection === undefined ? [] : [viewOf(connection, state)];
    });
  }

  /** @throws FlashlunError NOT_FOUND */
  view(id: number): ConnectionView {
    const view = this.views().find((each) => each.id === id);
    if (view === undefined) throw notFound(id);
    return view;
  }

  /** Ends one; resolves before it has ended. @throws FlashlunError NOT_FOUND */
  disconnect(id: number): void {
    if (!this.#connections.has(id)) throw notFound(id);
    this.#engine.disconnect(id);
  }

  disconnectAll(): void {
    for (const id of this.#connections.keys()) this.#engine.disconnect(id);
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

  #logOf({ peer, volumeId }: Pick<NbdConnection, 'peer' | 'volumeId'>): Logger {
    return this.#log.child({ peer, volume: formatVolumeId(volumeId) });
  }

  #onClosed(
    id: number,
    place: Place,
    log: Logger,
    ...ended: [reason: CloseReason, detail: string, counters: ConnectionCounters]
  ): void {
    this.counts.leave(place);
    this.#connections.delete(id);
    logClosed(log, ...ended);
    if (this.#connections.size > 0) return;
    const waiting = this.#onEmpty;
    this.#onEmpty = [];
    for (const resolve of waiting) resolve();
  }
}

function viewOf(connection: NbdConnection, state: ConnectionState): ConnectionView {
  const { id, volumeId, exportName, transport, peer, pid, identity, tls, since } = connection;
  return {
    ...state,
    id,
    volume: formatVolumeId(volumeId),
    export: exportName,
    transport,
    peer,
    pid: pid ?? null,
    uid: identity.uid ?? null,
    tlsIdentity: tls?.identity === undefined ? null : describeIdentity(tls.identity),
    since,
    readOnly: connection.settings.readOnly,
    features: featuresOf(connection),
  };
}

/** What was negotiated beyond the least, in the protocol's words. */
function featuresOf({ settings, tls }: NbdConnection): string[] {
  const { contexts, replies } = settings;
  return [
    ...(tls === undefined ? [] : ['tls']),
    ...(replies === 'simple' ? [] : ['structured-replies']),
    ...(replies === 'extended' ? ['extended-headers'] : []),
    ...(contexts.length === 0 ? [] : ['meta-contexts']),
  ];
}

function notFound(id: number): FlashlunError {
  return new FlashlunError(
    'NOT_FOUND',
    `there is no connection ${id}. "flashlun connection list" shows those there are.`,
  );
}

/** Likely reasons: the volume was deleted a moment ago, or too many clients are attached. */
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
  else if (reason === 'parked') log.debug(facts, 'handed to another server');
  else log.info(facts, 'detached');
}
