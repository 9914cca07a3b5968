/**
 * FlashCopy: the verbs. State machine and rules first (state-machine.ts, rules.ts), then one call
 * of the engine, which decides T0 and makes it durable; background copy follows by itself.
 *
 * The one place with typed verbs: the API, saved tasks and command lines call these.
 */

import { pairId } from '../array/words.js';
import { fromNative } from '../base/errors.js';
import { parseLss, type VolumePair } from '../base/ids.js';
import type { Logger } from '../base/log.js';
import type { CopyAttributes } from '../metadata/copies.js';
import type { UnfreezeView } from './consistency-groups.js';
import {
  CopyActions,
  type CopyEngine,
  type CopyServicesCounters,
  type CopyServicesOptions,
  type EstablishRequest,
} from './copy-actions.js';
import { attributesOf, checkOptions, type CopyOptions, flagsOf } from './copy-options.js';
import type { FlashCopyView } from './copy-view.js';
import { Relationships } from './relationships.js';
import type { UndoView } from './undo.js';

export type { CopyOptions, EstablishOptions, TargetOnline } from './copy-options.js';
export type { FlashCopyView } from './copy-view.js';

export type {
  CopyServicesCounters,
  CopyServicesOptions,
  EstablishRequest,
} from './copy-actions.js';

export class CopyServices {
  readonly #options: CopyServicesOptions;
  readonly #engine: CopyEngine;
  readonly #log: Logger;
  readonly #relationships: Relationships;
  readonly #actions: CopyActions;

  constructor(options: CopyServicesOptions) {
    this.#options = options;
    this.#engine = options.engine;
    this.#log = options.log;
    this.#relationships = new Relationships(options);
    this.#actions = new CopyActions(options, this.#relationships);
  }

