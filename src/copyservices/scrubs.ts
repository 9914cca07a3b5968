/**
 * Scrubs: reading a whole volume and comparing its shared tracks with their checksums
 * (`flashlun verify`).
 *
 *   running --batch, batch, ...--> done       the volume's end
 *      |                           stopped    on request, or the server stopped
 *      `--failure----------------> failed     says why
 *
 * What the last scrub of a volume found is kept until its next one, or until the server stops.
 * Runs on the main thread; each batch is one piscina task, as in background-copy.ts.
 */

import { Piscina } from 'piscina';
import { FlashlunError } from '../base/errors.js';
import { formatVolumeId } from '../base/ids.js';
import { LIMITS } from '../base/limits.js';
import type { Logger } from '../base/log.js';
import { TRACK_BYTES, type VerifyBatchResult, type VolumeState } from '../engine/types.js';
import type { VerifyBatchFailure, VerifyBatchOutcome, VerifyBatchTask } from '../workers/verify.js';
import { RateBudget } from './rate-budget.js';

export interface MismatchView {
  readonly track: number;
  readonly physicalTrack: number;
  /** In DATA/pool/tracks. */
  readonly fileOffset: number;
  readonly sharedWith: string[];
}

/** A scrub as the API shows it. */
export interface ScrubView {
  readonly volume: string;
  readonly state: 'running' | 'done' | 'stopped' | 'failed';
  readonly startedAt: string;
  readonly finishedAt: string | null;
  readonly totalTracks: number;
  /** Where it is; unmapped tracks are passed over. */
  readonly nextTrack: number;
  readonly verified: number;
  readonly sealed: number;
  readonly readOnly: number;
  readonly mismatchCount: number;
  readonly ioErrorCount: number;
  /** The first LIMITS.scrubFindings of each. */
  readonly mismatches: MismatchView[];
  readonly ioErrors: { track: number; message: string }[];
  /** Why it failed. */
  readonly problem?: string;
}

export interface ScrubsOptions {
  readonly array: { state(ref: string): VolumeState };
  readonly poolDir: string;
  /** The compiled src/workers/verify.js. */
  readonly workerFile: URL;
  /** Of all scrubs together. */
  readonly bytesPerSecond: number | undefined;
  readonly log: Logger;
}

/** What scrubs did since the start, for metrics. */
export interface ScrubCounters {
  readonly verifiedTracks: number;
  readonly sealedTracks: number;
  readonly readBytes: number;
  readonly ioErrors: number;
}

type Writable<T> = { -readonly [K in keyof T]: T[K] };

interface Job {
  readonly volumeId: number;
  /** Another volume may get the id of a deleted one. */
  readonly createdUnixMs: number;
  readonly view: Writable<ScrubView>;
  readonly mismatches: MismatchView[];
  readonly ioErrors: { track: number; message: string }[];
  readonly abort: AbortController;
}

export class Scrubs {
  readonly #options: ScrubsOptions;
  readonly #log: Logger;
  readonly #pool: Piscina<VerifyBatchTask, VerifyBatchOutcome>;
  readonly #budget: RateBudget;
  readonly #jobs = new Map<number, Job>();
  readonly #running = new Set<Promise<void>>();
  readonly #counters = { verifiedTracks: 0, sealedTracks: 0, readBytes: 0, ioErrors: 0 };
  #closed = false;

