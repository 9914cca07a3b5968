/**
 * The storage image: one ESS with its LSSs and volumes. Volumes live in the engine; this adds their
 * ESS identity (LSS, serial, names for hosts), the rules for making and deleting them, and words.
 *
 * Runs on the main thread. Changes go through the ChangeQueue it shares with Copy Services.
 */

import { FlashlunError, fromNative } from '../base/errors.js';
import {
  formatLss,
  formatVolumeId,
  isVolumeId,
  lssOf,
  parseLss,
  serialOf,
  tryParseVolumeId,
  volumeIdOfSerial,
} from '../base/ids.js';
import { LIMITS } from '../base/limits.js';
import { shorten } from '../base/shorten.js';
import { formatSize } from '../base/units.js';
import { type Engine, TRACK_BYTES, type VolumeState } from '../engine/types.js';
import type { ChangeQueue } from './change-queue.js';
import {
  bitmapOf,
  type ExportBitmap,
  type ExportCatalog,
  type ExportEntry,
  type ExportTarget,
} from './export-catalog.js';
import { checkThickFits, findPool } from './pools.js';
import { checkBlockSize, checkSize } from './sizes.js';
import { countersOf, type VolumeCounters } from './volume-counters.js';
import { VolumeIndex } from './volume-index.js';
import { describeRelationship } from './words.js';

/** A volume as the API shows it. Counters are since the server started. */
export interface VolumeView extends VolumeCounters {
  readonly id: string;
  readonly lss: string;
  readonly serial: string;
  readonly name: string;
  readonly sizeBytes: number;
  readonly usedBytes: number;
  /** Name of the pool its space comes from. */
  readonly pool: string;
  /** Its whole size is reserved. */
  readonly thick: boolean;
  /** Logical block size that hosts see: 512 or 4096. */
  readonly blockBytes: number;
  /** NBD connections. */
  readonly attached: number;
  readonly createdAt: string;
  /** ISO time at which a freeze ends by itself; null: it is not frozen. */
  readonly frozenUntil: string | null;
}

export interface LssView {
  readonly id: string;
  readonly volumes: number;
}

/** What `create` takes: the LSS, or the id, or both when they agree. */
export interface NewVolume {
  readonly lss?: string | undefined;
  readonly id?: string | undefined;
  /** Rounded up to whole tracks. */
  readonly sizeBytes: number;
  readonly name?: string | undefined;
  /** Default: the pool of the data directory. */
  readonly pool?: string | undefined;
  /** Reserves the whole size. */
  readonly thick?: boolean | undefined;
  /** Logical block size, 512 (the default) or 4096. */
  readonly blockBytes?: number | undefined;
}

type ArrayEngine = Pick<
  Engine,
  | 'createVolume'
  | 'resizeVolume'
  | 'deleteVolume'
  | 'volumes'
  | 'volume'
  | 'relationships'
  | 'recordings'
  | 'pools'
>;

/** Letters and digits of any script; no blank, slash or colon, which URIs and pairs are made of. */
const NAME = /^[\p{L}\p{N}][\p{L}\p{N}._-]*$/u;

export class StorageArray implements ExportCatalog {
  readonly essSerial: string;
  readonly #engine: ArrayEngine;
  readonly #changes: ChangeQueue;
  /**
   * Volumes are looked up for every pair and every NBD client, and the engine lists them only all
   * at once: thousands of objects a time, on the thread that everything else waits for.
   */
  readonly #index = new VolumeIndex();
  #poolNames: readonly string[] = [];
  readonly #onDelete: ((volumeId: number) => void)[] = [];
  /** Refuses a deletion by an exception; set by who keeps copies. */
  mayDelete: (volumeId: number) => void = () => undefined;

  /** The volumes of `engine` from now on change through this array only. */
  constructor(engine: ArrayEngine, essSerial: string, changes: ChangeQueue) {
    this.#engine = engine;
    this.essSerial = essSerial;
    this.#changes = changes;
    for (const { id, name } of engine.volumes()) this.#index.add(id, name);
  }

  /** The machine as esscli and CSM write it: `2105.13698`. */
  get machine(): string {
    return `2105.${this.essSerial}`;
  }

  /** All volumes, by id. */
  volumes(): VolumeView[] {
    return this.#states().map((state) => this.#view(state));
  }

