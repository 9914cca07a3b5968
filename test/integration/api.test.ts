/**
 * The whole server through its HTTP API, with data written over NBD: what survives a restart, what
 * FlashCopy gives, how background copy behaves, what the files in DATA say.
 */
import { readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { parse as parseYaml } from 'yaml';
import { Scope, scoped } from '../helpers/cleanup.js';
import { exec } from '../helpers/exec.js';
import { NbdClient } from '../helpers/nbd-client.js';
import { FLASHLUN, refusedStart, type Server, startServer } from '../helpers/server.js';
import { until } from '../helpers/wait.js';

const MIB = 2 ** 20;
const TRACK = 65_536;
const WAIT = { deadlineMs: 30_000 };

/** `bytes` of one value at the begin of a volume, flushed. */
async function fill(server: Server, volume: string, value: number, bytes: number): Promise<void> {
  const client = await NbdClient.open({ path: server.unixPath }, volume);
  for (let offset = 0; offset < bytes; offset += MIB) {
    await client.write(offset, Buffer.alloc(Math.min(MIB, bytes - offset), value));
  }
  await client.flush();
  client.close();
}

/** Which values the begin of a volume holds; one if all is well. */
async function valuesOf(server: Server, volume: string, bytes: number): Promise<number[]> {
  const client = await NbdClient.open({ path: server.unixPath }, volume);
  const seen = new Set<number>();
  for (let offset = 0; offset < bytes; offset += MIB) {
    for (const byte of await client.read(offset, Math.min(MIB, bytes - offset))) seen.add(byte);
  }
  client.close();
  return [...seen];
}

async function outOfSync(server: Server, pair: string): Promise<number | undefined> {
  const found = (await server.api.flashcopies()).find(({ id }) => id === pair);
  return found?.outOfSyncTracks;
}

/** The value of one sample of /metrics. */
async function metric(server: Server, sample: string): Promise<number | undefined> {
  const text = await (await fetch(`${server.addresses.http}/metrics`)).text();
  const line = text.split('\n').find((each) => each.startsWith(`${sample} `));
  return line === undefined ? undefined : Number(line.slice(sample.length + 1));
}

async function logIn(server: Server, password: string): Promise<{ status: number; token: string }> {
  const response = await fetch(`${server.addresses.http}/v1/session`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ user: 'admin', password }),
  });
  const body = (await response.json()) as { token?: string };
  return { status: response.status, token: body.token ?? '' };
}

/** Registers a command line client; the reply string. */
async function register(server: Server, token: string): Promise<string> {
  const response = await fetch(`${server.addresses.http}/v1/copyservices/registration`, {
    method: 'POST',
    headers: { 'content-type': 'text/plain', authorization: `Bearer ${token}` },
    body: '102,3,7ffb00bf007f,rich-w2k-os-1,192.168.10.2,false,false',
  });
  return response.text();
}

async function adminPassword(server: Server): Promise<string> {
  return (await readFile(join(server.data, 'admin-password'), 'utf8')).trim();
}

async function modeOf(path: string): Promise<string> {
  return ((await stat(path)).mode & 0o777).toString(8);
}

