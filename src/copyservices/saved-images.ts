/**
 * Images of volumes kept for later: what a target held before an establish took its place (undo),
 * and what it held before a revertible resync (revert). Each is a volume of the engine that hosts
 * do not see; it shares the tracks, so it costs only what changes afterwards.
 *
 *   id   0x2000 + n   before the resync of volume 0x1000 + n
 *        0x4000 + n   before the establish onto volume 0x1000 + n
 *
 * Runs inside a change, so nothing else changes volumes or relationships meanwhile. A crash leaves
 * a relationship of an image at most, which `repair` ends.
 */

import type { Engine, VolumeState } from '../engine/types.js';

export type ImageKind = 'revert' | 'undo';

const OFFSETS: Readonly<Record<ImageKind, number>> = { revert: 0x1000, undo: 0x3000 };

type ImageEngine = Pick<
  Engine,
  | 'createVolume'
  | 'deleteVolume'
  | 'establish'
  | 'withdraw'
  | 'volume'
  | 'savedImages'
  | 'savedRelationships'
>;

export class SavedImages {
  readonly #engine: ImageEngine;

  constructor(engine: ImageEngine) {
    this.#engine = engine;
  }

  /** The image's volume id. */
  idOf(kind: ImageKind, volumeId: number): number {
    return volumeId + OFFSETS[kind];
  }

  /** Volumes that have an image of the kind. */
  all(kind: ImageKind): number[] {
    return this.#engine
      .savedImages()
      .map(({ id }) => id - OFFSETS[kind])
      .filter((id) => id >= 0x1000 && id < 0x2000);
  }

  /**
   * Keeps what the volumes hold now, in place of an older image, each with a note of at most 64
   * bytes, which lives as long as the image. @throws NativeError NO_SPACE
   */
  async keep(kind: ImageKind, volumes: readonly (readonly [VolumeState, string])[]): Promise<void> {
    if (volumes.length === 0) return;
    for (const [{ id, sizeBytes, pool, thick, blockBytes }, note] of volumes) {
      await this.drop(kind, id);
      const placement = { pool, thick, blockBytes };
      await this.#engine.createVolume(this.idOf(kind, id), sizeBytes, note, placement);
    }
    await this.#copy(volumes.map(([{ id }]) => [id, this.idOf(kind, id)]));
  }

  /** Undefined: there is no image. */
  noteOf(kind: ImageKind, volumeId: number): string | undefined {
    return this.#engine.volume(this.idOf(kind, volumeId))?.name;
  }

  /** The volume, which is in no relationship as target, becomes its image; the image goes. */
  async restore(kind: ImageKind, volumeId: number): Promise<void> {
    await this.#copy([[this.idOf(kind, volumeId), volumeId]]);
    await this.drop(kind, volumeId);
  }

  async drop(kind: ImageKind, volumeId: number): Promise<void> {
    if (this.noteOf(kind, volumeId) === undefined) return;
    await this.#engine.deleteVolume(this.idOf(kind, volumeId));
  }

  /** Ends what a crash interrupted. */
  async repair(): Promise<void> {
    for (const { id } of this.#engine.savedRelationships()) await this.#engine.withdraw(id);
  }

  async #copy(pairs: readonly (readonly [number, number])[]): Promise<void> {
    const ids = await this.#engine.establish(
      pairs.map(([sourceId, targetId]) => ({ sourceId, targetId, noCopy: true })),
    );
    for (const id of ids) await this.#engine.withdraw(id);
  }
}
