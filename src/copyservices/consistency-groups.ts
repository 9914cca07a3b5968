/**
 * Consistency groups by freezing (ess.md 3.6): an establish with freeze holds up what hosts write
 * to its sources, before T0 and until "Consistency Created" (`unfreeze`) or a time limit, whichever
 * comes first. A group may take several establishes; what depends on a held write cannot be written
 * anywhere, so all of them are one point in time, if every source was frozen all the while.
 *
 * The freeze itself is the engine's (native/core/freeze.h), with its time limit. Here is what the
 * ESS adds: freezes belong to LSSs, `unfreeze` thaws whole LSSs and says whether the group held,
 * and every LSS has a timer. Runs on the main thread; state of this process only, like the freezes.
 */

import { FlashlunError } from '../base/errors.js';
import { formatLss, formatVolumeId } from '../base/ids.js';
import { LIMITS } from '../base/limits.js';
import type { Logger } from '../base/log.js';
import type { Engine } from '../engine/types.js';
import type { FreezeOutcome, LssRepository } from '../metadata/copies.js';

/** A source that is, or was, frozen since its group began. */
interface FrozenSource {
  readonly volumeId: number;
  readonly startedMs: number;
  readonly relationshipIds: Set<number>;
  /** The engine's limit ended it. */
  expired: boolean;
  /** An earlier freeze of it ended so, and a relationship of that one is still there. */
  readonly broken: boolean;
  timer: NodeJS.Timeout | undefined;
}

/** What an unfreeze found in one LSS. */
export interface UnfreezeView {
  readonly lss: string;
  /** Sources that were frozen until now. */
  readonly released: string[];
  /** Sources that the time limit thawed before: the group is not one point in time. */
  readonly expired: string[];
  /** Longest time that a source was frozen. */
  readonly frozenMs: number;
  /** All of them held. */
  readonly consistent: boolean;
}

export interface ConsistencyGroupOptions {
  readonly engine: Pick<Engine, 'freeze' | 'thaw' | 'volume' | 'relationships'>;
  readonly lssRecords: LssRepository;
  readonly log: Logger;
  /** Told when a freeze of these relationships ends. */
  readonly onEnd: (
    relationshipIds: readonly number[],
    outcome: Exclude<FreezeOutcome, 'none'>,
    frozenMs: number,
  ) => void;
}

export class ConsistencyGroups {
  readonly #options: ConsistencyGroupOptions;
  readonly #timers: Map<number, number>;
  readonly #sources = new Map<number, FrozenSource>();
  #expired = 0;

  constructor(options: ConsistencyGroupOptions) {
    this.#options = options;
    this.#timers = options.lssRecords.freezeSeconds();
  }

  /** Sources that a time limit thawed, since the start. */
  get expiredCount(): number {
    return this.#expired;
  }

  /** Seconds of an LSS's freeze timer. */
  freezeSeconds(lss: number): number {
    return this.#timers.get(lss) ?? LIMITS.freezeSeconds;
  }

  /** @throws FlashlunError INVALID_ARGUMENT */
  setFreezeSeconds(lss: number, seconds: number): void {
    checkSeconds(`freeze timer of LSS ${formatLss(lss)}`, seconds);
    this.#options.lssRecords.setFreezeSeconds(lss, seconds);
    this.#timers.set(lss, seconds);
  }

