/** The files that tell others where the server is: DATA/flashlun.json and DATA/flashlun.pid. */

import { existsSync, readFileSync, rmSync } from 'node:fs';
import path from 'node:path';
import { FlashlunError, fromNative } from './base/errors.js';
import type { HostPort } from './config-address.js';
import { writeFileAtomically } from './first-start.js';

const PID_FILE = 'flashlun.pid';
const FACTS_FILE = 'flashlun.json';

/** @throws FlashlunError NO_SPACE, IO_ERROR */
export function publish(dataDir: string, facts: Record<string, unknown>): void {
  const all = { pid: process.pid, ...facts, startedAt: new Date().toISOString() };
  writeFileAtomically(path.join(dataDir, PID_FILE), `${process.pid}\n`);
  writeFileAtomically(path.join(dataDir, FACTS_FILE), `${JSON.stringify(all, null, 2)}\n`);
}

/** Of whatever server wrote them: the caller has the pool's lock. */
export function unpublish(dataDir: string): void {
  rmSync(path.join(dataDir, FACTS_FILE), { force: true });
  rmSync(path.join(dataDir, PID_FILE), { force: true });
}

/** Says who has the data directory, when that is why the pool cannot be opened. */
export function describeOpenError(error: unknown, dataDir: string): FlashlunError {
  const known = fromNative(error, 'open the pool');
  if (known.code !== 'DATA_DIR_LOCKED') return known;
  const pidFile = path.join(dataDir, PID_FILE);
  const pid = existsSync(pidFile) ? readFileSync(pidFile, 'utf8').trim() : '';
  const holder = /^\d+$/.test(pid) ? `another flashlun server (process ${pid})` : 'another process';
  return new FlashlunError(
    'DATA_DIR_LOCKED',
    `the data directory ${dataDir} is in use by ${holder}. ` +
      'Stop it first, or give this one another --data directory.',
    { cause: error },
  );
}

/** An address that means "all of them" is no address to connect to. */
export function reachable(address: HostPort): HostPort {
  if (address.host === '0.0.0.0') return { ...address, host: '127.0.0.1' };
  if (address.host === '::') return { ...address, host: '::1' };
  return address;
}
