/**
 * The path of a unix socket outlives a server that was killed, and bind() refuses a path that
 * exists. So before listening: somebody answers there, or it is a leftover and is removed.
 */

import { lstat, stat, unlink } from 'node:fs/promises';
import { connect } from 'node:net';
import { dirname } from 'node:path';
import { FlashlunError } from '../base/errors.js';
import { LIMITS } from '../base/limits.js';

/**
 * Makes `path` free to listen on. Only a socket that refuses connections is ever removed.
 *
 * @throws FlashlunError ADDRESS_IN_USE a server answers there, or something else has that name
 * @throws FlashlunError ADDRESS_UNUSABLE the path is too long or may not be examined
 */
export async function clearStaleSocket(path: string): Promise<void> {
  if (Buffer.byteLength(path) > LIMITS.unixPathBytes) {
    throw new FlashlunError(
      'ADDRESS_UNUSABLE',
      `cannot listen on ${path}: a unix socket's path is at most ${LIMITS.unixPathBytes} bytes. ` +
        'Choose a shorter one with --nbd-unix PATH.',
    );
  }
  await checkFolder(path);
  const kind = await kindOf(path);
  if (kind === 'nothing') return;
  if (kind === 'other') {
    throw new FlashlunError(
      'ADDRESS_IN_USE',
      `cannot listen on ${path}: a file that is not a socket has this name. ` +
        'Remove it or choose another path with --nbd-unix PATH.',
    );
  }
  if (await isAnswered(path)) {
    throw new FlashlunError(
      'ADDRESS_IN_USE',
      `cannot listen on ${path}: another server answers there. ` +
        'Stop it or choose another path with --nbd-unix PATH.',
    );
  }
  await removeLeftover(path);
}

/** bind() says "permission denied" for a missing folder (libuv's doing), which helps nobody. */
async function checkFolder(path: string): Promise<void> {
  const folder = dirname(path);
  const isFolder = await stat(folder).then(
    (found) => found.isDirectory(),
    () => false,
  );
  if (isFolder) return;
  throw new FlashlunError(
    'ADDRESS_UNUSABLE',
    `cannot listen on ${path}: there is no folder ${folder}. ` +
      'Create it or choose another path with --nbd-unix PATH.',
  );
}

async function kindOf(path: string): Promise<'nothing' | 'socket' | 'other'> {
  try {
    return (await lstat(path)).isSocket() ? 'socket' : 'other';
  } catch (error) {
    if (hasCode(error, 'ENOENT')) return 'nothing';
    throw unusable(path, error);
  }
}

/** Whether somebody listens. When in doubt (no permission, full backlog, silence): yes. */
function isAnswered(path: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(path);
    const decide = (answered: boolean): void => {
      socket.destroy();
      resolve(answered);
    };
    socket.setTimeout(LIMITS.unixProbeMs, () => decide(true));
    socket.once('connect', () => decide(true));
    socket.once('error', (error) => {
      decide(!hasCode(error, 'ECONNREFUSED') && !hasCode(error, 'ENOENT'));
    });
  });
}

async function removeLeftover(path: string): Promise<void> {
  try {
    await unlink(path);
  } catch (error) {
    if (!hasCode(error, 'ENOENT')) throw unusable(path, error);
  }
}

function unusable(path: string, cause: unknown): FlashlunError {
  const why = cause instanceof Error ? cause.message : String(cause);
  return new FlashlunError('ADDRESS_UNUSABLE', `cannot listen on ${path}: ${why}`, { cause });
}

/** Whether `error` is the operating system's error `code`. */
export function hasCode(error: unknown, code: string): boolean {
  return error instanceof Error && 'code' in error && error.code === code;
}
