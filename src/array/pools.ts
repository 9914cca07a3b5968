/**
 * The pools that volumes take their space from: what they hold, how full they are, and a warning
 * long before they are full.
 *
 * Runs on the main thread; `watch` looks at all pools now and then, everything else when asked.
 */

import { stat, statfs } from 'node:fs/promises';
import path from 'node:path';
import { FlashlunError, fromNative } from '../base/errors.js';
import { LIMITS } from '../base/limits.js';
import type { Logger } from '../base/log.js';
import { shorten } from '../base/shorten.js';
import { formatSize } from '../base/units.js';
import { type Engine, type PoolState, TRACK_BYTES } from '../engine/types.js';
import type { ChangeQueue } from './change-queue.js';

export type PoolLevel = 'ok' | 'warning' | 'critical';

/** The second copy of the metadata, which is that of all pools. */
export interface MetadataMirror {
  readonly state: 'none' | 'in sync' | 'degraded';
  /** The file. */
  readonly path?: string;
  /** Why it is degraded: which copy does not count. */
  readonly problem?: string;
}

/** A pool as the API shows it. */
export interface PoolView {
  readonly name: string;
  /** Its file or block device on the server. */
  readonly path: string;
  readonly capacityBytes: number;
  /** Tracks in use, shared ones counted once. */
  readonly usedBytes: number;
  /** Reserved for thick volumes, written or not. */
  readonly thickBytes: number;
  /** What thin volumes may still take. */
  readonly availableBytes: number;
  /** Space the file has on its file system; it grows ahead of the writers. */
  readonly allocatedBytes: number;
  readonly level: PoolLevel;
  /** Why the level is not ok. */
  readonly problem?: string;
  readonly metadataMirror: MetadataMirror;
}

export interface NewPool {
  readonly name: string;
  readonly path: string;
  /** Left out: all of a block device. */
  readonly sizeBytes?: number | undefined;
}

type PoolsEngine = Pick<Engine, 'pools' | 'createPool' | 'growPool' | 'info'>;

/** Free and total bytes of the file system that holds a file. */
export type FreeSpace = (file: string) => Promise<{ free: number; total: number }>;

export interface PoolsOptions {
  readonly engine: PoolsEngine;
  readonly changes: ChangeQueue;
  readonly log: Logger;
  readonly freeSpace?: FreeSpace;
}

/** What the last look at a pool found. */
interface Finding {
  readonly level: PoolLevel;
  readonly problem: string | undefined;
}

interface Threshold {
  readonly warning: number;
  readonly critical: number;
}

/** Percent in use; a level is left when the figure is this much below where it begins. */
const FILL: Threshold = { warning: 80, critical: 95 };
/** Of the file system under a pool that still has to grow. */
const HOST: Threshold = { warning: 90, critical: 97 };
const HYSTERESIS = 3;

const SEVERITY: Readonly<Record<PoolLevel, number>> = { ok: 0, warning: 1, critical: 2 };

export class Pools {
  readonly #engine: PoolsEngine;
  readonly #changes: ChangeQueue;
  readonly #log: Logger;
  readonly #freeSpace: FreeSpace;
  readonly #fill = new Map<string, PoolLevel>();
  readonly #host = new Map<string, PoolLevel>();
  readonly #findings = new Map<string, Finding>();
  #mirrorProblem = '';

  constructor({ engine, changes, log, freeSpace = freeSpaceOf }: PoolsOptions) {
    this.#engine = engine;
    this.#changes = changes;
    this.#log = log;
    this.#freeSpace = freeSpace;
  }

  list(): PoolView[] {
    return this.#engine.pools().map((state) => this.#view(state));
  }

  /** @throws FlashlunError NOT_FOUND */
  get(name: string): PoolView {
    return this.#view(this.state(name));
  }

