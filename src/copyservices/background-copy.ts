/**
 * Background copy: gives targets tracks of their own until their relationships end by themselves.
 *
 *   queued --place free--> active --batch, batch, ...--> done    the engine ended the relationship
 *                            |                             gone    withdrawn meanwhile
 *                            `--failure--> pause, retry --too often--> failed (until next start)
 *
 * Which relationships need copying is the engine's state, so nothing is stored here: at start every
 * relationship that is not nocopy is queued again, from its first track; tracks that have their own
 * copy already are skipped by the engine at memory speed.
 *
 * Runs on the main thread; each batch is one piscina task. Aborting waits for the batch in flight
 * (milliseconds): a worker is never killed inside a native call.
 */

import { setTimeout as delay } from 'node:timers/promises';
import { Piscina } from 'piscina';
import { pairId } from '../array/words.js';
import { LIMITS } from '../base/limits.js';
import type { Logger } from '../base/log.js';
import { type CopyBatchResult, type Engine, TRACK_BYTES } from '../engine/types.js';
import type {
  CopyBatchFailure,
  CopyBatchOutcome,
  CopyBatchTask,
} from '../workers/background-copy.js';
import { RateBudget } from './rate-budget.js';

/** Where the copy of one relationship stands, as far as this process knows. */
export interface CopyProgress {
  /** False: waiting for a place. */
  readonly active: boolean;
  /** Why it was given up or is retried; undefined when all is well. */
  readonly problem: string | undefined;
}

export interface BackgroundCopyOptions {
  readonly engine: Pick<Engine, 'relationships'>;
  readonly poolDir: string;
  /** The compiled src/workers/background-copy.js. */
  readonly workerFile: URL;
  readonly bytesPerSecond: number | undefined;
  readonly log: Logger;
  /** First pause after a failure; tests shorten it. */
  readonly retryMs?: number;
}

interface Job {
  readonly relationshipId: number;
  readonly pair: string;
  active: boolean;
  problem: string | undefined;
}

const NO_PROGRESS: CopyBatchFailure = {
  code: 'NO_PROGRESS',
  message: 'there are tracks left to copy, but none could be found',
};

type JobEnd = 'done' | 'gone' | 'stopped' | 'failed';

/** Codes after which trying again is pointless: the pool stopped, or is being closed. */
const FINAL_CODES: ReadonlySet<string> = new Set(['POISONED', 'CLOSED', 'CORRUPT']);

export class BackgroundCopy {
  readonly #options: BackgroundCopyOptions;
  readonly #log: Logger;
  readonly #pool: Piscina<CopyBatchTask, CopyBatchOutcome>;
  readonly #budget: RateBudget;
  readonly #abort = new AbortController();
  readonly #jobs = new Map<number, Job>();
  readonly #running = new Set<Promise<void>>();
  #copiedTracks = 0;

