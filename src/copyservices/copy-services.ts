/**
 * FlashCopy: establish, resync, reverse, withdraw, list, show. Rules first (rules.ts), then one
 * call of the engine, which decides T0 and makes it durable; background copy follows by itself.
 */

import type { ChangeQueue } from '../array/change-queue.js';
import type { StorageArray } from '../array/storage-array.js';
import { describeRelationship, pairId } from '../array/words.js';
import { FlashlunError, fromNative } from '../base/errors.js';
import { formatVolumeId, serialOf, type VolumePair } from '../base/ids.js';
import { LIMITS } from '../base/limits.js';
import type { Logger } from '../base/log.js';
import type { Engine, RelationshipState } from '../engine/types.js';
import type { BackgroundCopy } from './background-copy.js';
import { checkEstablish, checkResync, checkReverse, type Refusal, type RulePair } from './rules.js';

/** A relationship as the API shows it. */
export interface FlashCopyView {
  readonly id: string;
  readonly source: string;
  readonly target: string;
  readonly sourceSerial: string;
  readonly targetSerial: string;
  readonly copyMode: 'copy' | 'nocopy';
  readonly state: 'copying' | 'nocopy';
  /** Background copy runs now; false while it is queued, and for nocopy (ESS "ActiveCopy"). */
  readonly activeCopy: boolean;
  /** T0. */
  readonly establishedAt: string;
  readonly totalTracks: number;
  readonly outOfSyncTracks: number;
  readonly copiedPercent: number;
  /** Why background copy does not go on; absent when all is well. */
  readonly problem?: string;
}

export interface EstablishRequest {
  readonly pairs: readonly VolumePair[];
  readonly noCopy: boolean;
}

export interface CopyServicesOptions {
  readonly engine: Pick<Engine, 'establish' | 'resync' | 'reverse' | 'withdraw' | 'relationships'>;
  readonly array: StorageArray;
  readonly backgroundCopy: BackgroundCopy;
  readonly changes: ChangeQueue;
  readonly log: Logger;
}

/** What happened since the start, for metrics. */
export interface CopyServicesCounters {
  readonly established: number;
  readonly resynced: number;
  readonly reversed: number;
  readonly withdrawn: number;
  readonly refused: number;
}

export class CopyServices {
  readonly #engine;
  readonly #array;
  readonly #backgroundCopy;
  readonly #changes;
  readonly #log;
  readonly #counters = { established: 0, resynced: 0, reversed: 0, withdrawn: 0, refused: 0 };

  constructor(options: CopyServicesOptions) {
    this.#engine = options.engine;
    this.#array = options.array;
    this.#backgroundCopy = options.backgroundCopy;
    this.#changes = options.changes;
    this.#log = options.log;
  }

