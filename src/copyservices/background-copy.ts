/**
 * Background copy: gives targets tracks of their own until their relationships end by themselves.
 *
 *   queued --place free--> active --batch, batch, ...--> done    the engine ended the relationship,
 *                            |                                   unless it is persistent
 *                            |--pause--> paused --resume--> queued
 *                            |                             gone    withdrawn meanwhile
 *                            `--failure--> pause, retry --too often--> failed (until next start)
 *
 * Places are limited; the highest priority goes first, then the oldest. Rates: one of the array,
 * and one of each relationship that has one.
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
  /** Held up by an operator. */
  readonly paused: boolean;
  /** Why it was given up or is retried; undefined when all is well. */
  readonly problem: string | undefined;
}

/** How one relationship is copied. */
export interface CopySettings {
  /** 0: no limit of its own. */
  readonly bytesPerSecond: number;
  readonly priority: number;
  readonly paused: boolean;
}

const NO_SETTINGS: CopySettings = { bytesPerSecond: 0, priority: 0, paused: false };

export interface BackgroundCopyOptions {
  readonly engine: Pick<Engine, 'relationships'>;
  readonly poolDir: string;
  /** The compiled src/workers/background-copy.js. */
  readonly workerFile: URL;
  readonly bytesPerSecond: number | undefined;
  /** Copies at once; default LIMITS.activeCopies. */
  readonly activeCopies?: number;
  /** Of a relationship, as they are now; default: none. */
  readonly settings?: (relationshipId: number) => CopySettings;
  readonly log: Logger;
  /** First pause after a failure; tests shorten it. */
  readonly retryMs?: number;
}

interface Job {
  readonly relationshipId: number;
  readonly pair: string;
  active: boolean;
  paused: boolean;
  problem: string | undefined;
  /** Its own rate. */
  budget: RateBudget;
}

const NO_PROGRESS: CopyBatchFailure = {
  code: 'NO_PROGRESS',
  message: 'there are tracks left to copy, but none could be found',
};

type JobEnd = 'done' | 'gone' | 'stopped' | 'paused' | 'failed';

/** Codes after which trying again is pointless: the pool stopped, or is being closed. */
const FINAL_CODES: ReadonlySet<string> = new Set(['POISONED', 'CLOSED', 'CORRUPT']);

export class BackgroundCopy {
  readonly #options: BackgroundCopyOptions;
  readonly #log: Logger;
  readonly #pool: Piscina<CopyBatchTask, CopyBatchOutcome>;
  readonly #places: number;
  #budget: RateBudget;
  readonly #abort = new AbortController();
  readonly #jobs = new Map<number, Job>();
  readonly #running = new Set<Promise<void>>();
  #copiedTracks = 0;

  constructor(options: BackgroundCopyOptions) {
    this.#options = options;
    this.#log = options.log;
    this.#budget = new RateBudget(options.bytesPerSecond);
    this.#places = options.activeCopies ?? LIMITS.activeCopies;
    this.#pool = new Piscina<CopyBatchTask, CopyBatchOutcome>({
      filename: options.workerFile.href,
      minThreads: 0,
      maxThreads: this.#places,
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
      const { id, noCopy, persistent, pendingTracks } = relationship;
      if (noCopy || this.#jobs.has(id) || (persistent && pendingTracks === 0)) continue;
      const { bytesPerSecond, paused } = this.#settings(id);
      this.#jobs.set(id, {
        relationshipId: id,
        pair: pairId(relationship),
        active: false,
        paused,
        problem: undefined,
        budget: new RateBudget(bytesPerSecond || undefined),
      });
    }
    this.#startQueued();
  }

  /** Its settings have changed: a pause, a rate or a priority takes effect with the next batch. */
  refresh(relationshipId: number): void {
    const job = this.#jobs.get(relationshipId);
    if (job === undefined) return;
    const { bytesPerSecond, paused } = this.#settings(relationshipId);
    job.paused = paused;
    if (job.budget.bytesPerSecond !== (bytesPerSecond || undefined)) {
      job.budget = new RateBudget(bytesPerSecond || undefined);
    }
    this.#startQueued();
  }

  /** Of all copies together; undefined: as fast as the disk. Takes effect with the next batch. */
  get bytesPerSecond(): number | undefined {
    return this.#budget.bytesPerSecond;
  }

  set bytesPerSecond(bytesPerSecond: number | undefined) {
    this.#budget = new RateBudget(bytesPerSecond);
  }

  #settings(relationshipId: number): CopySettings {
    return this.#options.settings?.(relationshipId) ?? NO_SETTINGS;
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
    const priority = (job: Job): number => this.#settings(job.relationshipId).priority;
    // A stable sort: of one priority, the one that waits longest.
    const waiting = [...this.#jobs.values()].filter(isWaiting);
    for (const job of waiting.sort((left, right) => priority(right) - priority(left))) {
      if (this.#running.size >= this.#places || this.#abort.signal.aborted) return;
      this.#start(job);
    }
  }

  #start(job: Job): void {
    job.active = true;
    const running = this.#run(job).then((end) => {
      this.#running.delete(running);
      job.active = false;
      if (end === 'paused' || end === 'failed') return this.#startQueued();
      this.#jobs.delete(job.relationshipId);
      // Looks for itself too: a resync may have come between its last batch and here.
      return this.resume();
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
      await job.budget.admit(signal);
      if (job.paused) return 'paused';
      const outcome = await this.#batch(job, firstTrack);
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

  async #batch(job: Job, firstTrack: number): Promise<CopyBatchOutcome> {
    const task = {
      poolDir: this.#options.poolDir,
      relationshipId: job.relationshipId,
      firstTrack,
      maxTracks: this.#batchTracks(job.budget),
    };
    const outcome = await this.#pool.run(task);
    if (isFailure(outcome)) return outcome;
    this.#account(outcome, job.budget);
    // Track 0 again without an end is a new pass, for tracks that hosts were just writing. One that
    // found nothing at all would spin, so it is made to wait like a failure.
    const idle = firstTrack === 0 && outcome.nextTrack === 0 && outcome.copiedTracks === 0;
    return idle && !outcome.done ? NO_PROGRESS : outcome;
  }

  /** With a rate, a batch is a tenth of a second of it: the copy flows instead of pulsing. */
  #batchTracks(own: RateBudget): number {
    const all = this.#budget.bytesPerSecond ?? Infinity;
    const bytesPerSecond = Math.min(all, own.bytesPerSecond ?? Infinity);
    if (bytesPerSecond === Infinity) return LIMITS.copyBatchTracks;
    const tracks = Math.floor(bytesPerSecond / 10 / TRACK_BYTES);
    return Math.min(Math.max(tracks, 1), LIMITS.copyBatchTracks);
  }

  #account(result: CopyBatchResult, own: RateBudget): void {
    this.#copiedTracks += result.copiedTracks;
    this.#budget.charge(result.copiedTracks * TRACK_BYTES);
    own.charge(result.copiedTracks * TRACK_BYTES);
  }
}

function isWaiting(job: Job): boolean {
  return !job.active && !job.paused && job.problem === undefined;
}

function isFailure(outcome: CopyBatchOutcome): outcome is CopyBatchFailure {
  return 'code' in outcome;
}