  constructor(options: BackgroundCopyOptions) {
    this.#options = options;
    this.#log = options.log;
    this.#budget = new RateBudget(options.bytesPerSecond);
    this.#pool = new Piscina<CopyBatchTask, CopyBatchOutcome>({
      filename: options.workerFile.href,
      minThreads: 0,
      maxThreads: LIMITS.activeCopies,
      idleTimeout: LIMITS.copyWorkerIdleMs,
      // The default parks the worker thread between tasks, which stops native completions.
      atomics: 'disabled',
    });
  }

  /**
   * Queues every relationship that wants background copy and has no job yet: at start, and after
   * each establish.
   */
  resume(): void {
    if (this.#abort.signal.aborted) return;
    for (const relationship of this.#options.engine.relationships()) {
      if (relationship.noCopy || this.#jobs.has(relationship.id)) continue;
      const { id } = relationship;
      this.#jobs.set(id, {
        relationshipId: id,
        pair: pairId(relationship),
        active: false,
        problem: undefined,
      });
    }
    this.#startQueued();
  }

  progress(relationshipId: number): CopyProgress | undefined {
    return this.#jobs.get(relationshipId);
  }

  /** Forgets a relationship that was withdrawn, so that a failed or queued copy does not linger. */
  forget(relationshipId: number): void {
    const job = this.#jobs.get(relationshipId);
    // An active one finds out by itself, from the engine's NOT_FOUND.
    if (job !== undefined && !job.active) this.#jobs.delete(relationshipId);
  }

  /** Tracks copied since the start, over all relationships; never goes back. */
  get copiedTracks(): number {
    return this.#copiedTracks;
  }

  get activeCount(): number {
    return this.#running.size;
  }

  get queuedCount(): number {
    return [...this.#jobs.values()].filter(isWaiting).length;
  }

  /** Stops all copies after their batch in flight. They go on at the next start. */
  async close(): Promise<void> {
    this.#abort.abort();
    await Promise.all(this.#running);
    await this.#pool.close();
  }

  #startQueued(): void {
    for (const job of this.#jobs.values()) {
      if (this.#running.size >= LIMITS.activeCopies || this.#abort.signal.aborted) return;
      if (isWaiting(job)) this.#start(job);
    }
  }

  #start(job: Job): void {
    job.active = true;
    const running = this.#run(job).then((end) => {
      this.#running.delete(running);
      job.active = false;
      if (end !== 'failed') this.#jobs.delete(job.relationshipId);
      this.#startQueued();
    });
    this.#running.add(running);
  }

  async #run(job: Job): Promise<JobEnd> {
    const startedMs = performance.now();
    const end = await this.#copyAll(job).catch((error: unknown): JobEnd => {
      if (this.#abort.signal.aborted) return 'stopped';
      // Not the engine's word but a broken worker; there is nothing to retry.
      job.problem = error instanceof Error ? error.message : String(error);
      return 'failed';
    });
    const facts = { pair: job.pair, seconds: Math.round(performance.now() - startedMs) / 1000 };
    if (end === 'failed') {
      this.#log.error(
        { ...facts, reason: job.problem },
        'background copy given up until the next start; the target stays readable and writable',
      );
    } else {
      this.#log.info({ ...facts, end }, 'background copy ended');
    }
    return end;
  }

  async #copyAll(job: Job): Promise<JobEnd> {
    const signal = this.#abort.signal;
    let firstTrack = 0;
    let failures = 0;
    for (;;) {
      await this.#budget.admit(signal);
      const outcome = await this.#batch(job.relationshipId, firstTrack);
      if (!isFailure(outcome)) {
        if (outcome.done) return 'done';
        firstTrack = outcome.nextTrack;
        failures = 0;
        job.problem = undefined;
        continue;
      }
      if (outcome.code === 'NOT_FOUND') return 'gone';
      failures += 1;
      job.problem = outcome.message;
      if (FINAL_CODES.has(outcome.code) || failures >= LIMITS.copyAttempts) return 'failed';
      this.#log.warn(
        { pair: job.pair, reason: outcome.message, failures },
        'background copy failed, will be tried again',
      );
      await delay((this.#options.retryMs ?? LIMITS.copyRetryMs) * 2 ** (failures - 1), undefined, {
        signal,
      });
    }
  }

  async #batch(relationshipId: number, firstTrack: number): Promise<CopyBatchOutcome> {
    const task = {
      poolDir: this.#options.poolDir,
      relationshipId,
      firstTrack,
      maxTracks: this.#batchTracks(),
    };
    const outcome = await this.#pool.run(task);
    if (isFailure(outcome)) return outcome;
    this.#account(outcome);
    // Track 0 again without an end is a new pass, for tracks that hosts were just writing. One that
    // found nothing at all would spin, so it is made to wait like a failure.
    const idle = firstTrack === 0 && outcome.nextTrack === 0 && outcome.copiedTracks === 0;
    return idle && !outcome.done ? NO_PROGRESS : outcome;
  }

  /** With a rate, a batch is a tenth of a second of it: the copy flows instead of pulsing. */
  #batchTracks(): number {
    const { bytesPerSecond } = this.#budget;
    if (bytesPerSecond === undefined) return LIMITS.copyBatchTracks;
    const tracks = Math.floor(bytesPerSecond / 10 / TRACK_BYTES);
    return Math.min(Math.max(tracks, 1), LIMITS.copyBatchTracks);
  }

  #account(result: CopyBatchResult): void {
    this.#copiedTracks += result.copiedTracks;
    this.#budget.charge(result.copiedTracks * TRACK_BYTES);
  }
}

function isWaiting(job: Job): boolean {
  return !job.active && job.problem === undefined;
}

function isFailure(outcome: CopyBatchOutcome): outcome is CopyBatchFailure {
  return 'code' in outcome;
}
