/**
 * Volume access, what an ESS calls LUN masking: which hosts may attach which volumes.
 *
 * A volume whose access was never set is open to clients on this machine (loopback, unix socket)
 * and to nobody else. From the first rule on only its rules count, for everybody; when the last one
 * is taken away it stays closed, until it is set back to the default.
 *
 * Runs on the main thread. Whoever serves connections listens for changes and ends those that may
 * not go on.
 */

import { FlashlunError } from '../base/errors.js';
import { formatVolumeId, volumeIdOfSerial } from '../base/ids.js';
import type { Logger } from '../base/log.js';
import type { AccessRecord, AccessRepository, HostDisk } from '../metadata/hosts.js';
import type { ChangeQueue } from './change-queue.js';
import type { HostChange, Hosts, HostView } from './hosts.js';
import { isLocal, type PeerIdentity } from './peer.js';
import type { StorageArray } from './storage-array.js';

export type Grant = 'read-write' | 'read-only' | 'none';

/** Who may attach a volume, as the API shows it. */
export interface VolumeAccessView {
  readonly volume: string;
  /** False: the default, open to this machine. */
  readonly restricted: boolean;
  readonly hosts: { host: string; access: 'read-write' | 'read-only' }[];
}

/** With the number of connections that the change ended. */
export type ChangedAccess = VolumeAccessView & { readonly disconnected: number };

/** A host's disk with the volume it is; null when that is of another ESS, or gone. */
export interface MappedDisk extends HostDisk {
  readonly volume: string | null;
}

export type HostSummary = Omit<HostView, 'disks'> & { readonly disks: MappedDisk[] };

export interface HostDetails extends HostSummary {
  readonly volumes: { volume: string; access: 'read-write' | 'read-only' }[];
}

/** Ends the connections that are not allowed any more, and returns how many those were. */
export type OnAccessChanged = () => number;

export interface VolumeAccessOptions {
  readonly array: Pick<StorageArray, 'essSerial' | 'state' | 'volumes' | 'onDelete'>;
  readonly hosts: Hosts;
  readonly records: AccessRepository;
  readonly changes: ChangeQueue;
  readonly log: Logger;
}

export class VolumeAccess {
  readonly hosts: Hosts;
  readonly #array: VolumeAccessOptions['array'];
  readonly #records: AccessRepository;
  readonly #changes: ChangeQueue;
  readonly #log: Logger;
  readonly #rules: Map<number, readonly AccessRecord[]>;
  #onChanged: OnAccessChanged = () => 0;

  constructor(options: VolumeAccessOptions) {
    this.hosts = options.hosts;
    this.#array = options.array;
    this.#records = options.records;
    this.#changes = options.changes;
    this.#log = options.log;
    this.#rules = this.#records.all();
    this.#forgetDeleted();
    // A volume that gets the same id later is another one, and its default is another.
    this.#array.onDelete((volumeId) => this.#forget(volumeId));
  }

  /** Who is told of changes; one listener. */
  onChanged(listener: OnAccessChanged): void {
    this.#onChanged = listener;
  }

  /** What the client may do with the volume. */
  grant(volumeId: number, peer: PeerIdentity): Grant {
    return this.grants(peer)(volumeId);
  }

  /** The same for many volumes: who the client is, is found out once. */
  grants(peer: PeerIdentity): (volumeId: number) => Grant {
    const byDefault: Grant = isLocal(peer) ? 'read-write' : 'none';
    let names: Set<string> | undefined;
    return (volumeId) => {
      const rules = this.#rules.get(volumeId);
      if (rules === undefined) return byDefault;
      names ??= this.hosts.matching(peer);
      const own = rules.filter(({ host }) => names?.has(host));
      if (own.length === 0) return 'none';
      return own.every(({ readOnly }) => readOnly) ? 'read-only' : 'read-write';
    };
  }

  /** @throws FlashlunError VOLUME_NOT_FOUND */
  show(ref: string): VolumeAccessView {
    return this.#view(this.#array.state(ref).id);
  }