  get counters(): CopyServicesCounters {
    return { ...this.#actions.counters };
  }

  /**
   * Establishes all pairs at a single point in time (T0), or none of them.
   *
   * Rules are checked for every pair before the first change, so a refusal leaves nothing behind.
   * When this resolves, T0 is durable: a crash afterwards finds the relationships in place.
   *
   * @throws FlashlunError VOLUME_NOT_FOUND, INVALID_ARGUMENT, or the code of the first pair that
   *   breaks a rule (rules.ts); `details.refusals` lists all of them
   */
  establish(request: EstablishRequest): Promise<FlashCopyView[]> {
    return this.#changes(() => this.#actions.establish(request));
  }

  /**
   * Copies again: the targets become what the sources are at one new T0. What hosts wrote to the
   * targets is given up. Of a relationship that records only the tracks that changed on either side
   * are copied. The options replace the relationships' (without any: copy, not persistent).
   *
   * @throws FlashlunError RELATIONSHIP_NOT_FOUND, and the codes of state-machine.ts and rules.ts
   */
  resync(pair: VolumePair, options: CopyOptions = {}): Promise<FlashCopyView> {
    return this.#changes(async () => {
      const [view] = await this.#actions.again([pair], options, 'resync');
      return view as FlashCopyView;
    });
  }

  /** The same for several relationships, at one point in time, or for none. */
  resyncAll(pairs: readonly VolumePair[], options: CopyOptions = {}): Promise<FlashCopyView[]> {
    return this.#changes(() => this.#actions.again(pairs, options, 'resync'));
  }

  /**
   * Turns a relationship round: the source becomes what the target is at a new T0, and from then on
   * is the target, so the pair is named the other way round. `fast`: also while it is copied.
   *
   * @throws FlashlunError as resync; FC_SIZE_MISMATCH, FC_TARGET_IN_USE (the source is a target)
   */
  reverse(
    pair: VolumePair,
    options: CopyOptions & { readonly fast?: boolean | undefined } = {},
  ): Promise<FlashCopyView> {
    return this.#changes(async () => {
      const what = options.fast === true ? 'fast-reverse' : 'reverse';
      const [view] = await this.#actions.again([pair], options, what);
      return view as FlashCopyView;
    });
  }

  /**
   * Ends a relationship; both volumes stay as they are, the target with its T0 content. With
   * `complete` it ends by itself when every track has been copied.
   *
   * @throws FlashlunError RELATIONSHIP_NOT_FOUND, FC_REVERTIBLE
   */
  withdraw(pair: VolumePair, { complete = false } = {}): Promise<void> {
    return this.#changes(async () => {
      const state = this.#relationships.find(pair);
      this.#actions.allow(state, complete ? 'complete' : 'withdraw');
      if (complete) {
        const { inhibitTargetWrites } = state;
        await this.#actions.setFlags(state, { ...flagsOf({}), inhibitTargetWrites });
        this.#options.backgroundCopy.resume();
        return;
      }
      this.#actions.refuseLocked([state.targetId], `withdraw ${pairId(state)}`);
      try {
        await this.#engine.withdraw(state.id);
      } catch (error) {
        // Background copy may end it between the look-up and the call.
        if (this.#relationships.all().some((each) => each.id === state.id)) {
          throw fromNative(error, `withdraw ${pairId(state)}`);
        }
      }
      await this.#actions.ended(state);
      this.#actions.counters.withdrawn += 1;
      this.#log.info({ pair: pairId(state), outOfSyncTracks: state.outOfSyncTracks }, 'withdrawn');
    });
  }

  /** Begins the background copy of a nocopy relationship. @throws as resync */
  copy(pair: VolumePair): Promise<FlashCopyView> {
    return this.#changes(async () => {
      const state = this.#relationships.find(pair);
      this.#actions.allow(state, 'copy');
      await this.#actions.setFlags(state, { ...state, noCopy: false });
      const view = this.#relationships.view(this.#relationships.find(pair));
      this.#options.backgroundCopy.resume();
      return view;
    });
  }

  /** Holds up a background copy after its batch in flight, also over restarts. @throws as resync */
  pause(pair: VolumePair): Promise<FlashCopyView> {
    return this.#changes(() => this.#modify(pair, 'pause', { paused: true }));
  }

  /** @throws as resync */
  resume(pair: VolumePair): Promise<FlashCopyView> {
    return this.#changes(() => this.#modify(pair, 'resume', { paused: false }));
  }

  /** Another rate or priority of its background copy. @throws INVALID_ARGUMENT, as resync */
  modify(
    pair: VolumePair,
    options: Pick<CopyOptions, 'copyBytesPerSecond' | 'priority'>,
  ): Promise<FlashCopyView> {
    return this.#changes(() => {
      checkOptions(options);
      return this.#modify(pair, undefined, attributesOf(options));
    });
  }

  /** Of all background copies together, until the server ends; undefined: as fast as the disk. */
  get copyBytesPerSecond(): number | undefined {
    return this.#options.backgroundCopy.bytesPerSecond;
  }

  /** @throws FlashlunError INVALID_ARGUMENT */
  setCopyRate(copyBytesPerSecond: number): void {
    checkOptions({ copyBytesPerSecond });
    this.#options.backgroundCopy.bytesPerSecond = copyBytesPerSecond || undefined;
    this.#log.info({ bytesPerSecond: copyBytesPerSecond }, 'copy rate of the array set');
  }

  /**
   * A resync that can be taken back: the target becomes what the source is now, and what it was is
   * kept until commit or revert. @throws as resync
   */
  setRevertible(pair: VolumePair): Promise<FlashCopyView> {
    return this.#changes(async () => {
      const state = this.#relationships.find(pair);
      this.#actions.allow(state, 'set-revertible');
      const { target } = this.#relationships.volumesOf(state.sourceId, state.targetId);
      const what = `set-revertible ${pairId(state)}`;
      this.#actions.refuseLocked([target.id], what);
      await this.#actions
        .quietly([target.id], async () => {
          await this.#options.images.keep('revert', [[target, String(state.t0UnixMs)]]);
          await this.#engine.resync([state.id], { ...state, revertible: true });
        })
        .catch((error: unknown) => {
          throw fromNative(error, what);
        });
      const view = this.#relationships.view(this.#relationships.find(pair));
      this.#actions.restart(state.id);
      this.#log.info({ pair: view.id }, 'revertible');
      return view;
    });
  }

  /** The image of before is given up. @throws FC_NOT_REVERTIBLE, as resync */
  commit(pair: VolumePair): Promise<FlashCopyView> {
    return this.#changes(async () => {
      const state = this.#relationships.find(pair);
      this.#actions.allow(state, 'commit');
      await this.#actions.setFlags(state, { ...state, revertible: false });
      await this.#options.images.drop('revert', state.targetId);
      return this.#relationships.view(this.#relationships.find(pair));
    });
  }

  /** The target becomes the image of before again. @throws FC_NOT_REVERTIBLE, as resync */
  revert(pair: VolumePair): Promise<FlashCopyView> {
    return this.#changes(async () => {
      const state = this.#relationships.find(pair);
      this.#actions.allow(state, 'revert');
      this.#actions.refuseLocked([state.targetId], `revert ${pairId(state)}`);
      const { images } = this.#options;
      const t0 = Number(images.noteOf('revert', state.targetId) ?? state.t0UnixMs);
      const flags = { ...state, revertible: false };
      const image = images.idOf('revert', state.targetId);
      await this.#engine.revert(state.id, image, t0, flags).catch((error: unknown) => {
        throw fromNative(error, `revert ${pairId(state)}`);
      });
      await images.drop('revert', state.targetId);
      const view = this.#relationships.view(this.#relationships.find(pair));
      this.#actions.restart(state.id);
      this.#log.info({ pair: view.id, t0: view.establishedAt }, 'reverted');
      return view;
    });
  }

  /**
   * "Consistency Created": lets hosts write to the frozen sources of the LSSs again. Not behind
   * other changes: hosts wait for it.
   *
   * @throws FlashlunError LSS_INVALID; nothing is thawed then
   */
  unfreeze(lsses: readonly string[]): UnfreezeView[] {
    const numbers = lsses.map(parseLss);
    return numbers.map((lss) => this.#options.groups.unfreeze(lss));
  }

  /** What `undo` could bring back. */
  undoable(): UndoView[] {
    return this.#options.undo.list();
  }

  /**
   * The target of a forced establish, or of one with `undoSeconds`, becomes what it was before; its
   * relationship is withdrawn. @throws FlashlunError VOLUME_NOT_FOUND, FC_NOTHING_TO_UNDO
   */
  undo(ref: string): Promise<UndoView> {
    return this.#changes(async () => {
      const { id } = this.#options.array.state(ref);
      const view = this.#options.undo.get(id);
      this.#actions.refuseLocked([id], `undo ${view.volume}`);
      const own = this.#relationships.all().find((each) => each.targetId === id);
      if (own !== undefined) {
        await this.#engine.withdraw(own.id);
        await this.#actions.ended(own);
      }
      await this.#options.undo.restore(id).catch((error: unknown) => {
        throw fromNative(error, `undo ${view.volume}`);
      });
      this.#log.info(view, 'establish undone');
      return view;
    });
  }

  /** All relationships, or those of one volume as source or target. */
  list(volumeRef?: string): FlashCopyView[] {
    return this.#relationships.list(volumeRef);
  }

  /** @throws FlashlunError RELATIONSHIP_NOT_FOUND */
  show(pair: VolumePair): FlashCopyView {
    return this.#relationships.view(this.#relationships.find(pair));
  }

  #changes<T>(change: () => Promise<T>): Promise<T> {
    return this.#options.changes.run(change);
  }

  async #modify(
    pair: VolumePair,
    operation: 'pause' | 'resume' | undefined,
    change: Partial<CopyAttributes>,
  ): Promise<FlashCopyView> {
    const state = this.#relationships.find(pair);
    if (operation !== undefined) this.#actions.allow(state, operation);
    this.#options.attributes.change(state.id, change);
    this.#options.backgroundCopy.refresh(state.id);
    this.#log.info({ pair: pairId(state), ...change }, 'background copy changed');
    return this.#relationships.view(state);
  }
}