  /** @throws FlashlunError NOT_FOUND */
  state(name: string): PoolState {
    return findPool(this.#engine.pools(), name);
  }

  /** @throws FlashlunError INVALID_ARGUMENT, ALREADY_EXISTS, LIMIT_REACHED, NO_SPACE, IO_ERROR */
  create({ name, path: file, sizeBytes }: NewPool): Promise<PoolView> {
    return this.#changes.run(async () => {
      try {
        await this.#engine.createPool(name, file, checkSize(sizeBytes));
      } catch (error) {
        throw fromNative(error, `create pool ${shorten(name)}`);
      }
      this.#log.info({ pool: name, path: file }, 'pool created');
      return this.get(name);
    });
  }

  /** @throws FlashlunError NOT_FOUND, INVALID_ARGUMENT */
  grow(name: string, sizeBytes: number | undefined): Promise<PoolView> {
    return this.#changes.run(async () => {
      const { number } = this.state(name);
      try {
        await this.#engine.growPool(number, checkSize(sizeBytes));
      } catch (error) {
        throw fromNative(error, `grow pool ${name}`);
      }
      this.#log.info({ pool: name, sizeBytes }, 'pool enlarged');
      return this.get(name);
    });
  }

  /** Looks at all pools now and every few seconds; the returned function ends it. */
  watch(): () => void {
    const look = () => {
      this.check().catch((error: unknown) => {
        this.#log.error({ err: error }, 'looking at the pools failed');
      });
    };
    look();
    const timer = setInterval(look, LIMITS.poolWatchMs);
    timer.unref();
    return () => {
      clearInterval(timer);
    };
  }

  /** One look at every pool; a change of level is logged once. */
  async check(): Promise<void> {
    this.#checkMirror();
    for (const state of this.#engine.pools()) {
      const before = this.#findings.get(state.name)?.level ?? 'ok';
      const found = await this.#examine(state);
      this.#findings.set(state.name, found);
      if (found.level === before) continue;
      const facts = { pool: state.name, level: found.level };
      if (SEVERITY[found.level] > SEVERITY[before]) this.#log.warn(facts, found.problem ?? '');
      else this.#log.info(facts, `pool ${state.name} has space again`);
    }
  }

  /** A copy that fails stays out until the next start. */
  #checkMirror(): void {
    const { state, path: mirror, problem = '' } = mirrorOf(this.#engine);
    if (problem !== '' && problem !== this.#mirrorProblem) {
      this.#log.warn({ mirror, state }, `metadata has one copy only: ${problem}`);
    }
    this.#mirrorProblem = problem;
  }

  async #examine(state: PoolState): Promise<Finding> {
    const { name } = state;
    const fillPercent = fillOf(state);
    const fill = nextLevel(this.#fill.get(name) ?? 'ok', fillPercent, FILL);
    this.#fill.set(name, fill);
    const hostPercent = await this.#hostPercent(state);
    const host = nextLevel(this.#host.get(name) ?? 'ok', hostPercent, HOST);
    this.#host.set(name, host);
    if (state.growthError !== '') {
      return { level: 'critical', problem: `pool ${name} cannot grow: ${state.growthError}` };
    }
    if (SEVERITY[fill] >= SEVERITY[host] && fill !== 'ok') {
      const left = formatSize(state.availableTracks * TRACK_BYTES);
      return {
        level: fill,
        problem:
          `pool ${name} is ${Math.floor(fillPercent)} % full, ${left} left: ` +
          `trim or delete volumes and copies, or enlarge it with "flashlun pool grow ${name}"`,
      };
    }
    if (host === 'ok') return { level: 'ok', problem: undefined };
    return {
      level: host,
      problem:
        `the file system of ${state.path} is ${Math.floor(hostPercent)} % full and pool ${name} ` +
        'grows on it: free space there',
    };
  }

  /** 0 for what needs no more space of a file system. */
  async #hostPercent(state: PoolState): Promise<number> {
    if (state.readyTracks >= state.capacityTracks) return 0;
    const { free, total } = await this.#freeSpace(state.path);
    return total === 0 ? 0 : 100 * (1 - free / total);
  }

  #view(state: PoolState): PoolView {
    const finding = this.#findings.get(state.name);
    return {
      name: state.name,
      path: state.path,
      capacityBytes: state.capacityTracks * TRACK_BYTES,
      usedBytes: state.usedTracks * TRACK_BYTES,
      thickBytes: state.claimedTracks * TRACK_BYTES,
      availableBytes: state.availableTracks * TRACK_BYTES,
      allocatedBytes: state.readyTracks * TRACK_BYTES,
      level: finding?.level ?? 'ok',
      ...(finding?.problem === undefined ? {} : { problem: finding.problem }),
      metadataMirror: mirrorOf(this.#engine),
    };
  }
}

