/** Hosts, which volumes they may attach, and the rate limits of volumes. */

import type { MetadataDatabase } from './database.js';

export interface HostRecord {
  readonly name: string;
  readonly description: string;
  readonly addresses: readonly string[];
  readonly uids: readonly number[];
  readonly tlsIdentities: readonly string[];
  readonly createdMs: number;
  /** What rsPrimeServer told last; undefined for a host that never did. */
  readonly diskMap: DiskMap | undefined;
}

/** What a host calls its disks, by its own account. */
export interface DiskMap {
  readonly disks: readonly HostDisk[];
  /** The host's own idea of its address. */
  readonly address: string;
  readonly primedMs: number;
}

export interface HostDisk {
  /** As the host names it: `Disk1`, `sda`. */
  readonly name: string;
  /** Eight characters, upper case; may be of another ESS. */
  readonly serial: string;
}

/** A host may attach a volume. */
export interface AccessRecord {
  readonly host: string;
  readonly readOnly: boolean;
}

/** 0 is no limit. */
export interface RateRecord {
  readonly volumeId: number;
  readonly iops: number;
  readonly bytesPerSecond: number;
  readonly connectionIops: number;
  readonly connectionBytesPerSecond: number;
  readonly burstMs: number;
}

interface HostRow {
  readonly name: string;
  readonly description: string;
  readonly identities: string;
  readonly createdMs: number;
  readonly diskMap: string | null;
}

type StoredIdentities = Pick<HostRecord, 'addresses' | 'uids' | 'tlsIdentities'>;

export class HostRepository {
  readonly #list;
  readonly #insert;
  readonly #update;
  readonly #delete;

  constructor(db: MetadataDatabase) {
    this.#list = db.prepare<[], HostRow>(
      `SELECT name, description, identities, created_ms AS createdMs, disk_map AS diskMap
       FROM hosts ORDER BY name`,
    );
    this.#insert = db.prepare<[string, string, string, number, string | null]>(
      `INSERT INTO hosts (name, description, identities, created_ms, disk_map)
       VALUES (?, ?, ?, ?, ?)`,
    );
    this.#update = db.prepare<[string, string, string | null, string]>(
      'UPDATE hosts SET description = ?, identities = ?, disk_map = ? WHERE name = ?',
    );
    this.#delete = db.prepare<[string]>('DELETE FROM hosts WHERE name = ?');
  }

  list(): HostRecord[] {
    return this.#list.all().map(({ identities, diskMap, ...row }) => ({
      ...row,
      ...(JSON.parse(identities) as StoredIdentities),
      diskMap: diskMap === null ? undefined : (JSON.parse(diskMap) as DiskMap),
    }));
  }

  add(host: HostRecord): void {
    const { name, description, createdMs } = host;
    this.#insert.run(name, description, identitiesOf(host), createdMs, diskMapOf(host));
  }

  update(host: HostRecord): void {
    this.#update.run(host.description, identitiesOf(host), diskMapOf(host), host.name);
  }

  /** @throws SqliteError while it has access to a volume */
  delete(name: string): void {
    this.#delete.run(name);
  }
}

function identitiesOf({ addresses, uids, tlsIdentities }: HostRecord): string {
  return JSON.stringify({ addresses, uids, tlsIdentities });
}

function diskMapOf({ diskMap }: HostRecord): string | null {
  return diskMap === undefined ? null : JSON.stringify(diskMap);
}

/** A volume is here as soon as its access was set, also when no host may attach it. */
export class AccessRepository {
  readonly #volumes;
  readonly #rules;
  readonly #replace;
  readonly #clear;

  constructor(db: MetadataDatabase) {
    this.#volumes = db.prepare<[], number>('SELECT volume_id FROM restricted_volumes').pluck();
    this.#rules = db.prepare<[], { volumeId: number; host: string; readOnly: number }>(
      `SELECT volume_id AS volumeId, host, read_only AS readOnly FROM volume_access
       ORDER BY volume_id, host`,
    );
    this.#clear = db.prepare<[number]>('DELETE FROM restricted_volumes WHERE volume_id = ?');
    this.#replace = accessReplacer(db);
  }

  all(): Map<number, AccessRecord[]> {
    const byVolume = new Map<number, AccessRecord[]>();
    for (const volumeId of this.#volumes.all()) byVolume.set(volumeId, []);
    for (const { volumeId, host, readOnly } of this.#rules.all()) {
      byVolume.get(volumeId)?.push({ host, readOnly: readOnly !== 0 });
    }
    return byVolume;
  }

  /** From now on exactly these hosts may attach the volume. */
  replace(volumeId: number, rules: readonly AccessRecord[]): void {
    this.#replace(volumeId, rules);
  }

  /** The volume has no access rules any more. */
  clear(volumeId: number): void {
    this.#clear.run(volumeId);
  }
}

function accessReplacer(db: MetadataDatabase) {
  const restrict = db.prepare<[number]>(
    'INSERT INTO restricted_volumes (volume_id) VALUES (?) ON CONFLICT DO NOTHING',
  );
  const clear = db.prepare<[number]>('DELETE FROM volume_access WHERE volume_id = ?');
  const insert = db.prepare<[number, string, number]>(
    'INSERT INTO volume_access (volume_id, host, read_only) VALUES (?, ?, ?)',
  );
  return db.transaction((volumeId: number, rules: readonly AccessRecord[]) => {
    restrict.run(volumeId);
    clear.run(volumeId);
    for (const { host, readOnly } of rules) insert.run(volumeId, host, Number(readOnly));
  });
}

export class RateRepository {
  readonly #list;
  readonly #set;
  readonly #delete;

  constructor(db: MetadataDatabase) {
    this.#list = db.prepare<[], RateRecord>(
      `SELECT volume_id AS volumeId, iops, bytes_per_second AS bytesPerSecond,
         connection_iops AS connectionIops,
         connection_bytes_per_second AS connectionBytesPerSecond, burst_ms AS burstMs
       FROM volume_rates`,
    );
    this.#set = db.prepare<RateRecord>(
      `INSERT OR REPLACE INTO volume_rates (volume_id, iops, bytes_per_second, connection_iops,
         connection_bytes_per_second, burst_ms)
       VALUES (@volumeId, @iops, @bytesPerSecond, @connectionIops, @connectionBytesPerSecond,
         @burstMs)`,
    );
    this.#delete = db.prepare<[number]>('DELETE FROM volume_rates WHERE volume_id = ?');
  }

  list(): RateRecord[] {
    return this.#list.all();
  }

  set(rates: RateRecord): void {
    this.#set.run(rates);
  }

  delete(volumeId: number): void {
    this.#delete.run(volumeId);
  }
}
