/** Freezing volumes: what hosts write to them waits for a while (engine: native/core/freeze.h). */

import { FlashlunError, fromNative } from '../base/errors.js';
import { formatVolumeId } from '../base/ids.js';
import { LIMITS } from '../base/limits.js';
import type { Engine } from '../engine/types.js';
import type { ChangeQueue } from './change-queue.js';
import type { StorageArray, VolumeView } from './storage-array.js';

export class VolumeFreezes {
  readonly #engine: Pick<Engine, 'freeze' | 'thaw'>;
  readonly #array: StorageArray;
  readonly #changes: ChangeQueue;

  constructor(engine: Pick<Engine, 'freeze' | 'thaw'>, array: StorageArray, changes: ChangeQueue) {
    this.#engine = engine;
    this.#array = array;
    this.#changes = changes;
  }

  /**
   * Holds up what hosts write to the volume, for so long at most. When it resolves, its content
   * does not change by hosts.
   *
   * @throws FlashlunError VOLUME_NOT_FOUND, INVALID_ARGUMENT the time, VOLUME_FROZEN, FC_TIMEOUT a
   *   write in flight does not end
   */
  freeze(ref: string, seconds: number = LIMITS.freezeSeconds): Promise<VolumeView> {
    return this.#changes.run(async () => {
      const { id } = this.#array.state(ref);
      await this.freezeAll([id], seconds);
      return this.#array.get(formatVolumeId(id));
    });
  }

  /**
   * Lets hosts write again. Not behind other changes: hosts wait for it. A volume that was not
   * frozen any more was thawed before; a copy made meanwhile may be of another time.
   *
   * @throws FlashlunError VOLUME_NOT_FOUND
   */
  thaw(ref: string): { volume: VolumeView; wasFrozen: boolean } {
    const { id } = this.#array.state(ref);
    const wasFrozen = this.#engine.thaw([id]).length > 0;
    return { volume: this.#array.get(formatVolumeId(id)), wasFrozen };
  }

  /**
   * Freezes all of the volumes or none, for callers that have the turn in the change queue.
   *
   * @throws FlashlunError as freeze
   */
  async freezeAll(ids: readonly number[], seconds: number): Promise<void> {
    const milliseconds = Math.round(seconds * 1000);
    if (!(milliseconds >= 1 && seconds <= LIMITS.maxFreezeSeconds)) {
      throw new FlashlunError(
        'INVALID_ARGUMENT',
        `freeze for ${seconds} s refused: use more than 0 and up to ` +
          `${LIMITS.maxFreezeSeconds} seconds.`,
      );
    }
    try {
      await this.#engine.freeze(ids, milliseconds);
    } catch (error) {
      const known = fromNative(error, `freeze ${ids.map(formatVolumeId).join(', ')}`);
      // Of all other calls the engine's BUSY means a volume that is in use.
      if (known.code !== 'VOLUME_IN_USE') throw known;
      throw new FlashlunError('VOLUME_FROZEN', known.message, { cause: error });
    }
  }
}
