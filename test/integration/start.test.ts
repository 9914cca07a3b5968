/** The two scripts a newcomer runs: set-up that does nothing the second time, and npm start. */
import { spawn } from 'node:child_process';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { scoped } from '../helpers/cleanup.js';
import { killGroup, ok } from '../helpers/exec.js';
import { ROOT } from '../helpers/server.js';
import { until } from '../helpers/wait.js';

const SETUP = join(ROOT, 'scripts/setup');
const SECOND_SETUP_MS = 5_000;
const DEADLINE_MS = 30_000;

test('a second set-up does nothing, and says nothing', async () => {
  await ok(SETUP, [], { deadlineMs: 150_000 });
  const startedAt = performance.now();
  expect(await ok(SETUP, [])).toBe('');
  expect(performance.now() - startedAt).toBeLessThan(SECOND_SETUP_MS);
});

test('npm start passes arguments on, and a signal to npm ends the server in order', async () => {
  await scoped(async (scope) => {
    const data = join(await scope.tempDir(), 'data');
    const addresses = ['--http', '127.0.0.1:0', '--nbd', '127.0.0.1:0'];
    const npm = spawn('npm', ['start', '--', '--data', data, ...addresses], {
      cwd: ROOT,
      stdio: ['ignore', 'pipe', 'pipe'],
      detached: true,
    });
    scope.defer('stop npm start', () => killGroup(npm.pid!));
    let output = '';
    for (const stream of [npm.stdout, npm.stderr]) {
      stream.setEncoding('utf8').on('data', (chunk: string) => (output += chunk));
    }
    const diagnosis = () => output;
    await until('the server', () => output.includes('Ready.'), {
      deadlineMs: DEADLINE_MS,
      diagnosis,
    });
    const pid = Number(await readFile(join(data, 'flashlun.pid'), 'utf8'));

    npm.kill('SIGTERM');
    await until('the end of npm', () => npm.exitCode !== null || npm.signalCode !== null, {
      deadlineMs: DEADLINE_MS,
      diagnosis,
    });
    await until('the end of the server', () => !exists(pid), {
      deadlineMs: DEADLINE_MS,
      diagnosis,
    });
    // Removed by an orderly stop only.
    await expect(readFile(join(data, 'flashlun.pid'))).rejects.toThrow('ENOENT');
  });
});

function exists(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
}