  /** Sources of an LSS that are frozen now. */
  frozenIn(lss: number): string[] {
    return [...this.#sources.values()]
      .filter((source) => source.volumeId >> 8 === lss && !source.expired)
      .map((source) => formatVolumeId(source.volumeId));
  }

  /**
   * Freezes the sources that are not frozen by a group already; each for its LSS's timer, and no
   * longer than `limitSeconds`. All or none. Returns what undoes it.
   *
   * @throws FlashlunError INVALID_ARGUMENT, VOLUME_FROZEN by an operator, FC_TIMEOUT
   */
  async freeze(
    sourceIds: readonly number[],
    limitSeconds: number | undefined,
    freezeAll: (ids: readonly number[], seconds: number) => Promise<void>,
  ): Promise<() => void> {
    if (limitSeconds !== undefined) checkSeconds('freeze limit', limitSeconds);
    const fresh = [...new Set(sourceIds)].filter((id) => !this.#isFrozen(id));
    const frozen: number[] = [];
    const undo = (): void => {
      this.#options.engine.thaw(frozen);
      for (const id of frozen) this.#remove(id);
    };
    try {
      for (const [seconds, ids] of this.#bySeconds(fresh, limitSeconds)) {
        await freezeAll(ids, seconds);
        frozen.push(...ids);
        for (const id of ids) this.#add(id, seconds);
      }
    } catch (error) {
      undo();
      throw error;
    }
    return undo;
  }

  /** The engine's word counts: an operator may have thawed it. */
  #isFrozen(volumeId: number): boolean {
    const source = this.#sources.get(volumeId);
    if (source === undefined || source.expired) return false;
    if (this.#options.engine.volume(volumeId)?.frozenUntilUnixMs !== 0) return true;
    this.#expire(source);
    return false;
  }

  #bySeconds(ids: readonly number[], limit: number | undefined): Map<number, number[]> {
    const groups = new Map<number, number[]>();
    for (const id of ids) {
      const seconds = Math.min(this.freezeSeconds(id >> 8), limit ?? Infinity);
      groups.set(seconds, [...(groups.get(seconds) ?? []), id]);
    }
    return groups;
  }

  #add(volumeId: number, seconds: number): void {
    const before = this.#sources.get(volumeId);
    const alive = this.#options.engine.relationships();
    const source: FrozenSource = {
      volumeId,
      startedMs: performance.now(),
      relationshipIds: new Set(),
      expired: false,
      broken: before !== undefined && alive.some(({ id }) => before.relationshipIds.has(id)),
      timer: undefined,
    };
    source.timer = setTimeout(() => this.#expire(source), seconds * 1000);
    source.timer.unref();
    this.#sources.set(volumeId, source);
  }

  /** Notes whom the freezes are for. */
  assign(pairs: readonly { readonly sourceId: number; readonly id: number }[]): void {
    for (const { sourceId, id } of pairs) this.#sources.get(sourceId)?.relationshipIds.add(id);
  }

  #expire(source: FrozenSource): void {
    clearTimeout(source.timer);
    source.expired = true;
    this.#expired += 1;
    const frozenMs = Math.round(performance.now() - source.startedMs);
    const volume = formatVolumeId(source.volumeId);
    this.#options.log.warn({ volume, frozenMs }, 'thawed by its timer, not by an unfreeze');
    this.#options.onEnd([...source.relationshipIds], 'expired', frozenMs);
  }

  #remove(volumeId: number): void {
    clearTimeout(this.#sources.get(volumeId)?.timer);
    this.#sources.delete(volumeId);
  }

  /** "Consistency Created" for one LSS: thaws what is frozen there. */
  unfreeze(lss: number): UnfreezeView {
    const sources = [...this.#sources.values()].filter(({ volumeId }) => volumeId >> 8 === lss);
    const ids = sources.map(({ volumeId }) => volumeId);
    // The engine's word counts, not our timer's: only it knows what held until now.
    const held = new Set(this.#options.engine.thaw(ids));
    for (const { broken, volumeId } of sources) if (broken) held.delete(volumeId);
    const now = performance.now();
    let longest = 0;
    for (const source of sources) {
      const frozenMs = Math.round(now - source.startedMs);
      this.#remove(source.volumeId);
      if (!held.has(source.volumeId)) {
        if (!source.expired) this.#expire(source);
        continue;
      }
      longest = Math.max(longest, frozenMs);
      this.#options.onEnd([...source.relationshipIds], 'created', frozenMs);
    }
    const view = {
      lss: formatLss(lss),
      released: ids.filter((id) => held.has(id)).map(formatVolumeId),
      expired: ids.filter((id) => !held.has(id)).map(formatVolumeId),
      frozenMs: longest,
      consistent: held.size === ids.length,
    };
    this.#options.log.info(view, 'unfrozen');
    return view;
  }

  close(): void {
    for (const id of [...this.#sources.keys()]) this.#remove(id);
  }
}

function checkSeconds(what: string, seconds: number): void {
  if (seconds > 0 && seconds <= LIMITS.maxFreezeSeconds) return;
  throw new FlashlunError(
    'INVALID_ARGUMENT',
    `${what} of ${seconds} s refused: use more than 0 and up to ${LIMITS.maxFreezeSeconds} ` +
      'seconds.',
  );
}
