/**
 * Hosts: names for the machines that attach volumes. A host has marks that its clients are known by
 * (LUN masking; what it may attach is volume-access.ts's), or a disk map, which rsPrimeServer sent
 * and which says what the host calls its disks, or both. A disk map lets nobody attach anything.
 *
 * A name keeps the spelling it came with and is compared without case, as the ESS does.
 *
 * Runs on the main thread; what is kept in memory is what SQLite has.
 */

import { FlashlunError } from '../base/errors.js';
import { LIMITS } from '../base/limits.js';
import type { Logger } from '../base/log.js';
import { shorten } from '../base/shorten.js';
import type { DiskMap, HostDisk, HostRecord, HostRepository } from '../metadata/hosts.js';
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
  readonly disks: HostDisk[];
  /** When rsPrimeServer last sent the disks; null when it never did. */
  readonly primedAt: string | null;
  /** What the host then said its address is; for people, nothing is decided by it. */
  readonly primedFrom: string | null;
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
  /** By name in lower case. */
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
    const { record } = this.#entry(name);
    const { diskMap } = record;
    return {
      name: record.name,
      description: record.description,
      addresses: [...record.addresses],
      uids: [...record.uids],
      tlsIdentities: [...record.tlsIdentities],
      createdAt: new Date(record.createdMs).toISOString(),
      disks: [...(diskMap?.disks ?? [])],
      primedAt: diskMap === undefined ? null : new Date(diskMap.primedMs).toISOString(),
      primedFrom: diskMap?.address ?? null,
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
    const other = this.#entries.get(fold(name))?.record.name;
    if (other !== undefined) {
      throw new FlashlunError(
        'ALREADY_EXISTS',
        `host '${name}' refused: there is host ${other}, and case makes no other name. ` +
          'Change it with "flashlun host update".',
        { details: { host: other } },
      );
    }
    const record = changed(this.#fresh(name), change);
    this.#records.add(record);
    return this.#kept(record, 'host created', by);
  }

  /**
   * Takes over what a host says of its disks, in place of what it said before; makes the host when
   * there is none of this name.
   *
   * @throws FlashlunError INVALID_ARGUMENT, LIMIT_REACHED
   */
  prime(name: string, told: Omit<DiskMap, 'primedMs'>, by: string): HostView {
    checkName(name);
    const known = this.#entries.get(fold(name))?.record;
    const disks = checkDisks(name, told.disks);
    const diskMap = { disks, address: told.address, primedMs: this.#now() };
    const record = { ...(known ?? this.#fresh(name)), diskMap };
    if (known === undefined) this.#records.add(record);
    else this.#records.update(record);
    return this.#kept(record, 'host primed', by);
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
    const host = this.#entry(name).record.name;
    this.#records.delete(host);
    this.#entries.delete(fold(host));
    this.#log.info({ audit: true, user: by, host }, 'host deleted');
  }

  #fresh(name: string): HostRecord {
    if (this.#entries.size >= LIMITS.hosts) {
      throw new FlashlunError(
        'LIMIT_REACHED',
        `host '${name}' refused: there are ${LIMITS.hosts} hosts. Delete one that is not needed.`,
      );
    }
    const empty = { description: '', addresses: [], uids: [], tlsIdentities: [] };
    return { name, ...empty, createdMs: this.#now(), diskMap: undefined };
  }

  #kept(record: HostRecord, what: string, by: string): HostView {
    this.#keep(record);
    const { name, addresses, uids, tlsIdentities, diskMap } = record;
    const disks = diskMap?.disks.map((disk) => `${disk.name}=${disk.serial}`);
    const facts = { host: name, addresses, uids, tlsIdentities, disks };
    this.#log.info({ audit: true, user: by, ...facts }, what);
    return this.get(name);
  }

  #keep(record: HostRecord): void {
    this.#entries.set(fold(record.name), { record, matches: hostMatcher(record) });
  }

  #entry(name: string): Entry {
    const entry = this.#entries.get(fold(name));
    if (entry !== undefined) return entry;
    throw new FlashlunError(
      'HOST_NOT_FOUND',
      `there is no host '${shorten(name)}'. "flashlun host list" shows those there are.`,
      { details: { host: shorten(name) } },
    );
  }
}

/** Names are compared in this form. */
function fold(name: string): string {
  return name.toLowerCase();
}

/**
 * The disks as they are kept: serials in upper case, sorted as people count (Disk2 before Disk10).
 *
 * @throws FlashlunError INVALID_ARGUMENT
 */
function checkDisks(host: string, disks: readonly HostDisk[]): HostDisk[] {
  const refuse = (reason: string): never => {
    throw new FlashlunError('INVALID_ARGUMENT', `disk map of host ${host} refused: ${reason}.`);
  };
  if (disks.length > LIMITS.disksPerHost) refuse(`more than ${LIMITS.disksPerHost} disks`);
  const names = new Set<string>();
  const checked = disks.map(({ name, serial }) => {
    if (!/^[\x21-\x7e]+$/.test(name) || name.length > LIMITS.diskNameBytes) {
      const what = `'${shorten(name)}' is not the name of a disk`;
      refuse(`${what}: use up to ${LIMITS.diskNameBytes} ASCII characters without blanks`);
    }
    if (!/^[0-9a-f]{3}[0-9a-z]{5}$/i.test(serial)) {
      refuse(`'${shorten(serial)}' is not the serial of an ESS volume, for example 20313698`);
    }
    if (names.has(name)) refuse(`disk ${name} stands in it twice`);
    names.add(name);
    return { name, serial: serial.toUpperCase() };
  });
  return checked.sort((left, right) => left.name.localeCompare(right.name, 'en', NATURAL));
}

const NATURAL = { numeric: true } as const;

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
  const nobody = kinds.every((kind) => kind.length === 0) && record.diskMap === undefined;
  if (nobody || kinds.some((kind) => kind.length > most)) {
    throw new FlashlunError(
      'INVALID_ARGUMENT',
      `host '${record.name}' refused: give it 1 to ${most} addresses, users or TLS identities; ` +
        'nobody could be it otherwise.',
    );
  }
  return next;
}