function mirrorOf(engine: Pick<Engine, 'info'>): MetadataMirror {
  const { mirrorPath, mirrorProblem } = engine.info();
  if (mirrorPath === '') return { state: 'none' };
  if (mirrorProblem === '') return { state: 'in sync', path: mirrorPath };
  return { state: 'degraded', path: mirrorPath, problem: mirrorProblem };
}

/** The pool of this name; without one, the first. @throws FlashlunError NOT_FOUND */
export function findPool(pools: readonly PoolState[], name: string | undefined): PoolState {
  const pool = name === undefined ? pools[0] : pools.find((each) => each.name === name);
  if (pool !== undefined) return pool;
  const shown = shorten(name ?? '');
  throw new FlashlunError(
    'NOT_FOUND',
    `there is no pool '${shown}'. "flashlun pool list" shows those there are.`,
    { details: { pool: shown } },
  );
}

/** What thin volumes cannot take any more, of everything. */
function fillOf({ availableTracks, capacityTracks }: PoolState): number {
  return 100 * (1 - availableTracks / capacityTracks);
}

/** The level of a figure, staying in a worse one until it is clearly left. */
export function nextLevel(before: PoolLevel, percent: number, at: Threshold): PoolLevel {
  const margin = (level: PoolLevel) => (SEVERITY[before] >= SEVERITY[level] ? HYSTERESIS : 0);
  if (percent >= at.critical - margin('critical')) return 'critical';
  return percent >= at.warning - margin('warning') ? 'warning' : 'ok';
}

/** Bytes for the engine; 0 is all of a device. @throws FlashlunError SIZE_INVALID */
function checkSize(sizeBytes: number | undefined): number {
  if (sizeBytes === undefined) return 0;
  const fits = sizeBytes >= LIMITS.minPoolBytes && sizeBytes <= LIMITS.maxPoolBytes;
  if (fits && Number.isSafeInteger(sizeBytes)) return sizeBytes;
  throw new FlashlunError(
    'SIZE_INVALID',
    `size ${sizeBytes} refused: a pool has ${formatSize(LIMITS.minPoolBytes)} to ` +
      `${formatSize(LIMITS.maxPoolBytes)}.`,
  );
}

/**
 * Refuses a thick volume that the file system under its pool cannot hold, before the engine begins
 * to allocate it and takes the last space from everybody else.
 *
 * @throws FlashlunError NO_SPACE
 */
export async function checkThickFits(pool: PoolState, sizeBytes: number): Promise<void> {
  // A device has its space.
  if (!(await stat(pool.path)).isFile()) return;
  const { free } = await freeSpaceOf(pool.path);
  const allocated = (pool.readyTracks - pool.usedTracks) * TRACK_BYTES;
  if (sizeBytes <= free + allocated) return;
  throw new FlashlunError(
    'NO_SPACE',
    `a thick volume of ${formatSize(sizeBytes)} refused: the file system of ${pool.path} has ` +
      `${formatSize(free)} left. Free space there, choose a smaller size, or create it thin.`,
  );
}

async function freeSpaceOf(file: string): Promise<{ free: number; total: number }> {
  const { bavail, blocks, bsize } = await statfs(path.dirname(file));
  return { free: bavail * bsize, total: blocks * bsize };
}
