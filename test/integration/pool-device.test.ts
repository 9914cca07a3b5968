/**
 * A pool on a real block device: a loop device over a file. It is taken only when it is unused, is
 * held while the server runs, and what was acknowledged is there after SIGKILL.
 */
import { open, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { attachLoop, mount } from '../helpers/block.js';
import { type Scope, scoped } from '../helpers/cleanup.js';
import { type ExecResult, ok } from '../helpers/exec.js';
import { NbdClient } from '../helpers/nbd-client.js';
import { Random } from '../helpers/random.js';
import { requires } from '../helpers/requires.js';
import { type Server, startServer } from '../helpers/server.js';
import { until } from '../helpers/wait.js';

const MIB = 1024 * 1024;
const DEVICE_BYTES = 64 * MIB;
const LUN_BYTES = 8 * MIB;
const TRACK_BYTES = 65_536;
const TOOLS = ['root', 'losetup', 'mount', 'umount', 'mke2fs'] as const;

interface Device {
  readonly path: string;
  /** What a pool on it would overwrite first. */
  begin(): Promise<Buffer>;
}

async function device(scope: Scope, dir: string, name: string): Promise<Device> {
  const file = join(dir, name);
  await writeFile(file, '');
  await truncate(file, DEVICE_BYTES);
  const path = await attachLoop(scope, file);
  const begin = async (): Promise<Buffer> => {
    const handle = await open(path);
    const bytes = Buffer.alloc(MIB);
    await handle.read(bytes, 0, MIB, 0).finally(() => handle.close());
    return bytes;
  };
  return { path, begin };
}

async function flashlun(server: Server, line: string): Promise<string> {
  const { code, stdout, stderr } = await server.flashlun(...line.split(' '));
  expect({ line, code, stderr }).toEqual({ line, code: 0, stderr: '' });
  return stdout;
}

function createPool(server: Server, name: string, path: string): Promise<ExecResult> {
  return server.flashlun('pool', 'create', name, '--path', path);
}

async function expectRefused(server: Server, on: Device, why: RegExp): Promise<void> {
  const before = await on.begin();
  const { code, stderr } = await createPool(server, 'refused', on.path);
  expect(code).not.toBe(0);
  expect(stderr).toMatch(why);
  expect(stderr).toContain(on.path);
  expect((await on.begin()).equals(before)).toBe(true);
  expect(await flashlun(server, 'pool list')).not.toContain('refused');
}

/** A connection that ends with the server, or before. */
async function connect(scope: Scope, server: Server, name: string): Promise<NbdClient> {
  const client = await NbdClient.open({ path: server.unixPath }, name);
  scope.defer('close the client', () => client.close());
  return client;
}

function content(seed: number): Buffer {
  return new Random(seed).bytes(LUN_BYTES);
}

async function usedBytes(server: Server, pool: string): Promise<number> {
  const view = JSON.parse(await flashlun(server, `pool show ${pool} --json`)) as {
    usedBytes: number;
  };
  return view.usedBytes;
}

async function copied(server: Server): Promise<void> {
  await until(
    'the background copy',
    async () => {
      const list = await flashlun(server, 'flashcopy list --json');
      return (JSON.parse(list) as { flashcopies: unknown[] }).flashcopies.length === 0;
    },
    { deadlineMs: 30_000 },
  );
}

test('a pool on a block device keeps what it holds over SIGKILL', async (context) => {
  requires(context, ...TOOLS);
  await scoped(async (scope) => {
    const dir = await scope.tempDir();
    const disk = await device(scope, dir, 'disk');
    let server = await startServer(scope, { args: ['--no-demo'] });
    const data = server.data;
    expect((await createPool(server, 'fast', disk.path)).code).toBe(0);
    const made = JSON.parse(await flashlun(server, 'pool show fast --json')) as object;
    expect(made).toMatchObject({ path: disk.path, capacityBytes: DEVICE_BYTES - MIB });

    await flashlun(server, `volume create --id 1a10 --size ${LUN_BYTES}`);
    await flashlun(server, `volume create --id 1b10 --size ${LUN_BYTES} --pool fast`);
    await flashlun(server, `volume create --id 1c10 --size ${LUN_BYTES}`);
    const first = content(1);
    const source = await connect(scope, server, '1A10');
    await source.write(0, first);
    await source.flush();
    // Into the device's pool, whole; and out of it again, without a copy.
    await flashlun(server, 'flashcopy establish 1A10:1B10');
    await copied(server);
    expect(await usedBytes(server, 'fast')).toBe(LUN_BYTES);
    await flashlun(server, 'flashcopy establish 1B10:1C10 --nocopy');
    const target = await connect(scope, server, '1B10');
    const second = content(2).subarray(0, 5 * TRACK_BYTES);
    await target.write(3 * TRACK_BYTES, second);
    await target.flush();
    // Acknowledged, not flushed.
    const last = content(3).subarray(0, TRACK_BYTES);
    await target.write(0, last);

    await server.kill9();
    server = await startServer(scope, { data, args: ['--no-demo'] });
    const changed = Buffer.from(first);
    second.copy(changed, 3 * TRACK_BYTES);
    last.copy(changed);
    for (const [name, expected] of [
      ['1A10', first],
      ['1B10', changed],
      ['1C10', first],
    ] as const) {
      const client = await connect(scope, server, name);
      expect((await client.read(0, LUN_BYTES)).equals(expected), name).toBe(true);
      client.close();
    }
    await server.stop();
  });
});

test('a device is taken only when nothing else has it or is on it', async (context) => {
  requires(context, ...TOOLS);
  await scoped(async (scope) => {
    const dir = await scope.tempDir();
    const server = await startServer(scope, { args: ['--no-demo'] });
    const other = await startServer(scope, { args: ['--no-demo'] });

    const formatted = await device(scope, dir, 'formatted');
    await ok('mke2fs', ['-q', '-t', 'ext4', formatted.path]);
    await expectRefused(server, formatted, /holds data/);
    const mounted = await mount(scope, formatted.path, join(dir, 'mnt'), ['mount']);
    // Its file system may write to it meanwhile: what is there is not compared.
    expect((await createPool(server, 'refused', formatted.path)).stderr).toMatch(/in use/);
    await mounted.unmount();

    // What a backup of a partition table or a RAID member leaves is at the end.
    const tail = await device(scope, dir, 'tail');
    const handle = await open(tail.path, 'r+');
    await handle.write(Buffer.from('EFI PART'), 0, 8, DEVICE_BYTES - 512);
    await handle.close();
    await expectRefused(server, tail, /holds data/);

    const taken = await device(scope, dir, 'taken');
    expect((await createPool(other, 'theirs', taken.path)).code).toBe(0);
    await expectRefused(server, taken, /in use/);
    await other.stop();
    await expectRefused(server, taken, /belongs to pool/);
  });
});
