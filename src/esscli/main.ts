/**
 * Entry of `bin/rsExecuteTask`: one command line in, the transcript on stdout, one line of reason
 * on stderr.
 */

import os from 'node:os';
import type { ClientDeadlines } from '../base/api-client.js';
import { ignoreClosedPipes, nonEmpty, oneLine } from '../base/command-line.js';
import { FlashlunError } from '../base/errors.js';
import { parseArguments } from './arguments.js';
import { EXIT, type ExitCode, executeTasks, type LocalHost, StepFailure } from './execute-task.js';
import { MESSAGES, USAGE } from './messages.js';
import { type LineSink, Transcript } from './transcript.js';

/** The surroundings of one run; tests give their own. */
export interface RsContext {
  readonly env: NodeJS.ProcessEnv;
  readonly host: LocalHost;
  readonly stdout: LineSink;
  readonly stderr: LineSink;
  /** How long the server may take; the usual deadlines when not given. */
  readonly deadlines?: ClientDeadlines;
}

/** Runs rsExecuteTask with `args` and returns the exit code. Never throws. */
export async function run(args: readonly string[], context: RsContext): Promise<ExitCode> {
  let transcript = new Transcript(context.stdout, false);
  try {
    const parsed = parseArguments(args, context.env);
    if (parsed.help) {
      context.stdout.write(USAGE);
      return EXIT.ok;
    }
    transcript = new Transcript(context.stdout, parsed.verbose);
    await executeTasks(parsed, context.host, transcript, context.deadlines);
    transcript.outcome(MESSAGES.successful);
    return EXIT.ok;
  } catch (error) {
    return report(error, context, transcript);
  }
}

/** The process: `run` with the real surroundings. */
export async function main(): Promise<void> {
  ignoreClosedPipes();
  const { argv, env, stdout, stderr } = process;
  process.exitCode = await run(argv.slice(2), { env, host: localHost(env), stdout, stderr });
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

/** The transcript ends as a transcript does; why goes to stderr, once, in a line of its own. */
function report(error: unknown, context: RsContext, transcript: Transcript): ExitCode {
  const reason = error instanceof Error ? error.message : String(error);
  context.stderr.write(`rsExecuteTask: ${oneLine(reason)}\n`);
  if (error instanceof FlashlunError && error.code === 'USAGE') return EXIT.usage;
  if (error instanceof StepFailure) error.lines.forEach((line) => transcript.outcome(line));
  transcript.outcome(MESSAGES.unsuccessful);
  return error instanceof StepFailure ? error.exit : EXIT.taskFailed;
}
