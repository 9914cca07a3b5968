/**
 * Entry of `bin/flashlun`: runs one command line and turns what happened into one line and an
 * exit code.
 */

import { CommanderError } from 'commander';
import { AssertionFailure } from '../base/assert.js';
import { ignoreClosedPipes, oneLine } from '../base/command-line.js';
import { exitCodeOf, FlashlunError } from '../base/errors.js';
import { type CliContext, EndedWith, Interrupted } from './context.js';
import { buildProgram } from './program.js';

/** What a shell reports for a command ended by SIGINT. */
const INTERRUPTED_EXIT = 130;
const USAGE_EXIT = 2;

/**
 * Runs `flashlun` with `args` (without node and script name) and returns the exit code. Never
 * throws.
 */
export async function run(args: readonly string[], context: CliContext): Promise<number> {
  const program = buildProgram(context);
  try {
    await program.parseAsync(args, { from: 'user' });
    return 0;
  } catch (error) {
    return report(error, context);
  }
}

/** The process: `run` with the real surroundings. */
export async function main(): Promise<void> {
  ignoreClosedPipes();
  const { argv, env, stdout, stderr } = process;
  process.exitCode = await run(argv.slice(2), { env, cwd: process.cwd(), stdout, stderr });
}

function report(error: unknown, context: CliContext): number {
  if (error instanceof CommanderError) return reportUsage(error, context);
  if (error instanceof EndedWith) return error.exitCode;
  context.stderr.write(`flashlun: ${oneLine(messageOf(error))}\n`);
  return error instanceof Interrupted ? INTERRUPTED_EXIT : exitCodeOf(error);
}

/**
 * --help and --version end this way too. A command group alone shows its help, which then is the
 * error message.
 */
function reportUsage(error: CommanderError, context: CliContext): number {
  if (error.code === 'commander.help') return USAGE_EXIT;
  if (error.exitCode === 0) return 0;
  const reason = oneLine(error.message.replace(/^error: /, ''));
  const stop = /[.?!)]$/.test(reason) ? '' : '.';
  context.stderr.write(`flashlun: ${reason}${stop} Add --help to see what is possible.\n`);
  return USAGE_EXIT;
}

function messageOf(error: unknown): string {
  const worded = [FlashlunError, Interrupted, AssertionFailure];
  if (error instanceof Error && worded.some((type) => error instanceof type)) return error.message;
  const text = error instanceof Error ? error.message : String(error);
  return `unexpected error: ${text}. This is a bug; please report it with the command you typed.`;
}
