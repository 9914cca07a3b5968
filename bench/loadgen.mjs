/** Runs flashlun_loadgen, the light load generator (bench/loadgen.cc), and reads its answer. */

import { execFile } from 'node:child_process';
import path from 'node:path';
import { promisify } from 'node:util';

const PROGRAM = path.join(import.meta.dirname, 'build', 'flashlun_loadgen');
/** A load is bounded by its `seconds`; a fill of 4 GiB by this. */
const TIMEOUT_MS = 120_000;

/**
 * @param {{address: string, exportName: string}} server
 * @param {{depth?: number, block?: number, connections?: number, seconds?: number, range?: number,
 *   write?: boolean, sequential?: boolean, fill?: boolean, once?: boolean, stride?: number,
 *   pass?: boolean, flush?: boolean, psk?: string}} load
 * @returns {Promise<{iops: number, mbps: number, p50us: number, p99us: number, requests: number,
 *   seconds: number}>}
 */
export async function runLoad(server, load) {
  const args = [server.address, server.exportName];
  for (const [name, value] of Object.entries(load)) {
    if (value === true) args.push(`--${name}`);
    else if (value !== false && value !== undefined) args.push(`--${name}`, String(value));
  }
  const { stdout } = await promisify(execFile)(PROGRAM, args, { timeout: TIMEOUT_MS });
  return JSON.parse(stdout);
}