describe('start and stop', () => {
  test('the first start makes the demo array and a private data directory', () =>
    scoped(async (scope) => {
      const server = await startServer(scope);
      const { volumes } = await server.api.call<{ volumes: { serial: string }[] }>(
        'GET',
        '/v1/volumes',
      );
      expect(volumes.map(({ serial }) => serial)).toEqual([
        '20313698',
        '20413698',
        '20513698',
        '20613698',
        '30313698',
        '30413698',
      ]);
      expect(await modeOf(server.data)).toBe('700');
      for (const file of ['admin-password', 'flashlun.sqlite', 'flashlun.json', 'nbd.sock']) {
        expect(`${file} ${await modeOf(join(server.data, file))}`).toBe(`${file} 600`);
      }
      expect(await readFile(join(server.data, 'flashlun.pid'), 'utf8')).toBe(`${server.pid}\n`);
      const password = await adminPassword(server);
      await until('the summary', () => server.log.includes('Ready.'), WAIT);
      for (const part of [password, server.tcpUri('20313698'), server.unixUri('20313698')]) {
        expect(server.log).toContain(part);
      }
      expect((await fetch(`${server.addresses.http}/readyz`)).status).toBe(200);
      const array = await server.api.call<{ nbd: object }>('GET', '/v1/array');
      const tls = { tls: 'off', tlsCredentials: 'none' };
      expect(array.nbd).toEqual({ ...server.addresses.nbd, ...tls });
    }));

  test('SIGTERM with clients and a copy under way ends in good order', () =>
    scoped(async (scope) => {
      const server = await startServer(scope, { args: ['--copy-rate', '0.1'] });
      await fill(server, '1203', 1, 4 * MIB);
      await server.api.establish(['1203:1303'], false);
      const client = await NbdClient.open({ path: server.unixPath }, '1204');
      await client.write(0, Buffer.alloc(4096, 7));
      await server.stop();
      for (const file of ['flashlun.json', 'flashlun.pid']) {
        await expect(stat(join(server.data, file))).rejects.toThrow(/ENOENT/);
      }
      client.close();
    }));

  test('volumes, users, sessions, tasks and the client id survive a restart', () =>
    scoped(async (scope) => {
      const first = await startServer(scope);
      await first.api.createVolume('15', 5 * MIB, 'kept');
      const task = { name: 'T', type: 'withdraw', pairs: [{ source: '1203', target: '1303' }] };
      await first.api.call('POST', '/v1/tasks', task);
      const password = await adminPassword(first);
      const { token } = await logIn(first, password);
      expect(await register(first, token)).toBe('102,513,fffb00bf007f,339454995,0');
      await first.stop();
      const second = await startServer(scope, { data: first.data });
      expect(await second.api.volume('kept')).toMatchObject({ id: '1500', sizeBytes: 5 * MIB });
      expect(await second.api.call('POST', '/v1/tasks/T/run')).toMatchObject({
        status: 'completed',
      });
      expect(await register(second, token)).toBe('102,513,fffb00bf007f,339454996,0');
      expect(await logIn(second, password)).toMatchObject({ status: 201 });
      expect(second.log).not.toContain(password);
    }));

  test('FLASHLUN_ADMIN_PASSWORD is the password, also later', () =>
    scoped(async (scope) => {
      const start = (password: string, data?: string) =>
        startServer(scope, {
          env: { FLASHLUN_ADMIN_PASSWORD: password },
          ...(data === undefined ? {} : { data }),
        });
      const first = await start('first');
      expect(await logIn(first, 'first')).toMatchObject({ status: 201 });
      expect(first.log).not.toMatch(/password first/);
      await first.stop();
      const second = await start('second', first.data);
      expect(await logIn(second, 'first')).toMatchObject({ status: 401 });
      expect(await logIn(second, 'second')).toMatchObject({ status: 201 });
      // The helper reads the file, as the command line does.
      await second.api.volume('1203');
    }));

  test('the ESS serial is the one of the first start', () =>
    scoped(async (scope) => {
      const first = await startServer(scope, { args: ['--ess-serial', 'FCA01'] });
      expect(await first.api.volume('1203')).toMatchObject({ serial: '203FCA01' });
      await first.stop();
      const refused = await refusedStart(first.data, { args: ['--ess-serial', '13698'] });
      expect(refused.code).toBe(2);
      expect(refused.stderr).toMatch(/^flashlun: --ess-serial 13698 refused: .*ESS FCA01.*\n$/);
      const second = await startServer(scope, { data: first.data });
      expect(await second.api.volume('203FCA01')).toMatchObject({ id: '1203' });
    }));

  test('a start that fails leaves no user, no volume and no address behind', () =>
    scoped(async (scope) => {
      const other = await startServer(scope);
      const data = join(await scope.tempDir(), 'data');
      const refused = await refusedStart(data, { args: ['--nbd-unix', other.unixPath] });
      expect(refused.code).toBe(4);
      for (const file of ['flashlun.json', 'flashlun.pid', 'admin-password']) {
        await expect(stat(join(data, file))).rejects.toThrow(/ENOENT/);
      }
      const server = await startServer(scope, { data, args: ['--no-demo'] });
      expect(await server.api.call('GET', '/v1/volumes')).toEqual({ volumes: [] });
      await until('the summary', () => server.log.includes('Ready.'), WAIT);
      expect(server.log).toContain('log in    user admin, password');
    }));

  test('--print-config prints the configuration and starts nothing', () =>
    scoped(async (scope) => {
      const data = join(await scope.tempDir(), 'data');
      const args = ['serve', '--data', data, '--print-config', '--copy-rate', '20'];
      const { code, stdout } = await exec(FLASHLUN, args, { env: { FLASHLUN_NBD: 'none' } });
      expect(code).toBe(0);
      expect(parseYaml(stdout)).toMatchObject({ data, nbd: 'none', 'copy-rate': '20' });
      await expect(stat(data)).rejects.toThrow(/ENOENT/);
    }));
});

