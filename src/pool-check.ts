/**
 * `flashlun pool check`: verifies the pool of a server that is stopped, in this process.
 *
 * A file of its own, next to main.ts, because the CLI is a client of the HTTP API and knows no part
 * of the server; these two it loads when their command is given.
 */

import { existsSync } from 'node:fs';
import path from 'node:path';
import { fromNative } from './base/errors.js';
import { checkPool as checkPoolNatively, type PoolReport, TRACK_BYTES } from './engine/index.js';

export type { PoolFinding } from './engine/index.js';

export interface CheckedPool extends PoolReport {
  readonly dir: string;
  readonly usedBytes: number;
}

/**
 * Verifies the pool at `dir`, which may also be the data directory around it.
 * @throws FlashlunError NOT_FOUND, DATA_DIR_LOCKED a server has it, POOL_DAMAGED it is of a newer
 * version, IO_ERROR
 */
export async function checkPool(dir: string): Promise<CheckedPool> {
  const inside = path.join(dir, 'pool');
  const pool = !existsSync(path.join(dir, 'meta')) && existsSync(inside) ? inside : dir;
  try {
    const report = await checkPoolNatively(pool);
    return { dir: pool, ...report, usedBytes: report.usedTracks * TRACK_BYTES };
  } catch (error) {
    throw fromNative(error, '');
  }
}
