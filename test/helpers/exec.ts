/**
 * Running commands with a deadline; a failure shows the command, its exit code and what it printed.
 */
import { spawn } from 'node:child_process';

/** Shorter than the time limit of an integration test, so that its clean-up still runs. */
const DEFAULT_DEADLINE_MS = 60_000;
/** Output kept of each stream; the tools used here print far less. */
const MAX_OUTPUT_BYTES = 16 * 1024 * 1024;

export interface ExecOptions {
  readonly deadlineMs?: number;
  readonly input?: string | Uint8Array;
  readonly env?: Readonly<Record<string, string>>;
  readonly cwd?: string;
}

export interface ExecResult {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** Kills a child with everything it started: it leads its own process group. */
export function killGroup(pid: number): void {
  try {
    process.kill(-pid, 'SIGKILL');
  } catch {
    // It ended meanwhile.
  }
}

/**
 * Runs a command to its end, whatever its exit code. Rejects when it cannot start, is killed or
 * takes too long.
 */
export function exec(
  command: string,
  args: readonly string[],
  options: ExecOptions = {},
): Promise<ExecResult> {
  const deadlineMs = options.deadlineMs ?? DEFAULT_DEADLINE_MS;
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, {
      stdio: ['pipe', 'pipe', 'pipe'],
      detached: true,
      cwd: options.cwd,
      env: { ...process.env, ...options.env },
    });
    const output = { stdout: '', stderr: '' };
    let late = false;
    const timer = setTimeout(() => {
      late = true;
      if (child.pid !== undefined) killGroup(child.pid);
    }, deadlineMs);
    for (const stream of ['stdout', 'stderr'] as const) {
      child[stream].setEncoding('utf8').on('data', (chunk: string) => {
        if (output[stream].length < MAX_OUTPUT_BYTES) output[stream] += chunk;
      });
    }
    child.on('error', (error) => {
      clearTimeout(timer);
      reject(error);
    });
    child.on('close', (code, signal) => {
      clearTimeout(timer);
      if (code !== null) return resolve({ code, ...output });
      const why = late
        ? `took more than ${deadlineMs} ms`
        : `was killed by ${signal ?? 'a signal'}`;
      reject(new Error(`${describe(command, args)} ${why}\n${output.stdout}${output.stderr}`));
    });
    // A command that does not read its input ends before all is written; its exit code tells what
    // matters.
    child.stdin.on('error', () => undefined);
    child.stdin.end(options.input);
  });
}

/** Runs a command that must succeed and returns what it printed on stdout. */
export async function ok(
  command: string,
  args: readonly string[],
  options: ExecOptions = {},
): Promise<string> {
  const result = await exec(command, args, options);
  if (result.code !== 0) {
    throw new Error(
      `${describe(command, args)} ended with exit code ${result.code}\n` +
        result.stdout +
        result.stderr,
    );
  }
  return result.stdout;
}

function describe(command: string, args: readonly string[]): string {
  return [command, ...args].join(' ');
}