  get counters(): CopyServicesCounters {
    return { ...this.#counters };
  }

  /**
   * Establishes all pairs at a single point in time (T0), or none of them.
   *
   * Rules are checked for every pair before the first change, so a refusal leaves nothing behind.
   * When this resolves, T0 is durable: a crash afterwards finds the relationships in place.
   *
   * @throws FlashlunError VOLUME_NOT_FOUND, or the code of the first pair that breaks a rule
   *   (rules.ts); `details.refusals` lists all of them
   */
  establish(request: EstablishRequest): Promise<FlashCopyView[]> {
    return this.#changes.run(async () => {
      const pairs = this.#resolvePairs(request.pairs);
      const refusals = checkEstablish(pairs, this.#engine.relationships());
      if (refusals.length > 0) throw this.#refused(refusals);
      const names = pairs.map(nameOf).join(' ');
      const specs = pairs.map(({ source, target }) => ({
        sourceId: source.id,
        targetId: target.id,
        noCopy: request.noCopy,
      }));
      const startedMs = performance.now();
      const ids = new Set(
        await this.#engine.establish(specs).catch((error: unknown) => {
          throw fromNative(error, `establish ${names}`);
        }),
      );
      const milliseconds = Math.round((performance.now() - startedMs) * 1000) / 1000;
      this.#counters.established += ids.size;
      this.#log.info({ pairs: names, noCopy: request.noCopy, milliseconds }, 'established');
      // Before background copy begins: a short one could end before we looked.
      const views = this.#engine.relationships().filter((each) => ids.has(each.id));
      this.#backgroundCopy.resume();
      return views.map((state) => this.#view(state));
    });
  }

  /**
   * Copies again: the target becomes what the source is at a new T0. What hosts wrote to the target
   * is given up; the whole source is shared anew.
   *
   * @throws FlashlunError RELATIONSHIP_NOT_FOUND, FC_SIZE_MISMATCH (the source has grown)
   */
  resync(pair: VolumePair): Promise<FlashCopyView> {
    return this.#changes.run(async () => {
      const state = this.#find(pair);
      const rulePair = this.#rulePair(state.sourceId, state.targetId);
      const refusals = checkResync(rulePair, state, this.#engine.relationships());
      const view = await this.#again(state, refusals, 'resync');
      this.#counters.resynced += 1;
      return view;
    });
  }

  /**
   * Turns a relationship round: the source becomes what the target is at a new T0, and from then on
   * is the target.
   *
   * @throws FlashlunError RELATIONSHIP_NOT_FOUND, FC_SIZE_MISMATCH, FC_TARGET_IN_USE (the source is
   *   itself a target)
   */
  reverse(pair: VolumePair): Promise<FlashCopyView> {
    return this.#changes.run(async () => {
      const state = this.#find(pair);
      const rulePair = this.#rulePair(state.targetId, state.sourceId);
      const refusals = checkReverse(rulePair, state, this.#engine.relationships());
      const view = await this.#again(state, refusals, 'reverse');
      this.#counters.reversed += 1;
      return view;
    });
  }

  /**
   * Ends a relationship; both volumes stay as they are, the target with its T0 content.
   *
   * @throws FlashlunError RELATIONSHIP_NOT_FOUND
   */
  withdraw(pair: VolumePair): Promise<void> {
    return this.#changes.run(async () => {
      const state = this.#find(pair);
      try {
        await this.#engine.withdraw(state.id);
      } catch (error) {
        // Background copy may end it between the look-up and the call.
        if (this.#engine.relationships().some((each) => each.id === state.id)) {
          throw fromNative(error, `withdraw ${pairId(state)}`);
        }
      }
      this.#backgroundCopy.forget(state.id);
      this.#counters.withdrawn += 1;
      this.#log.info({ pair: pairId(state), outOfSyncTracks: state.outOfSyncTracks }, 'withdrawn');
    });
  }

  /** All relationships, or those of one volume as source or target. */
  list(volumeRef?: string): FlashCopyView[] {
    const id = volumeRef === undefined ? undefined : this.#array.state(volumeRef).id;
    return this.#engine
      .relationships()
      .filter((each) => id === undefined || each.sourceId === id || each.targetId === id)
      .sort((left, right) => left.sourceId - right.sourceId || left.targetId - right.targetId)
      .map((state) => this.#view(state));
  }

  /** @throws FlashlunError RELATIONSHIP_NOT_FOUND */
  show(pair: VolumePair): FlashCopyView {
    return this.#view(this.#find(pair));
  }

  /** Both volumes of every pair. @throws FlashlunError VOLUME_NOT_FOUND, INVALID_ARGUMENT */
  #resolvePairs(pairs: readonly VolumePair[]): RulePair[] {
    if (pairs.length === 0 || pairs.length > LIMITS.pairsPerEstablish) {
      throw new FlashlunError(
        'INVALID_ARGUMENT',
        `${pairs.length} pairs refused: one request takes 1 to ${LIMITS.pairsPerEstablish}.`,
      );
    }
    return pairs.map(({ source, target }) => ({
      source: this.#array.state(source),
      target: this.#array.state(target),
    }));
  }

  #rulePair(sourceId: number, targetId: number): RulePair {
    return {
      source: this.#array.state(formatVolumeId(sourceId)),
      target: this.#array.state(formatVolumeId(targetId)),
    };
  }

  /** A new T0 of a relationship that is there. */
  async #again(
    state: RelationshipState,
    refusals: readonly Refusal[],
    what: 'resync' | 'reverse',
  ): Promise<FlashCopyView> {
    if (refusals.length > 0) throw this.#refused(refusals);
    const pair = pairId(state);
    try {
      await this.#engine[what](state.id);
    } catch (error) {
      // Background copy may end it between the look-up and the call.
      if (this.#engine.relationships().every((each) => each.id !== state.id)) {
        throw this.#notFound(pair, 'It ended by itself when its last track was copied.');
      }
      throw fromNative(error, `${what} ${pair}`);
    }
    this.#log.info({ pair, what }, 'copied again');
    // Before background copy goes on: a short one could end before we looked.
    const fresh = this.#engine.relationships().find((each) => each.id === state.id);
    const view = this.#view(fresh ?? state);
    // A copy that was given up, or that waits under the old name, begins anew.
    this.#backgroundCopy.forget(state.id);
    this.#backgroundCopy.resume();
    return view;
  }

  #refused(refusals: readonly Refusal[]): FlashlunError {
    this.#counters.refused += 1;
    const first = refusals[0] as Refusal;
    const more = refusals.length - 1;
    const message = more === 0 ? first.message : `${first.message} (${more} more refused as well.)`;
    return new FlashlunError(first.code, message, { details: { refusals } });
  }

  #find(pair: VolumePair): RelationshipState {
    const source = this.#array.state(pair.source);
    const target = this.#array.state(pair.target);
    const relationships = this.#engine.relationships();
    const found = relationships.find(
      (each) => each.sourceId === source.id && each.targetId === target.id,
    );
    if (found !== undefined) return found;
    const name = nameOf({ source, target });
    const other = relationships.find((each) => each.targetId === target.id);
    const hint =
      other === undefined
        ? 'It may have ended by itself when its last track was copied.'
        : `${formatVolumeId(target.id)} is the target of ${describeRelationship(other)}.`;
    throw this.#notFound(name, hint);
  }

  #notFound(pair: string, hint: string): FlashlunError {
    return new FlashlunError(
      'RELATIONSHIP_NOT_FOUND',
      `there is no relationship ${pair}. ${hint} "flashlun flashcopy list" shows those there are.`,
      { details: { pair } },
    );
  }

  #view(state: RelationshipState): FlashCopyView {
    const progress = this.#backgroundCopy.progress(state.id);
    const copied = state.totalTracks - state.outOfSyncTracks;
    return {
      id: pairId(state),
      source: formatVolumeId(state.sourceId),
      target: formatVolumeId(state.targetId),
      sourceSerial: serialOf(state.sourceId, this.#array.essSerial),
      targetSerial: serialOf(state.targetId, this.#array.essSerial),
      copyMode: state.noCopy ? 'nocopy' : 'copy',
      state: state.noCopy ? 'nocopy' : 'copying',
      activeCopy: progress?.active ?? false,
      establishedAt: new Date(state.t0UnixMs).toISOString(),
      totalTracks: state.totalTracks,
      outOfSyncTracks: state.outOfSyncTracks,
      // Rounded down: 100 is said only when it is true.
      copiedPercent: Math.floor((copied / state.totalTracks) * 100),
      ...(progress?.problem === undefined ? {} : { problem: progress.problem }),
    };
  }
}

function nameOf(pair: RulePair): string {
  return `${formatVolumeId(pair.source.id)}:${formatVolumeId(pair.target.id)}`;
}
