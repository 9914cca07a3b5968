/** Finding relationships and volumes by what people call them, and showing them. */

import type { StorageArray } from '../array/storage-array.js';
import { describeRelationship } from '../array/words.js';
import { FlashlunError } from '../base/errors.js';
import { formatVolumeId, type VolumePair } from '../base/ids.js';
import { LIMITS } from '../base/limits.js';
import type { Engine, RelationshipState, VolumeState } from '../engine/types.js';
import type { RelationshipAttributes } from './attributes.js';
import type { BackgroundCopy } from './background-copy.js';
import type { ConsistencyGroups } from './consistency-groups.js';
import { type FlashCopyView, viewOf } from './copy-view.js';

/** The two volumes of a pair. */
export interface StatePair {
  readonly source: VolumeState;
  readonly target: VolumeState;
}

export interface RelationshipsOptions {
  readonly engine: Pick<Engine, 'relationships'>;
  readonly array: StorageArray;
  readonly backgroundCopy: BackgroundCopy;
  readonly attributes: RelationshipAttributes;
  readonly groups: ConsistencyGroups;
}

export class Relationships {
  readonly #options: RelationshipsOptions;

  constructor(options: RelationshipsOptions) {
    this.#options = options;
  }

  all(): RelationshipState[] {
    return this.#options.engine.relationships();
  }

  /** Both volumes of every pair. @throws FlashlunError VOLUME_NOT_FOUND, INVALID_ARGUMENT */
  resolve(pairs: readonly VolumePair[]): StatePair[] {
    if (pairs.length === 0 || pairs.length > LIMITS.pairsPerEstablish) {
      throw new FlashlunError(
        'INVALID_ARGUMENT',
        `${pairs.length} pairs refused: one request takes 1 to ${LIMITS.pairsPerEstablish}.`,
      );
    }
    const { array } = this.#options;
    return pairs.map(({ source, target }) => ({
      source: array.state(source),
      target: array.state(target),
    }));
  }

  volumesOf(sourceId: number, targetId: number): StatePair {
    const { array } = this.#options;
    return {
      source: array.state(formatVolumeId(sourceId)),
      target: array.state(formatVolumeId(targetId)),
    };
  }

  /** @throws FlashlunError RELATIONSHIP_NOT_FOUND, VOLUME_NOT_FOUND */
  find(pair: VolumePair): RelationshipState {
    const source = this.#options.array.state(pair.source);
    const target = this.#options.array.state(pair.target);
    const relationships = this.all();
    const found = relationships.find(
      (each) => each.sourceId === source.id && each.targetId === target.id,
    );
    if (found !== undefined) return found;
    const other = relationships.find((each) => each.targetId === target.id);
    const hint =
      other === undefined
        ? 'It may have ended by itself when its last track was copied.'
        : `${formatVolumeId(target.id)} is the target of ${describeRelationship(other)}.`;
    throw relationshipNotFound(nameOf({ source, target }), hint);
  }

  view(state: RelationshipState): FlashCopyView {
    const { array, attributes, backgroundCopy, groups } = this.#options;
    return viewOf(state, {
      essSerial: array.essSerial,
      attributes: attributes.of(state.id),
      progress: backgroundCopy.progress(state.id),
      freezeTimeout: groups.freezeSeconds(state.sourceId >> 8),
    });
  }

  /** Those of the ids that there are, in the order of the ids. */
  views(ids: readonly number[]): FlashCopyView[] {
    const states = new Map(this.all().map((state) => [state.id, state]));
    return ids.flatMap((id) => {
      const state = states.get(id);
      return state === undefined ? [] : [this.view(state)];
    });
  }

  /** All, or those of one volume as source or target, by pair. */
  list(volumeRef?: string): FlashCopyView[] {
    const id = volumeRef === undefined ? undefined : this.#options.array.state(volumeRef).id;
    return this.all()
      .filter((each) => id === undefined || each.sourceId === id || each.targetId === id)
      .sort((left, right) => left.sourceId - right.sourceId || left.targetId - right.targetId)
      .map((state) => this.view(state));
  }
}

export function nameOf(pair: StatePair): string {
  return `${formatVolumeId(pair.source.id)}:${formatVolumeId(pair.target.id)}`;
}

export function relationshipNotFound(pair: string, hint: string): FlashlunError {
  return new FlashlunError(
    'RELATIONSHIP_NOT_FOUND',
    `there is no relationship ${pair}. ${hint} "flashlun flashcopy list" shows those there are.`,
    { details: { pair } },
  );
}