  /** @throws FlashlunError HOST_NOT_FOUND */
  host(name: string): HostDetails {
    const view = this.hosts.get(name);
    const volumes = [...this.#rules].flatMap(([volumeId, rules]) =>
      rules
        .filter(({ host }) => host === view.name)
        .map(({ readOnly }) => ({ volume: formatVolumeId(volumeId), access: accessOf(readOnly) })),
    );
    return { ...this.#withVolumes(view, this.#existing()), volumes };
  }

  hostList(): HostSummary[] {
    const existing = this.#existing();
    return this.hosts.list().map((view) => this.#withVolumes(view, existing));
  }

  /** Host focus: the volumes that are the host's disks by its disk map. */
  focus(host: string): Set<string> {
    const { disks } = this.#withVolumes(this.hosts.get(host), this.#existing());
    return new Set(disks.flatMap(({ volume }) => (volume === null ? [] : [volume])));
  }

  #existing(): ReadonlySet<string> {
    return new Set(this.#array.volumes().map(({ id }) => id));
  }

  #withVolumes(view: HostView, existing: ReadonlySet<string>): HostSummary {
    const volumeOf = (serial: string): string | null => {
      const id = volumeIdOfSerial(serial, this.#array.essSerial);
      const text = id === undefined ? '' : formatVolumeId(id);
      return existing.has(text) ? text : null;
    };
    const disks = view.disks.map((disk) => ({ ...disk, volume: volumeOf(disk.serial) }));
    return { ...view, disks };
  }

  /** @throws FlashlunError VOLUME_NOT_FOUND, HOST_NOT_FOUND */
  allow(ref: string, host: string, readOnly: boolean, by: string): Promise<ChangedAccess> {
    return this.#changes.run(async () => {
      const { id } = this.#array.state(ref);
      const { name } = this.hosts.get(host);
      const others = (this.#rules.get(id) ?? []).filter((rule) => rule.host !== name);
      return this.#set(id, [...others, { host: name, readOnly }], by);
    });
  }

  /** Takes a host off the volume; without rules left nobody may attach it. */
  deny(ref: string, host: string, by: string): Promise<ChangedAccess> {
    return this.#changes.run(async () => {
      const { id } = this.#array.state(ref);
      const rules = this.#rules.get(id) ?? [];
      const { name } = this.hosts.get(host);
      const others = rules.filter((rule) => rule.host !== name);
      if (others.length === rules.length) {
        const volume = formatVolumeId(id);
        const hint = this.#rules.has(id) ? '' : ' It is open to this machine by default.';
        throw new FlashlunError(
          'NOT_FOUND',
          `volume ${volume} has no access rule for host ${name}.${hint} ` +
            `"flashlun volume access ${volume}" shows its rules.`,
          { details: { volume, host: name } },
        );
      }
      return this.#set(id, others, by);
    });
  }

  /** From now on exactly these hosts, or nobody. */
  replace(ref: string, rules: readonly AccessRecord[], by: string): Promise<ChangedAccess> {
    return this.#changes.run(async () => {
      const { id } = this.#array.state(ref);
      const named = rules.map((rule) => ({ ...rule, host: this.hosts.get(rule.host).name }));
      const byHost = new Map(named.map((rule) => [rule.host, rule]));
      return this.#set(id, [...byHost.values()], by);
    });
  }

  /** Back to the default. */
  reset(ref: string, by: string): Promise<ChangedAccess> {
    return this.#changes.run(async () => {
      const { id } = this.#array.state(ref);
      this.#records.clear(id);
      this.#rules.delete(id);
      return this.#changed(id, by);
    });
  }

  /** @throws FlashlunError HOST_NOT_FOUND, INVALID_ARGUMENT */
  updateHost(name: string, change: HostChange, by: string): HostDetails & Disconnected {
    this.hosts.update(name, change, by);
    return { ...this.host(name), disconnected: this.#onChanged() };
  }

  /** @throws FlashlunError HOST_NOT_FOUND, HOST_IN_USE while a volume names it */
  deleteHost(name: string, by: string): void {
    const { volumes, name: host } = this.host(name);
    if (volumes.length > 0) {
      const named = volumes.map(({ volume }) => volume);
      const shown = named.slice(0, 8).join(', ') + (named.length > 8 ? ', ...' : '');
      throw new FlashlunError(
        'HOST_IN_USE',
        `delete of host ${host} refused: it has access to ${shown}. ` +
          `Take it away first: flashlun volume deny ${named[0]} --host ${host}`,
        { details: { host, volumes: named } },
      );
    }
    this.hosts.delete(name, by);
  }

  #set(volumeId: number, rules: readonly AccessRecord[], by: string): ChangedAccess {
    this.#records.replace(volumeId, rules);
    this.#rules.set(volumeId, rules);
    return this.#changed(volumeId, by);
  }

  #changed(volumeId: number, by: string): ChangedAccess {
    const view = { ...this.#view(volumeId), disconnected: this.#onChanged() };
    this.#log.info({ audit: true, user: by, ...view }, 'volume access changed');
    return view;
  }

  #view(volumeId: number): VolumeAccessView {
    const rules = this.#rules.get(volumeId);
    return {
      volume: formatVolumeId(volumeId),
      restricted: rules !== undefined,
      hosts: [...(rules ?? [])]
        .sort((left, right) => (left.host < right.host ? -1 : 1))
        .map(({ host, readOnly }) => ({ host, access: accessOf(readOnly) })),
    };
  }

  #forget(volumeId: number): void {
    if (!this.#rules.delete(volumeId)) return;
    this.#records.clear(volumeId);
  }

  /** A server that was killed between deleting a volume and forgetting its rules left them here. */
  #forgetDeleted(): void {
    const existing = new Set(this.#array.volumes().map(({ id }) => id));
    for (const volumeId of this.#rules.keys()) {
      if (!existing.has(formatVolumeId(volumeId))) this.#forget(volumeId);
    }
  }
}

interface Disconnected {
  readonly disconnected: number;
}

function accessOf(readOnly: boolean): 'read-write' | 'read-only' {
  return readOnly ? 'read-only' : 'read-write';
}