describe('FlashCopy', () => {
  test('several targets of one source, at two times, while everything is written to', () =>
    scoped(async (scope) => {
      const server = await startServer(scope, { args: ['--copy-rate', '4'] });
      const bytes = 4 * MIB;
      await fill(server, '1203', 1, bytes);
      await server.api.establish(['1203:1303', '1203:1204'], true);
      await fill(server, '1203', 2, bytes);
      await server.api.establish(['1203:1304'], false);
      await fill(server, '1203', 3, bytes);
      await fill(server, '1204', 4, bytes / 2);
      expect(await valuesOf(server, '1203', bytes)).toEqual([3]);
      expect(await valuesOf(server, '1303', bytes)).toEqual([1]);
      expect(await valuesOf(server, '1304', bytes)).toEqual([2]);
      expect(await valuesOf(server, '1204', bytes)).toEqual([4, 1]);
      await server.api.copied('1203:1304');
      const left = (await server.api.flashcopies()).map(({ id, copyMode }) => `${id} ${copyMode}`);
      expect(left).toEqual(['1203:1204 nocopy', '1203:1303 nocopy']);
      await server.api.withdraw('1203:1303');
      await server.api.withdraw('1203:1204');
      await fill(server, '1203', 5, bytes);
      expect(await valuesOf(server, '1303', bytes)).toEqual([1]);
      expect(await valuesOf(server, '1304', bytes)).toEqual([2]);
    }));

  test('out-of-sync tracks, metrics and the copy rate', () =>
    scoped(async (scope) => {
      const server = await startServer(scope, { args: ['--copy-rate', '2'] });
      const tracks = (4 * MIB) / TRACK;
      await fill(server, '1203', 1, 4 * MIB);
      expect(await metric(server, 'flashlun_volume_write_bytes_total{volume="1203"}')).toBe(
        4 * MIB,
      );
      expect(await metric(server, 'flashlun_volume_used_bytes{volume="1203"}')).toBe(4 * MIB);
      await server.api.establish(['1203:1204'], true);
      const nocopy = 'flashlun_flashcopy_out_of_sync_tracks{source="1203",target="1204"}';
      expect(await metric(server, nocopy)).toBe(tracks);
      // A host write to the target takes its tracks out of the relationship.
      await fill(server, '1204', 2, MIB);
      expect(await outOfSync(server, '1203:1204')).toBe(tracks - MIB / TRACK);

      const startedMs = performance.now();
      await server.api.establish(['1203:1303'], false);
      await server.api.copied('1203:1303');
      const seconds = (performance.now() - startedMs) / 1000;
      // 4 MiB at 2 MB/s; the last batch is not waited for after it is done.
      expect(seconds).toBeGreaterThan(1.5);
      expect(await metric(server, 'flashlun_flashcopy_copied_tracks_total')).toBe(tracks);
      expect(await metric(server, 'flashlun_flashcopy_relationships{mode="copy"}')).toBe(0);
      expect(await metric(server, 'flashlun_flashcopy_established_total')).toBe(2);
    }));

  test('more copies than places: all of them end', () =>
    scoped(async (scope) => {
      const server = await startServer(scope);
      await fill(server, '1203', 9, 2 * MIB);
      const targets: string[] = [];
      for (let number = 0; number < 9; number += 1) {
        targets.push((await server.api.createVolume('14', 2 ** 30)).serial);
      }
      await server.api.establish(
        targets.map((target) => `1203:${target}`),
        false,
      );
      await until(
        'the end of all copies',
        async () => (await server.api.flashcopies()).length === 0,
        WAIT,
      );
      for (const target of targets) expect(await valuesOf(server, target, 2 * MIB)).toEqual([9]);
      expect(await metric(server, 'flashlun_flashcopy_copied_tracks_total')).toBe(9 * 32);
    }));

  test.each(['SIGTERM', 'SIGKILL'] as const)(
    'a background copy in its middle goes on after %s and a restart',
    (signal) =>
      scoped(async (scope) => {
        const bytes = 8 * MIB;
        const first = await startServer(scope, { args: ['--copy-rate', '2'] });
        await fill(first, '1203', 1, bytes);
        await first.api.establish(['1203:1303', '1203:1304'], false);
        await fill(first, '1203', 2, bytes);
        await untilHalfDone(first, '1203:1303', bytes / TRACK);
        await (signal === 'SIGTERM' ? first.stop() : first.kill9());
        await expectResumed(scope, first.data, bytes);
      }),
  );

  test('a withdraw in the middle of a background copy ends both, and the target is complete', () =>
    scoped(async (scope) => {
      const server = await startServer(scope, { args: ['--copy-rate', '0.5'] });
      await fill(server, '1203', 1, 4 * MIB);
      await server.api.establish(['1203:1303'], false);
      await untilHalfDone(server, '1203:1303', (4 * MIB) / TRACK);
      await server.api.withdraw('1203:1303');
      await fill(server, '1203', 2, 4 * MIB);
      expect(await server.api.flashcopies()).toEqual([]);
      expect(await valuesOf(server, '1303', 4 * MIB)).toEqual([1]);
      await until(
        'the end of its job',
        async () => (await metric(server, 'flashlun_flashcopy_active_copies')) === 0,
        WAIT,
      );
      expect(server.log).not.toContain('given up');
    }));
});