  constructor(options: ScrubsOptions) {
    this.#options = options;
    this.#log = options.log;
    this.#budget = new RateBudget(options.bytesPerSecond);
    this.#pool = new Piscina<VerifyBatchTask, VerifyBatchOutcome>({
      filename: options.workerFile.href,
      minThreads: 0,
      maxThreads: LIMITS.activeScrubs,
      idleTimeout: LIMITS.copyWorkerIdleMs,
      // The default parks the worker thread between tasks, which stops native completions.
      atomics: 'disabled',
    });
  }

  get counters(): ScrubCounters {
    return { ...this.#counters };
  }

  get activeCount(): number {
    return this.#running.size;
  }

  /**
   * Begins a scrub of the volume; one that runs already goes on and is the answer.
   *
   * @throws FlashlunError VOLUME_NOT_FOUND, LIMIT_REACHED, SHUTTING_DOWN
   */
  start(ref: string): ScrubView {
    const volume = this.#options.array.state(ref);
    const old = this.#jobs.get(volume.id);
    if (old?.view.state === 'running') return old.view;
    if (this.#closed) throw new FlashlunError('SHUTTING_DOWN', '');
    if (this.#running.size >= LIMITS.activeScrubs) throw tooMany();
    const job = newJob(volume);
    this.#jobs.set(volume.id, job);
    const running = this.#run(job).finally(() => this.#running.delete(running));
    this.#running.add(running);
    return job.view;
  }

  /** The last scrub of the volume. @throws FlashlunError VOLUME_NOT_FOUND, NOT_FOUND */
  get(ref: string): ScrubView {
    return this.#find(ref).view;
  }

  /** Stops the scrub of the volume, if it runs. @throws FlashlunError as get */
  stop(ref: string): ScrubView {
    const job = this.#find(ref);
    job.abort.abort();
    return job.view;
  }

  /** Stops all of them after their batch in flight. */
  async close(): Promise<void> {
    this.#closed = true;
    for (const job of this.#jobs.values()) job.abort.abort();
    await Promise.all(this.#running);
    await this.#pool.close();
  }

  #find(ref: string): Job {
    const { id, createdUnixMs } = this.#options.array.state(ref);
    const job = this.#jobs.get(id);
    if (job?.createdUnixMs === createdUnixMs) return job;
    throw new FlashlunError(
      'NOT_FOUND',
      `volume ${formatVolumeId(id)} was not verified since the server started. ` +
        `"flashlun verify ${formatVolumeId(id)}" does it.`,
    );
  }

  async #run(job: Job): Promise<void> {
    const { view } = job;
    try {
      view.state = await this.#scrub(job);
    } catch (error) {
      view.state = job.abort.signal.aborted ? 'stopped' : 'failed';
      if (view.state === 'failed') view.problem = messageOf(error);
    }
    view.finishedAt = new Date().toISOString();
    const { volume, state, verified, sealed, readOnly, mismatchCount, ioErrorCount } = view;
    const facts = { volume, state, verified, sealed, readOnly, mismatchCount, ioErrorCount };
    if (state === 'failed') this.#log.error({ ...facts, reason: view.problem }, 'scrub failed');
    else this.#log.info(facts, 'scrub ended');
  }

  async #scrub(job: Job): Promise<ScrubView['state']> {
    for (;;) {
      await this.#budget.admit(job.abort.signal);
      const outcome = await this.#pool.run({
        poolDir: this.#options.poolDir,
        volumeId: job.volumeId,
        firstTrack: job.view.nextTrack,
        maxTracks: this.#batchTracks(),
      });
      if (isFailure(outcome)) {
        job.view.problem = outcome.message;
        return 'failed';
      }
      this.#account(job, outcome);
      if (outcome.done) return 'done';
    }
  }

  /** With a rate, a batch is a tenth of a second of it. */
  #batchTracks(): number {
    const { bytesPerSecond } = this.#budget;
    if (bytesPerSecond === undefined) return LIMITS.copyBatchTracks;
    const tracks = Math.floor(bytesPerSecond / 10 / TRACK_BYTES);
    return Math.min(Math.max(tracks, 1), LIMITS.copyBatchTracks);
  }

  #account({ view, mismatches, ioErrors }: Job, batch: VerifyBatchResult): void {
    this.#budget.charge(batch.readBytes);
    view.nextTrack = batch.nextTrack;
    view.verified += batch.verified;
    view.sealed += batch.sealed;
    view.readOnly += batch.readOnly;
    view.mismatchCount += batch.mismatches.length;
    view.ioErrorCount += batch.ioErrors.length;
    this.#counters.verifiedTracks += batch.verified;
    this.#counters.sealedTracks += batch.sealed;
    this.#counters.readBytes += batch.readBytes;
    this.#counters.ioErrors += batch.ioErrors.length;
    for (const found of batch.mismatches) {
      if (mismatches.length >= LIMITS.scrubFindings) break;
      const mismatch = { ...found, sharedWith: found.sharedWith.map(formatVolumeId) };
      this.#log.error({ volume: view.volume, ...mismatch }, 'track does not match its checksum');
      mismatches.push(mismatch);
    }
    for (const found of batch.ioErrors) {
      if (ioErrors.length >= LIMITS.scrubFindings) break;
      this.#log.error({ volume: view.volume, ...found }, 'track cannot be read');
      ioErrors.push(found);
    }
  }
}

function newJob({ id, sizeBytes, createdUnixMs }: VolumeState): Job {
  const mismatches: MismatchView[] = [];
  const ioErrors: Job['ioErrors'] = [];
  const view: ScrubView = {
    volume: formatVolumeId(id),
    state: 'running',
    startedAt: new Date().toISOString(),
    finishedAt: null,
    totalTracks: sizeBytes / TRACK_BYTES,
    nextTrack: 0,
    verified: 0,
    sealed: 0,
    readOnly: 0,
    mismatchCount: 0,
    ioErrorCount: 0,
    mismatches,
    ioErrors,
  };
  const abort = new AbortController();
  return { volumeId: id, createdUnixMs, view, mismatches, ioErrors, abort };
}

function tooMany(): FlashlunError {
  return new FlashlunError(
    'LIMIT_REACHED',
    `${LIMITS.activeScrubs} volumes are being verified already. ` +
      'Wait for one of them, or stop it with "flashlun verify VOLUME --stop".',
  );
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

function isFailure(outcome: VerifyBatchOutcome): outcome is VerifyBatchFailure {
  return 'code' in outcome;
}
