/** The mirror of the metadata with the real server: either file damaged or gone, content intact. */
import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { open, readFile, rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import type { Scope } from '../helpers/cleanup.js';
import { scoped } from '../helpers/cleanup.js';
import { NbdClient } from '../helpers/nbd-client.js';
import { refusedStart, type Server, startServer } from '../helpers/server.js';

const TRACK = 65_536;

interface PoolsView {
  readonly pools: readonly [
    { readonly metadataMirror: { state: string; path?: string; problem?: string } },
  ];
}

async function mirrorOf(server: Server): Promise<PoolsView['pools'][0]['metadataMirror']> {
  return (await server.api.call<PoolsView>('GET', '/v1/pools')).pools[0].metadataMirror;
}

async function withLun<T>(server: Server, use: (client: NbdClient) => Promise<T>): Promise<T> {
  const client = await NbdClient.open({ path: server.unixPath }, '20313698');
  try {
    return await use(client);
  } finally {
    client.close();
  }
}

/** Writes three tracks, flushed, and returns a digest of the LUN's beginning. */
async function fill(server: Server, seed: number): Promise<string> {
  await withLun(server, async (client) => {
    for (const track of [0, 3, 9])
      await client.write(track * TRACK, Buffer.alloc(TRACK, seed + track));
    await client.flush();
  });
  return digest(server);
}

async function digest(server: Server): Promise<string> {
  const content = await withLun(server, (client) => client.read(0, 10 * TRACK));
  return createHash('sha256').update(content).digest('hex');
}

async function damage(file: string, offset: number, length: number): Promise<void> {
  const handle = await open(file, 'r+');
  try {
    await handle.write(Buffer.alloc(length, 0x5a), 0, length, offset);
  } finally {
    await handle.close();
  }
}

async function setUp(scope: Scope): Promise<{ server: Server; mirror: string; meta: string }> {
  const dir = await scope.tempDir();
  const mirror = join(dir, 'mirror');
  const server = await startServer(scope, {
    data: join(dir, 'data'),
    args: ['--meta-mirror', mirror],
  });
  return { server, mirror, meta: join(server.data, 'pool/meta') };
}

test('either file may be damaged or gone, after a stop or a kill', () =>
  scoped(async (scope) => {
    const { server, mirror, meta } = await setUp(scope);
    expect(await mirrorOf(server)).toEqual({ state: 'in sync', path: mirror });
    expect((await server.flashlun('pool', 'list')).stdout).toContain(
      `metadata mirror: in sync, ${mirror}\n`,
    );
    let now = server;
    const losses = [
      () => damage(meta, 0, 2 ** 20), // all superblocks
      () => damage(meta, 2 ** 20, 2 ** 20), // the journal
      () => damage(meta, 2 ** 20 + 8192 * 4096, 65_536), // checkpoint pages
      () => rm(meta),
      () => damage(mirror, 16_384, 3 * 2 ** 20), // all but two superblocks and who it is
    ];
    for (const [round, lose] of losses.entries()) {
      const content = await fill(now, round);
      if (round % 2 === 0) await now.kill9();
      else await now.stop();
      await lose();
      const check = await now.flashlun('pool', 'check', '--json');
      expect({ round, code: check.code }).toEqual({ round, code: 7 });
      now = await startServer(scope, { data: server.data });
      expect(await digest(now)).toBe(content);
      expect(await mirrorOf(now)).toEqual({ state: 'in sync', path: mirror });
    }
    await now.stop();
    const [one, other] = await Promise.all([readFile(meta), readFile(mirror)]);
    one.fill(0, 8192, 12_288);
    other.fill(0, 8192, 12_288);
    expect(one.equals(other)).toBe(true);
  }));

test('a missing mirror is told, a file that is out of date is not used', () =>
  scoped(async (scope) => {
    const { server, mirror, meta } = await setUp(scope);
    await server.stop();
    await rename(mirror, `${mirror}.away`);
    const alone = await startServer(scope, { data: server.data });
    expect(await mirrorOf(alone)).toMatchObject({
      state: 'degraded',
      problem: expect.stringContaining('makes it anew') as string,
    });
    const metrics = await (await fetch(new URL('/metrics', alone.addresses.http))).text();
    expect(metrics).toContain('\nflashlun_metadata_mirror_state 2\n');
    const content = await fill(alone, 40);
    await alone.stop();
    await rename(`${mirror}.away`, mirror);
    await rename(meta, `${meta}.away`);
    const refused = await refusedStart(server.data);
    expect(refused.code).toBe(4);
    expect(refused.stderr).toMatch(/out of date/);
    await rename(`${meta}.away`, meta);
    const healed = await startServer(scope, { data: server.data });
    expect(await digest(healed)).toBe(content);
    expect((await mirrorOf(healed)).state).toBe('in sync');
    await healed.stop();
    const given = await startServer(scope, { data: server.data, args: ['--meta-mirror', 'none'] });
    expect(await mirrorOf(given)).toEqual({ state: 'none' });
    await given.stop();
    await rm(mirror);
    const later = await startServer(scope, { data: server.data });
    expect(await mirrorOf(later)).toEqual({ state: 'none' });
    expect(await digest(later)).toBe(content);
    expect(existsSync(mirror)).toBe(false);
  }));
