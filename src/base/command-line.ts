/**
 * Small things that every command of ours does the same way: one-line errors, closed pipes,
 * passwords from files.
 */

import { readFileSync } from 'node:fs';
import { FlashlunError } from './errors.js';

/**
 * Text on one line without control characters, so that an error stays one line whatever a server
 * or file put in it.
 */
export function oneLine(text: string): string {
  return text
    .replace(/\s*[\r\n]+\s*/g, ' ')
    .replace(/\p{Cc}/gu, '?')
    .trim();
}

/**
 * A reader of our output that has gone (`flashlun volume list | head -1`) is no error: the
 * command does what it was told, without anybody to read about it. It must not end the process,
 * which may be in the middle of a list of withdrawals, or be the server.
 */
export function ignoreClosedPipes(): void {
  process.stderr.on('error', () => {
    // There is no other place to say it.
  });
  process.stdout.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code === 'EPIPE') return;
    process.stderr.write(`cannot write the output: ${error.code ?? error.message}\n`);
    process.once('exit', () => {
      process.exitCode ||= LOST_OUTPUT_EXIT;
    });
  });
}

/** What was asked for was done, but whoever asked did not get the answer. */
const LOST_OUTPUT_EXIT = 4;

/**
 * A password as given on a command line: `@FILE` is the content of a file without its final
 * newline, `@-` the same of standard input, anything else the password itself. @throws
 * FlashlunError USAGE unreadable file
 */
export function readSecret(text: string): string {
  if (!text.startsWith('@')) return text;
  const file = text.slice(1);
  try {
    return readFileSync(file === '-' ? 0 : file, 'utf8').replace(/\r?\n$/, '');
  } catch (error) {
    throw new FlashlunError(
      'USAGE',
      `cannot read the password from ${file}: ${fileReason(error)}. Check the path after '@'.`,
      { cause: error },
    );
  }
}

const FILE_REASONS: Record<string, string> = {
  ENOENT: 'no such file',
  EACCES: 'permission denied',
  EISDIR: 'it is a directory',
  ENOTDIR: 'a part of the path is not a directory',
};

/** Why a file could not be read, in words. */
export function fileReason(error: unknown): string {
  const code = errnoOf(error);
  if (code === undefined) return error instanceof Error ? error.message : String(error);
  return FILE_REASONS[code] ?? code;
}

/** `ENOENT` and its kin; undefined when `error` is not from the system. */
export function errnoOf(error: unknown): string | undefined {
  if (!(error instanceof Error) || !('code' in error)) return undefined;
  return typeof error.code === 'string' ? error.code : undefined;
}

/** A variable that is set to nothing counts as not set, as in most shells' scripts. */
export function nonEmpty(text: string | undefined): string | undefined {
  return text === undefined || text === '' ? undefined : text;
}
