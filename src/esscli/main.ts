/**
 * Entry of the rs* commands: one command line in, the transcript on stdout, one line of reason on
 * stderr.
 *
 * One program for all of them: which one it is, is the name it was started by, in any case and with
 * the suffixes of the original (`rsPrimeServer.sh`, `RSPRIMESERVER.BAT`), or else its first word.
 */

import os from 'node:os';
import { CLIENT_DEADLINES, type ClientDeadlines } from '../base/api-client.js';
import { ignoreClosedPipes, nonEmpty, oneLine } from '../base/command-line.js';
import { FlashlunError } from '../base/errors.js';
import { parseArguments } from './arguments.js';
import type { EssCommand, LocalHost } from './command.js';
import { EXECUTE_TASK } from './commands/execute-task.js';
import { LIST_2105S } from './commands/list-2105s.js';
import { PRIME_SERVER } from './commands/prime-server.js';
import { FLASHCOPY_QUERY, QUERY } from './commands/queries.js';
import { QUERY_COMPLETE } from './commands/query-complete.js';
import { TEST_CONNECTION } from './commands/test-connection.js';
import { EXIT, type ExitCode, StepFailure } from './exit.js';
import { COMMON_HELP, MESSAGES } from './messages.js';
import { type LineSink, Transcript } from './transcript.js';

export const COMMANDS: readonly EssCommand[] = [
  LIST_2105S,
  PRIME_SERVER,
  EXECUTE_TASK,
  QUERY,
  QUERY_COMPLETE,
  FLASHCOPY_QUERY,
  TEST_CONNECTION,
];

/** The surroundings of one run; tests give their own. */
export interface RsContext {
  readonly env: NodeJS.ProcessEnv;
  readonly host: LocalHost;
  readonly stdout: LineSink;
  readonly stderr: LineSink;
  /** How long the server may take; the usual deadlines when not given. */
  readonly deadlines?: ClientDeadlines;
}

/** The command that a path or name means: `C:\ESScli\RSQUERY.BAT` is rsQuery. */
export function commandOf(path: string): EssCommand | undefined {
  const file = path.split(/[/\\]/).at(-1) ?? '';
  const name = file.toLowerCase().replace(/\.(sh|bat|cmd|exe|js|mjs|cjs)$/, '');
  return COMMANDS.find((command) => command.name.toLowerCase() === name);
}

/** Runs a command with `args` and returns the exit code. Never throws. */
export async function run(
  command: EssCommand,
  args: readonly string[],
  context: RsContext,
): Promise<ExitCode> {
  let transcript = new Transcript(context.stdout, context.stderr, false);
  try {
    const parsed = parseArguments(command, args, context.env);
    if (parsed.help) {
      context.stdout.write(helpOf(command));
      return EXIT.ok;
    }
    transcript = new Transcript(context.stdout, context.stderr, parsed.verbose);
    const { env, host } = context;
    const deadlines = context.deadlines ?? CLIENT_DEADLINES;
    await command.run({ spec: command, args: parsed, env, host, transcript, deadlines });
    if (command.saysSuccessful) transcript.outcome(MESSAGES.successful(command.name));
    return EXIT.ok;
  } catch (error) {
    return report(error, command, context, transcript);
  }
}

/** The process: `run` with the real surroundings. */
export async function main(): Promise<void> {
  ignoreClosedPipes();
  const { argv, argv0, env, execPath, stdout, stderr } = process;
  const words = argv.slice(2);
  const startedAs = [argv[1] ?? '', argv0, execPath].map(commandOf).find((found) => found);
  const command = startedAs ?? commandOf(words.shift() ?? '');
  if (command === undefined) {
    const names = COMMANDS.map(({ name }) => name).join(', ');
    stderr.write(`flashlun ESS CLI: start it by the name of a command, or name one: ${names}.\n`);
    process.exitCode = EXIT.usage;
    return;
  }
  process.exitCode = await run(command, words, { env, host: localHost(env), stdout, stderr });
}

/** RS_HOST or the host's name, and its first address that other machines can see. */
export function localHost(env: NodeJS.ProcessEnv): LocalHost {
  const addresses = Object.values(os.networkInterfaces()).flatMap((list) => list ?? []);
  const outside = addresses.find((each) => each.family === 'IPv4' && !each.internal);
  return {
    name: nonEmpty(env['RS_HOST']) ?? os.hostname(),
    address: outside?.address ?? '127.0.0.1',
  };
}

function helpOf(command: EssCommand): string {
  const server = command.server ? '[/u USER] [/p PASSWORD] /s SERVER' : '';
  const usage = ['Usage:', command.name, '[/v]', server, command.synopsis];
  const options = COMMON_HELP.options + (command.server ? COMMON_HELP.server : '');
  const first = usage.filter((part) => part !== '').join(' ');
  return `${first}\n\n${command.help}\n${options}${COMMON_HELP.notes}`;
}

/** The transcript ends as a transcript does; why goes to stderr, once, in a line of its own. */
function report(
  error: unknown,
  { name }: EssCommand,
  context: RsContext,
  transcript: Transcript,
): ExitCode {
  const reason = error instanceof Error ? error.message : String(error);
  context.stderr.write(`${name}: ${oneLine(reason)}\n`);
  if (error instanceof FlashlunError && error.code === 'USAGE') return EXIT.usage;
  if (error instanceof StepFailure) error.lines.forEach((line) => transcript.outcome(line));
  transcript.outcome(MESSAGES.unsuccessful(name));
  return error instanceof StepFailure ? error.exit : EXIT.taskFailed;
}
