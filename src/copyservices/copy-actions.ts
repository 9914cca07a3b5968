/**
 * What the verbs of copy-services.ts are made of: the steps before and after a T0. Runs inside
 * changes, so nothing else changes volumes or relationships meanwhile.
 */

import type { ChangeQueue } from '../array/change-queue.js';
import type { VolumeFreezes } from '../array/freeze.js';
import type { StorageArray } from '../array/storage-array.js';
import { pairId } from '../array/words.js';
import { FlashlunError, fromNative } from '../base/errors.js';
import type { VolumePair } from '../base/ids.js';
import { LIMITS } from '../base/limits.js';
import type { Logger } from '../base/log.js';
import type { Engine, RelationshipFlags, RelationshipState } from '../engine/types.js';
import type { RelationshipAttributes } from './attributes.js';
import type { BackgroundCopy } from './background-copy.js';
import type { CopyLocks } from './copy-locks.js';
import type { ConsistencyGroups } from './consistency-groups.js';
import {
  attributesOf,
  checkOptions,
  type CopyOptions,
  type EstablishOptions,
  flagsOf,
} from './copy-options.js';
import type { FlashCopyView } from './copy-view.js';
import {
  nameOf,
  type Relationships,
  relationshipNotFound,
  type StatePair,
} from './relationships.js';
import { checkEstablish, checkResync, checkReverse, type Refusal } from './rules.js';
import type { SavedImages } from './saved-images.js';
import { decide, type Operation, stateOf } from './state-machine.js';
import type { TargetClients } from './target-clients.js';
import type { UndoImages } from './undo.js';

export interface EstablishRequest extends EstablishOptions {
  readonly pairs: readonly VolumePair[];
}

export type CopyEngine = Pick<
  Engine,
  | 'establish'
  | 'resync'
  | 'reverse'
  | 'revert'
  | 'withdraw'
  | 'setFlags'
  | 'relationships'
  | 'volume'
  | 'freeze'
  | 'thaw'
>;

export interface CopyServicesOptions {
  readonly engine: CopyEngine;
  readonly array: StorageArray;
  readonly backgroundCopy: BackgroundCopy;
  readonly attributes: RelationshipAttributes;
  readonly groups: ConsistencyGroups;
  readonly images: SavedImages;
  readonly undo: UndoImages;
  readonly freezes: VolumeFreezes;
  readonly clients: TargetClients;
  readonly changes: ChangeQueue;
  readonly log: Logger;
  /** The ESS's own restrictions. */
  readonly strict: boolean;
  /** Refuses changes of volumes that hold locked copies. */
  readonly locks?: Pick<CopyLocks, 'check'> | undefined;
}

/** What happened since the start, for metrics. */
export interface CopyServicesCounters {
  readonly established: number;
  readonly resynced: number;
  readonly reversed: number;
  readonly withdrawn: number;
  readonly refused: number;
}

/** A quiet target's writes wait so long at most; the steps in between take milliseconds. */
const QUIET_SECONDS = 10;

export class CopyActions {
  readonly counters = { established: 0, resynced: 0, reversed: 0, withdrawn: 0, refused: 0 };
  readonly #options: CopyServicesOptions;
  readonly #engine: CopyEngine;
  readonly #log: Logger;
  readonly #relationships: Relationships;

  constructor(options: CopyServicesOptions, relationships: Relationships) {
    this.#options = options;
    this.#engine = options.engine;
    this.#log = options.log;
    this.#relationships = relationships;
  }

