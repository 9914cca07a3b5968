/**
 * Which server, as whom, with what password.
 *
 * Flags win over the environment, the environment over what a data directory says. A data
 * directory serves three things: DATA/flashlun.json the address, `admin` the user,
 * DATA/admin-password the password. The password of a data directory is used only for the server
 * of that directory (or when `--data` says so): a `--server` elsewhere must not be sent the local
 * administrator's password because of the folder the command was typed in.
 */

import { existsSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { DEFAULT_API_PORT, parseServerUrl } from '../base/api-client.js';
import { errnoOf, fileReason, nonEmpty, readSecret } from '../base/command-line.js';
import { FlashlunError } from '../base/errors.js';

/** The global options that say how to reach the server. */
export interface ConnectionFlags {
  readonly server?: string;
  readonly user?: string;
  readonly password?: string;
  readonly data?: string;
}

export interface Connection {
  readonly server: string;
  readonly user: string;
  readonly password: string;
}

const DEFAULT_SERVER = `http://127.0.0.1:${DEFAULT_API_PORT}`;
const ADMIN = 'admin';

/**
 * Finds server, user and password.
 * @param cwd where `./data` is looked for
 * @throws FlashlunError USAGE, CANNOT_CONNECT (no server has the data directory open),
 * UNAUTHENTICATED (no password)
 */
export function resolveConnection(
  flags: ConnectionFlags,
  env: NodeJS.ProcessEnv,
  cwd: string,
): Connection {
  const dataDir = findDataDir(flags, env, cwd);
  const named =
    flags.server ?? (flags.data === undefined ? nonEmpty(env['FLASHLUN_SERVER']) : undefined);
  const server = parseServerUrl(named ?? serverOfDataDir(dataDir) ?? DEFAULT_SERVER);
  const user = flags.user ?? nonEmpty(env['FLASHLUN_USER']) ?? ADMIN;
  const passwordDir = named === undefined || flags.data !== undefined ? dataDir : undefined;
  return { server, user, password: findPassword(flags, env, user, passwordDir) };
}

/** An explicit directory, or ./data when a server left its address there. */
function findDataDir(
  flags: ConnectionFlags,
  env: NodeJS.ProcessEnv,
  cwd: string,
): string | undefined {
  const named = flags.data ?? nonEmpty(env['FLASHLUN_DATA']);
  if (named !== undefined) return path.resolve(cwd, named);
  const usual = path.join(cwd, 'data');
  return existsSync(path.join(usual, 'flashlun.json')) ? usual : undefined;
}

function serverOfDataDir(dataDir: string | undefined): string | undefined {
  if (dataDir === undefined) return undefined;
  const file = path.join(dataDir, 'flashlun.json');
  let content: string;
  try {
    content = readFileSync(file, 'utf8');
  } catch (error) {
    throw new FlashlunError(
      'CANNOT_CONNECT',
      `no server is running on ${dataDir}: ${file}: ${fileReason(error)}. ` +
        `Start one with 'flashlun serve --data ${dataDir}', or name a server with --server.`,
      { cause: error },
    );
  }
  const address = addressIn(content);
  if (address !== undefined) return address;
  throw new FlashlunError(
    'CANNOT_CONNECT',
    `${file} holds no server address. Restart the server of that directory, or use --server.`,
  );
}

function addressIn(json: string): string | undefined {
  try {
    const value = JSON.parse(json) as { http?: unknown } | null;
    return typeof value?.http === 'string' ? value.http : undefined;
  } catch {
    // A torn or foreign file says as little as one without an address.
    return undefined;
  }
}

function findPassword(
  flags: ConnectionFlags,
  env: NodeJS.ProcessEnv,
  user: string,
  dataDir: string | undefined,
): string {
  if (flags.password !== undefined) return readSecret(flags.password);
  const fromEnv = nonEmpty(env['FLASHLUN_PASSWORD']);
  const fromFile = user === ADMIN && dataDir !== undefined ? adminPassword(dataDir) : undefined;
  // --data is a flag and so wins over the environment; a directory found by itself does not.
  const found = flags.data === undefined ? (fromEnv ?? fromFile) : (fromFile ?? fromEnv);
  if (found !== undefined) return found;
  throw new FlashlunError(
    'UNAUTHENTICATED',
    `no password for user ${user}. Give --password @FILE, set FLASHLUN_PASSWORD, ` +
      "or name the server's data directory with --data.",
  );
}

/** Undefined when there is no such file: the server was started with FLASHLUN_ADMIN_PASSWORD. */
function adminPassword(dataDir: string): string | undefined {
  const file = path.join(dataDir, 'admin-password');
  try {
    return readFileSync(file, 'utf8').trim();
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return undefined;
    throw new FlashlunError(
      'UNAUTHENTICATED',
      `cannot read ${file}: ${fileReason(error)}. Run as the server's user, or give --password.`,
      { cause: error },
    );
  }
}
