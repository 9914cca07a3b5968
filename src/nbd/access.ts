/**
 * What one client gets to see of the array, and how many connections there may be: the listener's
 * gatekeeper. Who may attach what is decided by array/volume-access.ts.
 */

import type {
  ExportBitmap,
  ExportCatalog,
  ExportEntry,
  ExportTarget,
} from '../array/export-catalog.js';
import { clientKey, isLocal, type PeerIdentity } from '../array/peer.js';
import type { Grant, VolumeAccess } from '../array/volume-access.js';
import { formatVolumeId } from '../base/ids.js';
import { LIMITS } from '../base/limits.js';

/** Who decides; left out where a test needs no rules. */
export type AccessRules = Pick<VolumeAccess, 'grant' | 'grants'>;

/** Connections at the same time, negotiating and attached. */
export interface ConnectionCaps {
  /** Negotiating, of each listener. */
  readonly handshakes: number;
  readonly total: number;
  readonly perClient: number;
  /** Attached. */
  readonly perExport: number;
}

export type RefusalReason = 'handshakes' | 'total' | 'client' | 'export' | 'access';
export type Refusals = Readonly<Record<RefusalReason, number>>;

/** A client's place among the connections; given back once, when the connection has ended. */
export interface Place {
  readonly key: string;
  volumeId: number | undefined;
}

/** Nobody is there yet. What is not given is as in LIMITS. */
export function newCounts(caps: Partial<ConnectionCaps> = {}): ConnectionCounts {
  return new ConnectionCounts({
    handshakes: LIMITS.nbdHandshakes,
    total: LIMITS.nbdConnections,
    perClient: LIMITS.nbdConnectionsPerClient,
    perExport: LIMITS.nbdConnectionsPerExport,
    ...caps,
  });
}

/** Counts connections, and says what is full. */
export class ConnectionCounts {
  readonly #caps: ConnectionCaps;
  readonly #perClient = new Map<string, number>();
  readonly #perExport = new Map<number, number>();
  readonly #refusals = { handshakes: 0, total: 0, client: 0, export: 0, access: 0 };
  #total = 0;

  constructor(caps: ConnectionCaps) {
    this.#caps = caps;
  }

  get refusals(): Refusals {
    return this.#refusals;
  }

  get total(): number {
    return this.#total;
  }

  countRefusal(reason: RefusalReason): void {
    this.#refusals[reason] += 1;
  }

  /** A place, or what is full. `negotiating`: clients of the same listener that do. */
  enter(peer: PeerIdentity, negotiating: Negotiating): Place | 'handshakes' | 'total' | 'client' {
    const key = clientKey(peer);
    const { handshakes, total, perClient } = this.#caps;
    // One other machine cannot take all the places, which all the others have to get through.
    const share = isLocal(peer) ? handshakes : Math.ceil(handshakes / 2);
    if (negotiating.inAll >= handshakes || negotiating.of(key) >= share) return 'handshakes';
    if (this.#total >= total) return 'total';
    if ((this.#perClient.get(key) ?? 0) >= perClient) return 'client';
    return this.#take(key);
  }

  /**
   * The place of a client that another server had let in: it keeps it, also where there would be
   * none for a new one.
   */
  inherit(peer: PeerIdentity, volumeId: number): Place {
    const place = this.#take(clientKey(peer));
    this.attach(place, volumeId);
    return place;
  }

  #take(key: string): Place {
    this.#total += 1;
    add(this.#perClient, key, 1);
    return { key, volumeId: undefined };
  }

  isFull(volumeId: number): boolean {
    return (this.#perExport.get(volumeId) ?? 0) >= this.#caps.perExport;
  }

  /** The client has attached the volume. */
  attach(place: Place, volumeId: number): void {
    place.volumeId = volumeId;
    add(this.#perExport, volumeId, 1);
  }

  leave(place: Place): void {
    this.#total -= 1;
    add(this.#perClient, place.key, -1);
    if (place.volumeId !== undefined) add(this.#perExport, place.volumeId, -1);
  }
}

export interface Negotiating {
  readonly inAll: number;
  of(clientKey: string): number;
}

function add<K>(counts: Map<K, number>, key: K, by: number): void {
  const next = (counts.get(key) ?? 0) + by;
  if (next === 0) counts.delete(key);
  else counts.set(key, next);
}

export interface GateOptions {
  readonly catalog: ExportCatalog;
  readonly rules: AccessRules | undefined;
  readonly counts: ConnectionCounts;
  readonly peer: PeerIdentity;
  /** A volume that exists was asked for in vain. */
  readonly onDenied: (volumeId: number) => void;
}

/**
 * The catalog as one client sees it: what it may not attach is not there. It asks for each answer
 * anew, so that a change holds from then on, and a TLS identity from when the client has proved it.
 */
export class ClientCatalog implements ExportCatalog {
  readonly #options: GateOptions;
  readonly #counted = new Set<RefusalReason>();

  constructor(options: GateOptions) {
    this.#options = options;
  }

  list(): ExportEntry[] {
    const grant = this.#grants();
    return this.#options.catalog.list().filter(({ volumeId }) => grant(volumeId) !== 'none');
  }

  example(): string | undefined {
    const { catalog } = this.#options;
    const name = catalog.example();
    const target = name === undefined ? undefined : catalog.resolve(name);
    if (target === undefined) return name;
    // A name of a volume that it may not use would tell that there is one.
    return this.grant(target.volumeId) === 'none' ? this.list()[0]?.name : name;
  }

  resolve(name: string): ExportTarget | undefined {
    const { catalog, counts, onDenied } = this.#options;
    const target = catalog.resolve(name);
    if (target === undefined) return undefined;
    const grant = this.grant(target.volumeId);
    if (grant === 'none') {
      this.#count('access');
      onDenied(target.volumeId);
      return undefined;
    }
    const allowed = grant === 'read-only' ? { ...target, readOnly: true } : target;
    if (!counts.isFull(target.volumeId)) return allowed;
    this.#count('export');
    const id = formatVolumeId(target.volumeId);
    return { ...allowed, refusal: `volume ${id} has as many connections as it may have` };
  }

  bitmaps(volumeId: number): readonly ExportBitmap[] {
    return this.#options.catalog.bitmaps?.(volumeId) ?? [];
  }

  /** What the client may do with the volume now. */
  grant(volumeId: number): Grant {
    return this.#options.rules?.grant(volumeId, this.#options.peer) ?? 'read-write';
  }

  /** Clients are counted, not their questions: many ask for contexts of an export, then for it. */
  #count(reason: RefusalReason): void {
    if (this.#counted.has(reason)) return;
    this.#counted.add(reason);
    this.#options.counts.countRefusal(reason);
  }

  #grants(): (volumeId: number) => Grant {
    return this.#options.rules?.grants(this.#options.peer) ?? (() => 'read-write');
  }
}

/** Whether a connection that was made with `readOnly` may go on. */
export function mayGoOn(grant: Grant, readOnly: boolean): boolean {
  return grant === 'read-write' || (grant === 'read-only' && readOnly);
}
