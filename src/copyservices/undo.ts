/**
 * Undo of an establish: what the targets held is kept for a while, and can be brought back. The
 * image's note holds when it was taken, until when it is kept and for which pair, so all of it
 * lives and dies with the image in the pool. Runs inside changes.
 */

import { FlashlunError } from '../base/errors.js';
import { formatVolumeId } from '../base/ids.js';
import type { Logger } from '../base/log.js';
import type { VolumeState } from '../engine/types.js';
import type { SavedImages } from './saved-images.js';

/** What an undo would bring back. */
export interface UndoView {
  readonly volume: string;
  /** The pair whose establish took its place. */
  readonly pair: string;
  readonly takenAt: string;
  readonly keptUntil: string;
}

const NOTE = /^(\d+) (\d+) (\S+)$/;

export class UndoImages {
  readonly #images: SavedImages;
  readonly #log: Logger;

  constructor(images: SavedImages, log: Logger) {
    this.#images = images;
    this.#log = log;
  }

  /** What can be undone now. */
  list(now = Date.now()): UndoView[] {
    return this.#images.all('undo').flatMap((id) => {
      const record = this.#record(id);
      return record === undefined || record.expiresMs <= now ? [] : [viewOf(id, record)];
    });
  }

  /** @throws FlashlunError FC_NOTHING_TO_UNDO */
  get(volumeId: number): UndoView {
    const record = this.#record(volumeId);
    if (record !== undefined && record.expiresMs > Date.now()) return viewOf(volumeId, record);
    throw new FlashlunError(
      'FC_NOTHING_TO_UNDO',
      `${formatVolumeId(volumeId)} refused: nothing is kept of what it held before its last ` +
        'establish. "flashlun flashcopy undo" without a volume lists what is.',
    );
  }

  /** Keeps what the targets hold. */
  async keep(
    targets: readonly { readonly target: VolumeState; readonly pair: string }[],
    seconds: number,
  ): Promise<void> {
    const now = Date.now();
    await this.#images.keep(
      'undo',
      targets.map(({ target, pair }) => [target, `${now} ${now + seconds * 1000} ${pair}`]),
    );
  }

  restore(volumeId: number): Promise<void> {
    return this.#images.restore('undo', volumeId);
  }

  drop(volumeId: number): Promise<void> {
    return this.#images.drop('undo', volumeId);
  }

  /** Drops what is no longer kept, and what was of volumes that are gone. */
  async sweep(exists: (volumeId: number) => boolean): Promise<void> {
    for (const id of this.#images.all('undo')) {
      const record = this.#record(id);
      if (record !== undefined && record.expiresMs > Date.now() && exists(id)) continue;
      await this.drop(id);
      this.#log.info({ volume: formatVolumeId(id) }, 'undo image dropped');
    }
    for (const id of this.#images.all('revert')) {
      if (!exists(id)) await this.#images.drop('revert', id);
    }
  }

  /** Whether sweep has something to do. */
  due(exists: (volumeId: number) => boolean): boolean {
    const isDue = (id: number): boolean => (this.#record(id)?.expiresMs ?? 0) <= Date.now();
    return (
      this.#images.all('undo').some((id) => isDue(id) || !exists(id)) ||
      this.#images.all('revert').some((id) => !exists(id))
    );
  }

  #record(volumeId: number) {
    const match = NOTE.exec(this.#images.noteOf('undo', volumeId) ?? '');
    if (match === null) return undefined;
    const [, taken, expires, pair = ''] = match;
    return { takenMs: Number(taken), expiresMs: Number(expires), pair };
  }
}

function viewOf(
  volumeId: number,
  record: { readonly takenMs: number; readonly expiresMs: number; readonly pair: string },
): UndoView {
  return {
    volume: formatVolumeId(volumeId),
    pair: record.pair,
    takenAt: new Date(record.takenMs).toISOString(),
    keptUntil: new Date(record.expiresMs).toISOString(),
  };
}
