/**
 * Piscina worker: one batch of a scrub. As background-copy.ts: the native call blocks this thread
 * for the disk; stopping and the rate limit act between batches, in the main thread.
 */

import { openedEngine } from '../engine/index.js';
import type { VerifyBatchResult } from '../engine/types.js';

/** What the main thread sends for one batch. */
export interface VerifyBatchTask {
  /** Directory of the pool, which the main thread holds open in this process. */
  readonly poolDir: string;
  readonly volumeId: number;
  readonly firstTrack: number;
  readonly maxTracks: number;
}

/** A native error as data: an error's own properties are lost between threads. */
export interface VerifyBatchFailure {
  readonly code: string;
  readonly message: string;
}

export type VerifyBatchOutcome = VerifyBatchResult | VerifyBatchFailure;

/** Scrubs one batch. Failures of the engine are returned, not thrown. */
export default function verifyBatch(task: VerifyBatchTask): VerifyBatchOutcome {
  try {
    const engine = openedEngine(task.poolDir);
    return engine.verifyBatch(task.volumeId, task.firstTrack, task.maxTracks);
  } catch (error) {
    if (!(error instanceof Error)) throw error;
    const code = 'code' in error && typeof error.code === 'string' ? error.code : 'INTERNAL';
    return { code, message: error.message };
  }
}