  /** As CopyServices.establish. */
  async establish(request: EstablishRequest): Promise<FlashCopyView[]> {
    checkOptions(request);
    const pairs = this.#relationships.resolve(request.pairs);
    const force = request.force ?? false;
    const rules = { ...this.#ruleRequest(request), force };
    this.#refuse(checkEstablish(pairs, this.#relationships.all(), rules));
    const targets = pairs.map(({ target }) => target.id);
    this.refuseLocked(targets, `establish ${pairs.map(nameOf).join(' ')}`);
    await this.#disconnectTargets(pairs, request);
    const thaw = await this.#freezeSources(pairs, request);
    const ids = await this.#establish(pairs, request).catch((error: unknown) => {
      thaw();
      throw fromNative(error, `establish ${pairs.map(nameOf).join(' ')}`);
    });
    this.#afterT0(ids, pairs, request);
    // Before background copy begins: a short one could end before we looked.
    const views = this.#relationships.views(ids);
    this.#options.backgroundCopy.resume();
    return views;
  }

  async #establish(pairs: readonly StatePair[], request: EstablishRequest): Promise<number[]> {
    const startedMs = performance.now();
    const flags = flagsOf(request);
    const specs = pairs.map(({ source, target }) => ({
      ...flags,
      sourceId: source.id,
      targetId: target.id,
    }));
    const undo = this.#toKeep(pairs, request);
    const ids = await this.quietly(
      undo.map(({ target }) => target.id),
      async () => {
        await this.#keepUndo(undo, request);
        return this.#engine.establish(specs);
      },
    );
    const milliseconds = Math.round((performance.now() - startedMs) * 1000) / 1000;
    this.counters.established += ids.length;
    const names = pairs.map(nameOf).join(' ');
    this.#log.info({ ...request, pairs: names, milliseconds }, 'established');
    return ids;
  }

  /** One that nobody asked for must not keep the establish from being made. */
  async #keepUndo(
    targets: Parameters<UndoImages['keep']>[0],
    request: EstablishRequest,
  ): Promise<void> {
    try {
      await this.#options.undo.keep(targets, undoSeconds(request));
    } catch (error) {
      if (request.undoSeconds !== undefined) throw error;
      const pairs = targets.map(({ pair }) => pair).join(' ');
      this.#log.warn({ err: error, pairs }, 'what the targets held could not be kept for an undo');
    }
  }

  /** Targets whose content an undo could bring back. */
  #toKeep(pairs: readonly StatePair[], request: EstablishRequest) {
    if (undoSeconds(request) === 0) return [];
    return (
      pairs
        .filter(({ target }) => target.mappedTracks > 0)
        // Unasked it takes no space that is reserved.
        .filter(({ target }) => request.undoSeconds !== undefined || !target.thick)
        .filter(({ target }) => request.undoSeconds !== undefined || target.hostWritten)
        .map((pair) => ({ target: pair.target, pair: nameOf(pair) }))
    );
  }

  /**
   * Runs with the volumes' host writes held up, so that two engine calls see one content. Volumes
   * that are frozen already stay so.
   */
  async quietly<T>(volumeIds: readonly number[], run: () => Promise<T>): Promise<T> {
    const open = volumeIds.filter((id) => this.#engine.volume(id)?.frozenUntilUnixMs === 0);
    if (open.length === 0) return run();
    await this.#options.freezes.freezeAll(open, QUIET_SECONDS);
    try {
      return await run();
    } finally {
      this.#engine.thaw(open);
    }
  }

  async #disconnectTargets(pairs: readonly StatePair[], options: CopyOptions): Promise<void> {
    if (options.targetOnline !== 'disconnect') return;
    await this.#options.clients.disconnectAndWait(pairs.map(({ target }) => target.id));
  }

  /** Returns what undoes it. */
  async #freezeSources(
    pairs: readonly StatePair[],
    request: EstablishRequest,
  ): Promise<() => void> {
    if (request.freeze !== true) return () => undefined;
    const sources = pairs.map(({ source }) => source.id);
    return this.#options.groups.freeze(sources, request.freezeSeconds, (ids, seconds) =>
      this.#options.freezes.freezeAll(ids, seconds),
    );
  }

  #afterT0(ids: readonly number[], pairs: readonly StatePair[], request: EstablishRequest): void {
    const { attributes, clients, groups } = this.#options;
    attributes.retain(this.#relationships.all().map(({ id }) => id));
    const given = attributesOf(request);
    const freeze = request.freeze === true ? { freeze: 'frozen' as const } : {};
    const change = { ...given, ...freeze };
    if (Object.keys(change).length > 0) for (const id of ids) attributes.change(id, change);
    if (request.freeze === true) {
      groups.assign(ids.map((id, at) => ({ id, sourceId: (pairs[at] as StatePair).source.id })));
    }
    // Those that were back before T0 may have read what is no longer there.
    if (request.targetOnline === 'disconnect') {
      clients.disconnect(pairs.map(({ target }) => target.id));
    }
  }

  /** A new T0 of relationships that are there, one for all of them. */
  async again(
    pairs: readonly VolumePair[],
    options: CopyOptions,
    what: 'resync' | 'reverse' | 'fast-reverse',
  ): Promise<FlashCopyView[]> {
    checkOptions(options);
    this.#relationships.resolve(pairs); // how many, and whether there are such volumes
    const states = pairs.map((pair) => this.#relationships.find(pair));
    for (const state of states) this.allow(state, what);
    const verb = what === 'resync' ? 'resync' : 'reverse';
    const rulePairs = states.map(({ sourceId, targetId }) =>
      verb === 'resync'
        ? this.#relationships.volumesOf(sourceId, targetId)
        : this.#relationships.volumesOf(targetId, sourceId),
    );
    const check = verb === 'resync' ? checkResync : checkReverse;
    const all = this.#relationships.all();
    const rules = this.#ruleRequest(options);
    this.#refuse(
      states.flatMap((state, at) => check(rulePairs[at] as StatePair, state, all, rules)),
    );
    // A reverse writes the source, and gives up what the target was.
    for (const state of states) {
      this.refuseLocked([state.sourceId, state.targetId], `${what} ${pairId(state)}`);
    }
    await this.#disconnectTargets(rulePairs, options);
    await this.#engineAgain(states, options, verb);
    return this.#afterAgain(states, rulePairs, options, verb);
  }

  async #engineAgain(
    states: readonly RelationshipState[],
    options: CopyOptions,
    verb: 'resync' | 'reverse',
  ): Promise<void> {
    const ids = states.map(({ id }) => id);
    try {
      await this.#engine[verb](ids, flagsOf(options));
    } catch (error) {
      // Background copy may end one between the look-up and the call.
      const alive = new Set(this.#relationships.all().map(({ id }) => id));
      const ended = states.find(({ id }) => !alive.has(id));
      if (ended === undefined) throw fromNative(error, `${verb} ${states.map(pairId).join(' ')}`);
      throw relationshipNotFound(
        pairId(ended),
        'It ended by itself when its last track was copied.',
      );
    }
  }

  #afterAgain(
    states: readonly RelationshipState[],
    pairs: readonly StatePair[],
    options: CopyOptions,
    verb: 'resync' | 'reverse',
  ): FlashCopyView[] {
    const given = attributesOf(options);
    if (verb === 'resync') this.counters.resynced += states.length;
    else this.counters.reversed += states.length;
    for (const { id } of states) {
      if (Object.keys(given).length > 0) this.#options.attributes.change(id, given);
    }
    if (options.targetOnline === 'disconnect') {
      this.#options.clients.disconnect(pairs.map(({ target }) => target.id));
    }
    this.#log.info({ pairs: pairs.map(nameOf).join(' '), what: verb }, 'copied again');
    // Before background copy goes on: a short one could end before we looked.
    const views = this.#relationships.views(states.map(({ id }) => id));
    for (const { id } of states) this.restart(id);
    return views;
  }

  /** A copy that was given up, or that waits under the old name, begins anew. */
  restart(relationshipId: number): void {
    this.#options.backgroundCopy.forget(relationshipId);
    this.#options.backgroundCopy.resume();
  }

  /** @throws FlashlunError RELATIONSHIP_NOT_FOUND it has ended */
  async setFlags(state: RelationshipState, flags: RelationshipFlags): Promise<void> {
    await this.#engine.setFlags(state.id, flags).catch((error: unknown) => {
      throw fromNative(error, pairId(state));
    });
  }

  /** @throws FlashlunError COPY_LOCKED when one of them holds a copy that a schedule keeps */
  refuseLocked(volumeIds: readonly number[], what: string): void {
    this.#options.locks?.check(volumeIds, what);
  }

  /** After the end of a relationship. */
  async ended(state: RelationshipState): Promise<void> {
    this.#options.backgroundCopy.forget(state.id);
    this.#options.attributes.forget(state.id);
    await this.#options.images.drop('revert', state.targetId);
  }

  #ruleRequest(options: CopyOptions) {
    const { strict } = this.#options;
    return {
      record: options.record ?? false,
      targetOnline: options.targetOnline ?? 'allow',
      strict,
      force: true,
    };
  }

  /** @throws FlashlunError the code that state-machine.ts has for it */
  allow(state: RelationshipState, operation: Operation): void {
    const { strict } = this.#options;
    const verdict = decide(stateOf(state), operation, { record: state.record, strict });
    if ('next' in verdict) return;
    const { code, reason } = verdict;
    const pair = pairId(state);
    this.#refuse([{ code, pair, message: `${operation} ${pair} refused: ${reason}` }]);
  }

  #refuse(refusals: readonly Refusal[]): void {
    const [first] = refusals;
    if (first === undefined) return;
    this.counters.refused += 1;
    const more = refusals.length - 1;
    const message = more === 0 ? first.message : `${first.message} (${more} more refused as well.)`;
    throw new FlashlunError(first.code, message, { details: { refusals } });
  }
}

/** What is overwritten with force can be brought back for a while, unless that was declined. */
function undoSeconds(request: EstablishRequest): number {
  return request.undoSeconds ?? (request.force === true ? LIMITS.undoSeconds : 0);
}