  /** LSSs that have volumes, by id. */
  lss(): LssView[] {
    const counts = new Map<string, number>();
    for (const { id } of this.#states()) counts.set(lssOf(id), (counts.get(lssOf(id)) ?? 0) + 1);
    return [...counts].map(([id, volumes]) => ({ id, volumes }));
  }

  /** By id, serial or name. @throws FlashlunError VOLUME_NOT_FOUND */
  get(ref: string): VolumeView {
    return this.#view(this.state(ref));
  }

  /** As {@link get}, for code that works with the engine's view. */
  state(ref: string): VolumeState {
    const state = this.find(ref);
    if (state === undefined) {
      throw new FlashlunError(
        'VOLUME_NOT_FOUND',
        `there is no volume '${shorten(ref)}' on ESS ${this.essSerial}. ` +
          '"flashlun volume list" shows those there are.',
        { details: { volume: shorten(ref) } },
      );
    }
    return state;
  }

  /** By id, serial or name; undefined when there is none. */
  find(ref: string): VolumeState | undefined {
    const id = tryParseVolumeId(ref) ?? volumeIdOfSerial(ref, this.essSerial);
    const found = id ?? this.#index.idOf(ref);
    return found === undefined ? undefined : this.#engine.volume(found);
  }

  /**
   * Makes a volume; without an id it gets the lowest free number of the LSS. Durable when it
   * resolves.
   *
   * @throws FlashlunError INVALID_ARGUMENT, LSS_INVALID, SIZE_INVALID, VOLUME_EXISTS,
   *   ALREADY_EXISTS (the name), LSS_FULL, NO_SPACE
   */
  create(request: NewVolume): Promise<VolumeView> {
    return this.#changes.run(async () => {
      const name = request.name ?? '';
      const sizeBytes = checkSize(request.sizeBytes);
      const blockBytes = checkBlockSize(request.blockBytes);
      const id = this.#chooseId(request);
      this.#checkName(name);
      const pool = findPool(this.#engine.pools(), request.pool);
      try {
        if (request.thick === true) await checkThickFits(pool, sizeBytes);
        const placement = { pool: pool.number, thick: request.thick, blockBytes };
        await this.#engine.createVolume(id, sizeBytes, name, placement);
      } catch (error) {
        throw fromNative(error, `create volume ${formatVolumeId(id)}`);
      }
      this.#index.add(id, name);
      return this.get(formatVolumeId(id));
    });
  }