async function untilHalfDone(server: Server, pair: string, tracks: number): Promise<void> {
  await until(
    `some of ${pair} is copied`,
    async () => {
      const left = await outOfSync(server, pair);
      if (left === undefined) throw new Error(`${pair} ended before it was half done`);
      return left > 0 && left < tracks;
    },
    WAIT,
  );
}

async function expectResumed(scope: Scope, data: string, bytes: number): Promise<void> {
  const server = await startServer(scope, { data, args: ['--copy-rate', '8'] });
  await server.api.copied('1203:1303');
  await server.api.copied('1203:1304');
  await fill(server, '1203', 3, bytes);
  expect(await valuesOf(server, '1303', bytes)).toEqual([1]);
  expect(await valuesOf(server, '1304', bytes)).toEqual([1]);
}

describe('refusals change nothing', () => {
  const shared = new Scope();
  let server: Server;
  beforeAll(async () => {
    server = await startServer(shared);
    await server.api.createVolume('12', MIB, 'small');
    await fill(server, '1304', 5, MIB);
    await server.api.establish(['1203:1303'], true);
  });
  afterAll(() => shared.close());

  test.each([
    ['an unknown volume', '1203:1999', 404, 'VOLUME_NOT_FOUND'],
    ['source = target', '1203:20313698', 409, 'FC_SAME_VOLUME'],
    ['a smaller target', '1203:small', 409, 'FC_SIZE_MISMATCH'],
    ['a target in a relationship', '1204:1303', 409, 'FC_TARGET_IN_USE'],
  ])('establish with %s', async (_what, pair, status, code) => {
    const before = await server.api.flashcopies();
    const [source, target] = pair.split(':');
    const reply = await server.api.request('POST', '/v1/flashcopies', {
      // A good pair beside it must not be done either.
      pairs: [
        { source: '1205', target: '1304' },
        { source, target },
      ],
      options: { force: true },
    });
    expect(reply).toMatchObject({ status, body: { code } });
    expect(await server.api.flashcopies()).toEqual(before);
    expect(await valuesOf(server, '1304', MIB)).toEqual([5]);
  });

  test('an attached volume is not deleted', async () => {
    await fill(server, '1206', 6, MIB);
    const client = await NbdClient.open({ path: server.unixPath }, '1206');
    const reply = await server.api.request('DELETE', '/v1/volumes/1206');
    expect(reply).toMatchObject({ status: 409, body: { code: 'VOLUME_IN_USE' } });
    expect((await client.read(0, 4096)).every((byte) => byte === 6)).toBe(true);
    client.close();
    await until(
      'the detachment',
      async () => (await server.api.volume('1206')).attached === 0,
      WAIT,
    );
    expect((await server.api.request('DELETE', '/v1/volumes/1206')).status).toBe(204);
  });
});
