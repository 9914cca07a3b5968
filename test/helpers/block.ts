/**
 * An NBD export as a block device of this machine: nbdfuse makes a file of it, a loop device a disk
 * of that.
 */
import { spawn } from 'node:child_process';
import { mkdir, stat } from 'node:fs/promises';
import { join } from 'node:path';
import type { Scope } from './cleanup.js';
import { exec, killGroup, ok } from './exec.js';
import { findTool } from './requires.js';
import { until } from './wait.js';

const DEADLINE_MS = 20_000;

/** A disk that can be given back before the end of the scope. */
export interface AttachedDisk {
  /** For example /dev/loop0. */
  readonly device: string;
  detach(): Promise<void>;
}

/** Attaches an export (an NBD URI) below `dir`. Detached at the end of the scope at the latest. */
export async function attachDisk(
  scope: Scope,
  dir: string,
  nbdArguments: readonly string[],
): Promise<AttachedDisk> {
  const unmountFile = await mountFile(scope, dir, nbdArguments);
  const device = (await ok('losetup', ['--find', '--show', join(dir, 'nbd')])).trim();
  const detachLoop = once(() => releaseLoop(device));
  scope.defer(`detach ${device}`, detachLoop);
  return {
    device,
    detach: async () => {
      await detachLoop();
      await unmountFile();
    },
  };
}

/** Makes an export the file DIR/nbd, by nbdfuse. What it answers ends that, once. */
export async function mountFile(
  scope: Scope,
  dir: string,
  nbdArguments: readonly string[],
): Promise<() => Promise<void>> {
  await mkdir(dir, { recursive: true });
  const child = spawn('nbdfuse', [dir, ...nbdArguments], {
    stdio: ['ignore', 'ignore', 'pipe'],
    detached: true,
  });
  let errors = '';
  child.stderr.setEncoding('utf8').on('data', (chunk: string) => (errors += chunk));
  const ended = () => child.exitCode !== null || child.signalCode !== null;
  const unmount = once(async () => {
    await exec(findTool('fusermount3') ?? 'fusermount', ['-u', '-z', dir]);
    await until(`the end of nbdfuse on ${dir}`, ended, { deadlineMs: DEADLINE_MS }).catch(
      (error: unknown) => {
        if (child.pid !== undefined) killGroup(child.pid);
        throw error;
      },
    );
  });
  scope.defer(`unmount ${dir}`, unmount);
  await until(
    `the mount of ${nbdArguments.join(' ')}`,
    async () => {
      if (ended()) throw new Error(`nbdfuse ended: ${errors}`);
      return (await stat(join(dir, 'nbd')).catch(() => undefined))?.isFile();
    },
    { deadlineMs: DEADLINE_MS, diagnosis: () => errors },
  );
  return unmount;
}

/** A loop device over a file, detached at the end of the scope; its path. */
export async function attachLoop(scope: Scope, file: string): Promise<string> {
  const device = (await ok('losetup', ['--find', '--show', file])).trim();
  scope.defer(`detach ${device}`, () => releaseLoop(device));
  return device;
}

/**
 * `losetup --detach` of a busy device only marks it; the device is free when it has no backing file
 * any more.
 */
async function releaseLoop(device: string): Promise<void> {
  await ok('losetup', ['--detach', device]);
  await until(
    `the release of ${device}`,
    async () => (await exec('losetup', [device])).code !== 0,
    { deadlineMs: DEADLINE_MS },
  );
}

export interface Mounted {
  readonly path: string;
  unmount(): Promise<void>;
}

/** Mounts a device and unmounts it at the end of the scope at the latest. */
export async function mount(
  scope: Scope,
  device: string,
  path: string,
  command: readonly string[],
): Promise<Mounted> {
  await mkdir(path, { recursive: true });
  await ok(command[0]!, [...command.slice(1), device, path]);
  const unmount = once(async () => {
    await ok('umount', [path]);
  });
  scope.defer(`unmount ${path}`, unmount);
  return { path, unmount };
}

/** What a test may do early and the end of its scope does for certain must happen only once. */
function once(action: () => Promise<void>): () => Promise<void> {
  let done: Promise<void> | undefined;
  return () => (done ??= action());
}