  /**
   * Grows a volume, also while it is in use. Clients see the new size when they connect again: NBD
   * has no notice of it. Durable when it resolves.
   *
   * @throws FlashlunError VOLUME_NOT_FOUND, SIZE_INVALID (also: smaller than it is),
   *   NO_SPACE (thick, and its pool cannot reserve the rest)
   */
  resize(ref: string, requestedBytes: number): Promise<VolumeView> {
    return this.#changes.run(async () => {
      const state = this.state(ref);
      const id = formatVolumeId(state.id);
      const sizeBytes = checkSize(requestedBytes);
      if (sizeBytes < state.sizeBytes) {
        throw new FlashlunError(
          'SIZE_INVALID',
          `resize of ${id} to ${formatSize(sizeBytes)} refused: it has ` +
            `${formatSize(state.sizeBytes)}, and volumes only grow. ` +
            'Create a smaller one and copy what you need.',
          { details: { volume: id, sizeBytes: state.sizeBytes } },
        );
      }
      try {
        await this.#engine.resizeVolume(state.id, sizeBytes);
      } catch (error) {
        throw fromNative(error, `resize volume ${id}`);
      }
      return this.get(id);
    });
  }

  /** @throws FlashlunError VOLUME_NOT_FOUND, VOLUME_IN_USE (attached, or in a relationship) */
  delete(ref: string): Promise<void> {
    return this.#changes.run(async () => {
      const state = this.state(ref);
      const id = formatVolumeId(state.id);
      this.#refuseInUse(state);
      this.mayDelete(state.id);
      try {
        await this.#engine.deleteVolume(state.id);
      } catch (error) {
        throw fromNative(error, `delete volume ${id}`);
      }
      this.#index.remove(state.id, state.name);
      for (const tell of this.#onDelete) tell(state.id);
    });
  }

  /** Who is told of deletions. */
  onDelete(listener: (volumeId: number) => void): void {
    this.#onDelete.push(listener);
  }

  list(): ExportEntry[] {
    return this.#states().map((state) => ({
      volumeId: state.id,
      name: serialOf(state.id, this.essSerial),
      description: this.#describe(state),
    }));
  }

  example(): string | undefined {
    const id = this.#index.anyId();
    return id === undefined ? undefined : serialOf(id, this.essSerial);
  }

  resolve(name: string): ExportTarget | undefined {
    const state = this.find(name);
    if (state === undefined) return undefined;
    return {
      volumeId: state.id,
      name,
      description: this.#describe(state),
      sizeBytes: state.sizeBytes,
      // As long as its relationship forbids writes; the engine refuses those of others too.
      readOnly: state.writeInhibited,
      blockBytes: state.blockBytes,
      names: [formatVolumeId(state.id), serialOf(state.id, this.essSerial), state.name],
    };
  }

  bitmaps(volumeId: number): ExportBitmap[] {
    return this.#engine.recordings(volumeId).map(bitmapOf);
  }

  #states(): VolumeState[] {
    return this.#engine.volumes().sort((left, right) => left.id - right.id);
  }

  #chooseId(request: NewVolume): number {
    const lss = request.lss === undefined ? undefined : parseLss(request.lss);
    if (request.id === undefined) {
      if (lss === undefined) {
        throw new FlashlunError('INVALID_ARGUMENT', 'give an LSS (12) or a volume id (1203).');
      }
      return this.#nextFree(lss);
    }
    const id = tryParseVolumeId(request.id);
    if (id === undefined || !isVolumeId(id)) {
      throw new FlashlunError(
        'INVALID_ARGUMENT',
        `volume id '${shorten(request.id)}' refused: use four hex digits, 1000 to 1FFF.`,
      );
    }
    if (lss !== undefined && lss !== id >> 8) {
      throw new FlashlunError(
        'LSS_INVALID',
        `volume id ${formatVolumeId(id)} refused: it belongs to LSS ${lssOf(id)}, ` +
          `not ${formatLss(lss)}. Leave one of the two out.`,
      );
    }
    const taken = this.#engine.volume(id);
    if (taken !== undefined) {
      throw new FlashlunError(
        'VOLUME_EXISTS',
        `volume ${formatVolumeId(id)} refused: it exists already ` +
          `(${formatSize(taken.sizeBytes)}). Leave the id out to get the next free one.`,
        { details: { volume: formatVolumeId(id) } },
      );
    }
    return id;
  }

  #nextFree(lss: number): number {
    for (let number = 0; number < LIMITS.volumesPerLss; number += 1) {
      const id = (lss << 8) | number;
      if (!this.#index.has(id)) return id;
    }
    throw new FlashlunError(
      'LSS_FULL',
      `LSS ${formatLss(lss)} refused: all ${LIMITS.volumesPerLss} volume numbers are in use. ` +
        'Delete a volume of it, or take another LSS (10 to 1F).',
      { details: { lss: formatLss(lss) } },
    );
  }

  #checkName(name: string): void {
    if (name === '') return;
    const refuse = (reason: string): never => {
      throw new FlashlunError('INVALID_ARGUMENT', `name '${shorten(name)}' refused: ${reason}`);
    };
    if (Buffer.byteLength(name) > LIMITS.volumeNameBytes) {
      refuse(`it is longer than ${LIMITS.volumeNameBytes} bytes.`);
    }
    if (!NAME.test(name)) {
      refuse('use letters, digits, dot, underscore and minus, beginning with a letter or digit.');
    }
    if ((tryParseVolumeId(name) ?? volumeIdOfSerial(name, this.essSerial)) !== undefined) {
      refuse('it reads as a volume id or serial, and volumes are found by all three.');
    }
    const other = this.#index.idOf(name);
    if (other !== undefined) {
      throw new FlashlunError(
        'ALREADY_EXISTS',
        `name '${name}' refused: volume ${formatVolumeId(other)} has it. Choose another name.`,
        { details: { volume: formatVolumeId(other) } },
      );
    }
  }

  #refuseInUse(state: VolumeState): void {
    const id = formatVolumeId(state.id);
    const related = this.#engine
      .relationships()
      .find((each) => each.sourceId === state.id || each.targetId === state.id);
    if (related !== undefined) {
      const role = related.sourceId === state.id ? 'source' : 'target';
      const wayOut = related.noCopy ? 'Withdraw it first.' : 'Withdraw it, or let the copy end.';
      throw new FlashlunError(
        'VOLUME_IN_USE',
        `delete of ${id} refused: it is the ${role} of ${describeRelationship(related)}. ${wayOut}`,
        { details: { volume: id } },
      );
    }
    if (state.attached > 0) {
      throw new FlashlunError(
        'VOLUME_IN_USE',
        `delete of ${id} refused: ${state.attached} NBD connection(s) have it open. ` +
          'Detach it from its clients first.',
        { details: { volume: id, attached: state.attached } },
      );
    }
  }

  /** Pools are few and never removed, but asked for once for every volume of a list. */
  #poolName(number: number): string {
    if (this.#poolNames[number] === undefined) {
      this.#poolNames = this.#engine.pools().map((pool) => pool.name);
    }
    return this.#poolNames[number] ?? '';
  }

  #describe(state: VolumeState): string {
    const name = state.name === '' ? '' : ` '${state.name}'`;
    const id = formatVolumeId(state.id);
    return `ESS ${this.essSerial} volume ${id}${name}, ${formatSize(state.sizeBytes)}`;
  }

  #view(state: VolumeState): VolumeView {
    return {
      id: formatVolumeId(state.id),
      lss: lssOf(state.id),
      serial: serialOf(state.id, this.essSerial),
      name: state.name,
      sizeBytes: state.sizeBytes,
      usedBytes: state.mappedTracks * TRACK_BYTES,
      pool: this.#poolName(state.pool),
      thick: state.thick,
      blockBytes: state.blockBytes,
      attached: state.attached,
      createdAt: new Date(state.createdUnixMs).toISOString(),
      ...countersOf(state),
      frozenUntil:
        state.frozenUntilUnixMs === 0 ? null : new Date(state.frozenUntilUnixMs).toISOString(),
    };
  }
}
