/**
 * What is decided once, when a data directory is new: its folder, the administrator's password, the
 * ESS serial, the capacity of the pool, the demo array.
 */

import { randomInt } from 'node:crypto';
import { chmodSync, mkdirSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import type { Auth } from './api/auth.js';
import { errnoOf, fileReason } from './base/command-line.js';
import { FlashlunError } from './base/errors.js';
import { LIMITS } from './base/limits.js';
import { formatSize } from './base/units.js';
import { DEFAULT_ESS_SERIAL } from './config.js';
import { TRACK_BYTES } from './engine/types.js';
import type { SettingRepository } from './metadata/counters.js';

export const ADMIN_USER = 'admin';

/** Without look-alikes (0 O 1 l I) and without what a shell or an option parser takes specially. */
const PASSWORD_ALPHABET = '23456789abcdefghijkmnpqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ';
/** 20 of 56 characters are 116 bits. */
const PASSWORD_LENGTH = 20;

/** Before anything is opened. @throws FlashlunError CONFIG_INVALID */
export function checkAdminPassword(wanted: string | undefined): void {
  if (wanted === undefined) return;
  if (wanted !== '' && Buffer.byteLength(wanted) <= LIMITS.passwordBytes) return;
  throw new FlashlunError(
    'CONFIG_INVALID',
    `FLASHLUN_ADMIN_PASSWORD refused: use 1 to ${LIMITS.passwordBytes} bytes, or unset it.`,
  );
}

/**
 * Makes the user admin at the first start; later FLASHLUN_ADMIN_PASSWORD, when given, is the
 * password again. DATA/admin-password holds it for the commands on this machine.
 *
 * @returns the password, when it was invented here and nobody knows it yet
 * @throws FlashlunError NO_SPACE, IO_ERROR
 */
export async function ensureAdmin(
  auth: Auth,
  dataDir: string,
  wanted: string | undefined,
): Promise<string | undefined> {
  const isNew = !auth.users().some((user) => user.name === ADMIN_USER);
  if (!isNew && wanted === undefined) return undefined;
  const password = wanted ?? inventPassword();
  // The file first: a crash in between leaves a file that the next start writes again, and not a
  // user whose password nobody knows.
  writeFileAtomically(path.join(dataDir, 'admin-password'), `${password}\n`);
  if (isNew) await auth.addUser(ADMIN_USER, password, 'admin');
  else await auth.setPassword(ADMIN_USER, password);
  return wanted === undefined ? password : undefined;
}

/** Name of the setting that holds the ESS serial once it is decided. */
export const ESS_SERIAL_SETTING = 'ess-serial';

/**
 * The serial this data directory has for good, since hosts know their disks by it; of a new one the
 * serial it shall get.
 *
 * @throws FlashlunError CONFIG_INVALID another one is asked for, or there are volumes and their
 *   serial is not known any more
 */
export function chooseEssSerial(
  settings: SettingRepository,
  wanted: string | undefined,
  hasVolumes: boolean,
): string {
  const kept = settings.get(ESS_SERIAL_SETTING);
  if (kept === undefined && wanted === undefined && hasVolumes) {
    throw new FlashlunError(
      'CONFIG_INVALID',
      'the pool has volumes, but the ESS serial that hosts know them by is lost with ' +
        `flashlun.sqlite. Give it with --ess-serial (${DEFAULT_ESS_SERIAL} unless it was chosen).`,
    );
  }
  const serial = kept ?? wanted ?? DEFAULT_ESS_SERIAL;
  if (wanted === undefined || wanted === serial) return serial;
  throw new FlashlunError(
    'CONFIG_INVALID',
    `--ess-serial ${wanted} refused: this data directory is ESS ${serial}, and hosts know its ` +
      `volumes by that serial. Leave --ess-serial out, or use another --data directory.`,
  );
}

/** A pool was made here, and whether it gets the demo array was not decided then. */
const DEMO_OPEN_SETTING = 'demo-open';
const DEMO_DECIDED_SETTING = 'demo-decided';

/** Notes that the pool is new; a start that fails later leaves the decision to the next one. */
export function openDemoDecision(settings: SettingRepository): void {
  settings.keepFirst(DEMO_OPEN_SETTING, 'yes');
}

/**
 * Runs `make` once per data directory, if its pool was new: an array that somebody emptied stays
 * empty. Without `make` the decision is against it.
 */
export async function decideDemo(
  settings: SettingRepository,
  make: (() => Promise<void>) | undefined,
): Promise<void> {
  const isOpen = settings.get(DEMO_OPEN_SETTING) !== undefined;
  if (!isOpen || settings.get(DEMO_DECIDED_SETTING) !== undefined) return;
  await make?.();
  settings.keepFirst(DEMO_DECIDED_SETTING, make === undefined ? 'no' : 'yes');
}

/**
 * The capacity of a pool is fixed when it is made.
 *
 * @throws FlashlunError CONFIG_INVALID another one is asked for
 */
export function checkCapacity(wantedBytes: number | undefined, capacityTracks: number): void {
  if (wantedBytes === undefined) return;
  const tracks = Math.floor(Math.min(wantedBytes, LIMITS.maxPoolBytes) / TRACK_BYTES);
  if (tracks === capacityTracks) return;
  const kept = capacityTracks * TRACK_BYTES;
  throw new FlashlunError(
    'CONFIG_INVALID',
    `--pool-capacity ${wantedBytes} refused: the capacity of this pool was fixed at its first ` +
      `start, to ${kept} bytes (${formatSize(kept)}). Leave --pool-capacity out, or use another ` +
      '--data directory.',
  );
}

/**
 * Makes the directory and those above it. Mode 0700 when we make it; the mode of a directory that
 * was there is its owner's affair.
 *
 * @throws FlashlunError NO_SPACE, IO_ERROR
 */
export function makeDataDir(dataDir: string): void {
  try {
    makeLevels(dataDir);
  } catch (error) {
    const errno = errnoOf(error);
    if (isFull(errno)) throw fullDisk(`cannot make ${dataDir}`, dataDir, error);
    const reason = errno === 'EEXIST' ? 'something that is no directory is there' : undefined;
    throw new FlashlunError(
      'IO_ERROR',
      `cannot make the data directory ${dataDir}: ${reason ?? fileReason(error)}. ` +
        'Give --data a directory that this user may write to.',
      { cause: error },
    );
  }
}

/** One level at a time: Node's recursive mkdir never ends below /proc, where mkdir says ENOENT. */
function makeLevels(dir: string): void {
  if (isDirectory(dir)) return;
  const parent = path.dirname(dir);
  if (parent !== dir) makeLevels(parent);
  try {
    mkdirSync(dir, { mode: 0o700 });
    chmodSync(dir, 0o700);
  } catch (error) {
    // Somebody else may make it at the same moment.
    if (!isDirectory(dir)) throw error;
  }
}

function isDirectory(dir: string): boolean {
  return statSync(dir, { throwIfNoEntry: false })?.isDirectory() ?? false;
}

function isFull(errno: string | undefined): boolean {
  return errno === 'ENOSPC' || errno === 'EDQUOT';
}

function fullDisk(what: string, dir: string, cause: unknown): FlashlunError {
  return new FlashlunError(
    'NO_SPACE',
    `${what}: no space is left. Free some space on the disk of ${dir}, then start again.`,
    { cause },
  );
}

/** Readers see the old content or the new, never half of it. Mode 0600. @throws FlashlunError */
export function writeFileAtomically(file: string, content: string): void {
  const temporary = `${file}.${process.pid}.tmp`;
  try {
    writeFileSync(temporary, content, { mode: 0o600, flush: true });
    renameSync(temporary, file);
  } catch (error) {
    rmSync(temporary, { force: true });
    if (isFull(errnoOf(error))) throw fullDisk(`cannot write ${file}`, path.dirname(file), error);
    const reason = error instanceof Error ? error.message : String(error);
    throw new FlashlunError('IO_ERROR', `cannot write ${file}: ${reason}.`, { cause: error });
  }
}

function inventPassword(): string {
  const characters = Array.from({ length: PASSWORD_LENGTH }, () =>
    PASSWORD_ALPHABET.charAt(randomInt(PASSWORD_ALPHABET.length)),
  );
  return characters.join('');
}
