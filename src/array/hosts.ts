/**
 * Hosts: names for the machines that attach volumes, with the marks they are known by. What a host
 * may attach is volume-access.ts's.
 *
 * Runs on the main thread; what is kept in memory is what SQLite has.
 */

import { FlashlunError } from '../base/errors.js';
import { LIMITS } from '../base/limits.js';
import type { Logger } from '../base/log.js';
import { shorten } from '../base/shorten.js';
import type { HostRecord, HostRepository } from '../metadata/hosts.js';
import {
  checkNetwork,
  checkTlsIdentity,
  checkUid,
  type HostMatcher,
  hostMatcher,
  type PeerIdentity,
} from './peer.js';

/** A host as the API shows it, but for the volumes it may attach. */
export interface HostView {
  readonly name: string;
  readonly description: string;
  readonly addresses: string[];
  readonly uids: number[];
  readonly tlsIdentities: string[];
  readonly createdAt: string;
}

/** What `create` and `update` take; what is left out is empty, or stays. */
export interface HostChange {
  readonly description?: string | undefined;
  readonly addresses?: readonly string[] | undefined;
  readonly uids?: readonly number[] | undefined;
  readonly tlsIdentities?: readonly string[] | undefined;
}

interface Entry {
  readonly record: HostRecord;
  readonly matches: HostMatcher;
}

const NAME = /^[\p{L}\p{N}][\p{L}\p{N}._-]*$/u;

export class Hosts {
  readonly #records: HostRepository;
  readonly #log: Logger;
  readonly #now: () => number;
  readonly #entries = new Map<string, Entry>();

  constructor(records: HostRepository, log: Logger, now: () => number = Date.now) {
    this.#records = records;
    this.#log = log;
    this.#now = now;
    for (const record of records.list()) this.#keep(record);
  }

  list(): HostView[] {
    return [...this.#entries.keys()].sort().map((name) => this.get(name));
  }

  /** @throws FlashlunError HOST_NOT_FOUND */
  get(name: string): HostView {
    const { description, addresses, uids, tlsIdentities, createdMs } = this.#entry(name).record;
    return {
      name,
      description,
      addresses: [...addresses],
      uids: [...uids],
      tlsIdentities: [...tlsIdentities],
      createdAt: new Date(createdMs).toISOString(),
    };
  }

  /** Names of the hosts that this client is. */
  matching(peer: PeerIdentity): Set<string> {
    const names = [...this.#entries.values()].filter(({ matches }) => matches(peer));
    return new Set(names.map(({ record }) => record.name));
  }

  /** @throws FlashlunError INVALID_ARGUMENT, ALREADY_EXISTS, LIMIT_REACHED */
  create(name: string, change: HostChange, by: string): HostView {
    checkName(name);
    if (this.#entries.has(name)) {
      throw new FlashlunError(
        'ALREADY_EXISTS',
        `host '${name}' refused: there is one of this name. Change it with "flashlun host update".`,
        { details: { host: name } },
      );
    }
    if (this.#entries.size >= LIMITS.hosts) {
      throw new FlashlunError(
        'LIMIT_REACHED',
        `host '${name}' refused: there are ${LIMITS.hosts} hosts. Delete one that is not needed.`,
      );
    }
    const empty = { description: '', addresses: [], uids: [], tlsIdentities: [] };
    const record = changed({ name, ...empty, createdMs: this.#now() }, change);
    this.#records.add(record);
    return this.#kept(record, 'host created', by);
  }

  /**
   * Replaces what is given.
   *
   * @throws FlashlunError HOST_NOT_FOUND, INVALID_ARGUMENT
   */
  update(name: string, change: HostChange, by: string): HostView {
    const record = changed(this.#entry(name).record, change);
    this.#records.update(record);
    return this.#kept(record, 'host changed', by);
  }

  /** @throws FlashlunError HOST_NOT_FOUND. The caller has made sure that no volume names it. */
  delete(name: string, by: string): void {
    this.#entry(name);
    this.#records.delete(name);
    this.#entries.delete(name);
    this.#log.info({ audit: true, user: by, host: name }, 'host deleted');
  }

  #kept(record: HostRecord, what: string, by: string): HostView {
    this.#keep(record);
    const { name, addresses, uids, tlsIdentities } = record;
    const facts = { host: name, addresses, uids, tlsIdentities };
    this.#log.info({ audit: true, user: by, ...facts }, what);
    return this.get(name);
  }

  #keep(record: HostRecord): void {
    this.#entries.set(record.name, { record, matches: hostMatcher(record) });
  }

  #entry(name: string): Entry {
    const entry = this.#entries.get(name);
    if (entry !== undefined) return entry;
    throw new FlashlunError(
      'HOST_NOT_FOUND',
      `there is no host '${shorten(name)}'. "flashlun host list" shows those there are.`,
      { details: { host: shorten(name) } },
    );
  }
}

function checkName(name: string): void {
  if (Buffer.byteLength(name) <= LIMITS.hostNameBytes && NAME.test(name)) return;
  throw new FlashlunError(
    'INVALID_ARGUMENT',
    `host name '${shorten(name)}' refused: use letters, digits, dot, underscore and minus, ` +
      `beginning with a letter or digit, at most ${LIMITS.hostNameBytes} bytes.`,
  );
}

/** @throws FlashlunError INVALID_ARGUMENT */
function changed(record: HostRecord, change: HostChange): HostRecord {
  const description = change.description ?? record.description;
  if (Buffer.byteLength(description) > LIMITS.hostDescriptionBytes || /\p{Cc}/u.test(description)) {
    throw new FlashlunError(
      'INVALID_ARGUMENT',
      `description of host '${record.name}' refused: one line of at most ` +
        `${LIMITS.hostDescriptionBytes} bytes.`,
    );
  }
  const next = {
    ...record,
    description,
    addresses: change.addresses?.map(checkNetwork) ?? record.addresses,
    uids: change.uids?.map(checkUid) ?? record.uids,
    tlsIdentities: change.tlsIdentities?.map(checkTlsIdentity) ?? record.tlsIdentities,
  };
  const kinds = [next.addresses, next.uids, next.tlsIdentities];
  const most = LIMITS.hostIdentities;
  if (kinds.every((kind) => kind.length === 0) || kinds.some((kind) => kind.length > most)) {
    throw new FlashlunError(
      'INVALID_ARGUMENT',
      `host '${record.name}' refused: give it 1 to ${most} addresses, users or TLS identities; ` +
        'nobody could be it otherwise.',
    );
  }
  return next;
}
