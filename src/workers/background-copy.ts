/**
 * Piscina worker: one batch of a background copy.
 *
 * The native call blocks this thread for the disk and holds no lock between tracks, so hosts and
 * the main thread go on. Stopping and the rate limit act between batches, in the main thread.
 */

import { openedEngine } from '../engine/index.js';
import type { CopyBatchResult } from '../engine/types.js';

/** What the main thread sends for one batch. */
export interface CopyBatchTask {
  /** Directory of the pool, which the main thread holds open in this process. */
  readonly poolDir: string;
  readonly relationshipId: number;
  readonly firstTrack: number;
  readonly maxTracks: number;
}

/** A native error as data: an error's own properties are lost between threads. */
export interface CopyBatchFailure {
  readonly code: string;
  readonly message: string;
}

export type CopyBatchOutcome = CopyBatchResult | CopyBatchFailure;

/** Copies one batch. Failures of the engine are returned, not thrown. */
export default function copyBatch(task: CopyBatchTask): CopyBatchOutcome {
  try {
    const engine = openedEngine(task.poolDir);
    return engine.copyBatch(task.relationshipId, task.firstTrack, task.maxTracks);
  } catch (error) {
    if (!(error instanceof Error)) throw error;
    const code = 'code' in error && typeof error.code === 'string' ? error.code : 'INTERNAL';
    return { code, message: error.message };
  }
}
