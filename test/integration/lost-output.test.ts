/** A log or summary that nobody can take must not cost the service. */
import { type ChildProcess, spawn } from 'node:child_process';
import { closeSync, constants, openSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { errnoOf } from '../../src/base/command-line.js';
import { type Scope, scoped } from '../helpers/cleanup.js';
import { killGroup, ok } from '../helpers/exec.js';
import { NbdClient } from '../helpers/nbd-client.js';
import { FLASHLUN } from '../helpers/server.js';
import { until } from '../helpers/wait.js';

type Output = 'ignore' | number;

async function start(scope: Scope, stdout: Output, stderr: Output) {
  const data = join(await scope.tempDir(), 'data');
  const child = spawn(
    FLASHLUN,
    ['serve', '--data', data, '--http', '127.0.0.1:0', '--nbd', 'none', '--log-level', 'debug'],
    { stdio: ['ignore', stdout, stderr], detached: true },
  );
  scope.defer('stop the server', () => {
    killGroup(child.pid!);
  });
  const open = () => NbdClient.open({ path: join(data, 'nbd.sock') }, '1203');
  const first = await until('a client to be served', () => open().catch(() => undefined), {
    deadlineMs: 20_000,
  });
  first.close();
  return { child, open };
}

async function expectOrderlyEnd(child: ChildProcess): Promise<void> {
  child.kill('SIGTERM');
  await until('the end', () => child.exitCode !== null || child.signalCode !== null, {
    deadlineMs: 10_000,
  });
  expect([child.exitCode, child.signalCode]).toEqual([0, null]);
}

test('stdout and stderr on a full disk', () =>
  scoped(async (scope) => {
    const full = openFile(scope, '/dev/full', constants.O_WRONLY);
    const { child, open } = await start(scope, full, full);
    const client = await open();
    await client.read(0, 4096);
    client.close();
    await expectOrderlyEnd(child);
  }));

test('stderr is a full pipe that nobody reads', () =>
  scoped(async (scope) => {
    const fifo = join(await scope.tempDir(), 'stderr');
    await ok('mkfifo', [fifo]);
    // The server gets a blocking descriptor, as a shell's pipe is one.
    const stderr = openFile(scope, fifo, constants.O_RDWR);
    fill(openFile(scope, fifo, constants.O_RDWR | constants.O_NONBLOCK));
    const { child, open } = await start(scope, 'ignore', stderr);
    const client = await open();
    await client.read(0, 4096);
    client.close();
    await expectOrderlyEnd(child);
  }));

function openFile(scope: Scope, path: string, flags: number): number {
  const fd = openSync(path, flags);
  scope.defer('close a file', () => {
    closeSync(fd);
  });
  return fd;
}

/** To the last byte: what is left after large writes may still take a log line. */
function fill(fd: number): void {
  for (const size of [4096, 1]) {
    try {
      for (;;) writeSync(fd, Buffer.alloc(size, '\n'));
    } catch (error) {
      if (errnoOf(error) !== 'EAGAIN') throw error;
    }
  }
}
