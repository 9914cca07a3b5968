/**
 * What every command gets from the outside, and the frame around commands that talk to a server.
 */

import type { Command } from 'commander';
import { ApiClient } from '../base/api-client.js';
import { FlashlunError } from '../base/errors.js';
import { type ConnectionFlags, resolveConnection } from './connection.js';
import { formatJson } from './output.js';

export interface TextSink {
  write(text: string): unknown;
  readonly isTTY?: boolean;
}

/** The surroundings of one run; tests give their own. */
export interface CliContext {
  readonly env: NodeJS.ProcessEnv;
  readonly cwd: string;
  readonly stdout: TextSink;
  readonly stderr: TextSink;
}

/** The user pressed Ctrl-C while the command was only watching: what it watched goes on. */
export class Interrupted extends Error {}

/** The command has said all there is to say and ends with this exit code. */
export class EndedWith extends Error {
  readonly exitCode: number;

  constructor(exitCode: number) {
    super(`exit code ${exitCode}`);
    this.exitCode = exitCode;
  }
}

/** Logs in with the command's global options, does `work`, logs out. @throws FlashlunError */
export async function withApi(
  context: CliContext,
  command: Command,
  work: (api: ApiClient) => Promise<void>,
): Promise<void> {
  const flags = command.optsWithGlobals<ConnectionFlags>();
  const connection = resolveConnection(flags, context.env, context.cwd);
  const api = new ApiClient(connection.server);
  await api.logIn(connection.user, connection.password);
  try {
    await work(api);
  } finally {
    await api.logOut();
  }
}

/** Writes `value` as JSON when the command has `--json`, else `text()`. */
export function print(
  context: CliContext,
  command: Command,
  value: unknown,
  text: () => string,
): void {
  const json = command.opts<{ json?: boolean }>().json === true;
  context.stdout.write(json ? formatJson(value) : text());
}

/** A number of seconds of an option. @throws FlashlunError USAGE unless positive */
export function parseSeconds(text: string): number {
  const seconds = /^\d{1,9}(\.\d{1,3})?$/.test(text) ? Number(text) : 0;
  if (seconds > 0) return seconds;
  throw new FlashlunError('USAGE', `'${text}' is not a number of seconds. Write for example 60.`);
}

/** Adds the option that every list and show has. */
export function jsonOption(command: Command): Command {
  return command.option('--json', 'print the answer as JSON, for programs');
}
