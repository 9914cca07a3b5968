/**
 * What is decided once, when a data directory is new: the administrator's password and the ESS
 * serial.
 */

import { randomInt } from 'node:crypto';
import { rmSync, renameSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import type { Auth } from './api/auth.js';
import { FlashlunError } from './base/errors.js';
import { LIMITS } from './base/limits.js';
import { DEFAULT_ESS_SERIAL } from './config.js';
import type { SettingRepository } from './metadata/counters.js';

export const ADMIN_USER = 'admin';

/** Without look-alikes (0 O 1 l I) and without what a shell or an option parser takes specially. */
const PASSWORD_ALPHABET = '23456789abcdefghijkmnpqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ';
/** 20 of 56 characters are 116 bits. */
const PASSWORD_LENGTH = 20;

/**
 * Makes the user admin at the first start; later FLASHLUN_ADMIN_PASSWORD, when given, is the
 * password again. DATA/admin-password holds it for the commands on this machine.
 *
 * @returns the password, when it was invented here and nobody knows it yet
 * @throws FlashlunError CONFIG_INVALID
 */
export async function ensureAdmin(
  auth: Auth,
  dataDir: string,
  wanted: string | undefined,
): Promise<string | undefined> {
  if (wanted !== undefined && (wanted === '' || Buffer.byteLength(wanted) > LIMITS.passwordBytes)) {
    throw new FlashlunError(
      'CONFIG_INVALID',
      `FLASHLUN_ADMIN_PASSWORD refused: use 1 to ${LIMITS.passwordBytes} bytes.`,
    );
  }
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
 * @throws FlashlunError CONFIG_INVALID another one is asked for
 */
export function chooseEssSerial(settings: SettingRepository, wanted: string | undefined): string {
  const serial = settings.get(ESS_SERIAL_SETTING) ?? wanted ?? DEFAULT_ESS_SERIAL;
  if (wanted === undefined || wanted === serial) return serial;
  throw new FlashlunError(
    'CONFIG_INVALID',
    `--ess-serial ${wanted} refused: this data directory is ESS ${serial}, and hosts know its ` +
      `volumes by that serial. Leave --ess-serial out, or use another --data directory.`,
  );
}

/** Readers see the old content or the new, never half of it. Mode 0600. */
export function writeFileAtomically(file: string, content: string): void {
  const temporary = `${file}.${process.pid}.tmp`;
  try {
    writeFileSync(temporary, content, { mode: 0o600, flush: true });
    renameSync(temporary, file);
  } catch (error) {
    rmSync(temporary, { force: true });
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
