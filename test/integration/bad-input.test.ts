/**
 * What a server must refuse at its start, and what must not shake a running one: each refusal is
 * one clear line with the right exit code, and nothing has changed after it.
 */
import { createHash } from 'node:crypto';
import { open, readdir, readFile, rm, truncate } from 'node:fs/promises';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { type Scope, scoped } from '../helpers/cleanup.js';
import type { ExecResult } from '../helpers/exec.js';
import { NbdClient } from '../helpers/nbd-client.js';
import { refusedStart, type Server, startServer } from '../helpers/server.js';

const USAGE = 2;
const SERVER_ERROR = 4;
const SUPERBLOCKS_AT = [0, 4096, 2 ** 20 - 8192, 2 ** 20 - 4096];
const SUPERBLOCK_COPIES = SUPERBLOCKS_AT.length;

/**
 * One line for people, after the log's lines of JSON, that says all of `words`; and the exit code.
 */
function expectRefusal(result: ExecResult, code: number, ...words: string[]): void {
  const lines = result.stderr.split('\n').filter((line) => !line.startsWith('{"level":'));
  expect(lines).toEqual([expect.stringMatching(/^flashlun: ./), '']);
  for (const word of words) expect(lines[0]).toContain(word);
  expect({ code: result.code, line: lines[0] }).toEqual({ code, line: lines[0] });
}

/** Hashes of everything below a folder but sockets, to see that nothing changed. */
async function fingerprint(dir: string): Promise<Record<string, string>> {
  const entries = await readdir(dir, { recursive: true, withFileTypes: true });
  const hashes: [string, string][] = [];
  for (const entry of entries.filter((each) => each.isFile())) {
    const path = join(entry.parentPath, entry.name);
    hashes.push([
      path,
      createHash('sha256')
        .update(await readFile(path))
        .digest('hex'),
    ]);
  }
  return Object.fromEntries(hashes.sort());
}

/** A server that was used and stopped; its data directory. */
async function usedDataDir(scope: Scope): Promise<string> {
  // A small pool file: fingerprint() reads all of it.
  const server = await startServer(scope);
  await writePattern(server);
  await server.api.establish(['1203:1303'], true);
  await server.stop();
  return server.data;
}

const PATTERN = Buffer.alloc(65_536, 'flashlun');

async function writePattern(server: Server): Promise<void> {
  const client = await NbdClient.open({ path: server.unixPath }, '1203');
  await client.write(0, PATTERN);
  await client.flush();
  client.close();
}

async function expectPattern(server: Server): Promise<void> {
  for (const volume of ['1203', '1303']) {
    const client = await NbdClient.open({ path: server.unixPath }, volume);
    expect((await client.read(0, PATTERN.length)).equals(PATTERN)).toBe(true);
    client.close();
  }
}

/** Inverts bytes of a file. */
async function damage(
  path: string,
  ranges: readonly { at: number; length: number }[],
): Promise<void> {
  const file = await open(path, 'r+');
  try {
    for (const { at, length } of ranges) {
      const bytes = Buffer.alloc(length);
      await file.read(bytes, 0, length, at);
      await file.write(
        bytes.map((byte) => byte ^ 0xff),
        0,
        length,
        at,
      );
    }
  } finally {
    await file.close();
  }
}

function superblocks(copies: number): { at: number; length: number }[] {
  return SUPERBLOCKS_AT.slice(0, copies).map((at) => ({ at: at + 8, length: 64 }));
}

describe('addresses', () => {
  test('the HTTP port is taken', () =>
    scoped(async (scope) => {
      const port = await takenPort(scope);
      const data = join(await scope.tempDir(), 'data');
      const refused = await refusedStart(data, { args: ['--http', `127.0.0.1:${port}`] });
      expectRefusal(refused, SERVER_ERROR, `127.0.0.1:${port}`, '--http');
    }));

  test('the NBD port is taken', () =>
    scoped(async (scope) => {
      const port = await takenPort(scope);
      const data = join(await scope.tempDir(), 'data');
      const refused = await refusedStart(data, { args: ['--nbd', `127.0.0.1:${port}`] });
      expectRefusal(refused, SERVER_ERROR, `127.0.0.1:${port}`, '--nbd');
    }));

  test("another server's unix socket is not taken away, a dead server's is", () =>
    scoped(async (scope) => {
      const first = await startServer(scope);
      const other = join(await scope.tempDir(), 'data');
      const args = ['--nbd-unix', first.unixPath];
      expectRefusal(await refusedStart(other, { args }), SERVER_ERROR, first.unixPath);
      await writePattern(first);
      await first.kill9();
      await startServer(scope, { data: other, args });
    }));

  test('an address that is not loopback needs a word of consent', () =>
    scoped(async (scope) => {
      const data = join(await scope.tempDir(), 'data');
      const nbd = await refusedStart(data, { args: ['--nbd', '0.0.0.0:0'] });
      expectRefusal(nbd, USAGE, '--insecure-nbd');
      const http = await refusedStart(data, { args: ['--http', '0.0.0.0:0'] });
      expectRefusal(http, USAGE, '--insecure-http');
    }));

  test('nonsense for an address, a flag and a config file', () =>
    scoped(async (scope) => {
      const data = join(await scope.tempDir(), 'data');
      const bad = async (args: string[], ...words: string[]) =>
        expectRefusal(await refusedStart(data, { args }), USAGE, ...words);
      await bad(['--nbd', 'nowhere'], 'nowhere');
      await bad(['--http', '127.0.0.1:99999'], '99999');
      await bad(['--no-such-flag'], '--no-such-flag');
      await bad(['--config', join(data, 'missing.yaml')], 'missing.yaml');
    }));
});

describe('data directory', () => {
  test('a second server on the same data directory is refused, the first goes on', () =>
    scoped(async (scope) => {
      const first = await startServer(scope);
      await writePattern(first);
      await first.api.establish(['1203:1303'], true);
      expectRefusal(await refusedStart(first.data), SERVER_ERROR, first.data);
      await expectPattern(first);
      expect(JSON.parse(await readFile(join(first.data, 'flashlun.json'), 'utf8'))).toMatchObject({
        pid: first.pid,
      });
      await first.stop();
      await expectPattern(await startServer(scope, { data: first.data }));
    }));

  test('a damaged superblock stops the start and changes nothing', () =>
    scoped(async (scope) => {
      const data = await usedDataDir(scope);
      const meta = join(data, 'pool/meta');
      await damage(meta, superblocks(SUPERBLOCK_COPIES));
      const before = await fingerprint(data);
      expectRefusal(await refusedStart(data), SERVER_ERROR, meta);
      expect(await fingerprint(data)).toEqual(before);

      // With the damage undone, everything is there.
      await damage(meta, superblocks(SUPERBLOCK_COPIES));
      await expectPattern(await startServer(scope, { data }));
    }));

  test('damage to some copies of the superblock is survived', () =>
    scoped(async (scope) => {
      const data = await usedDataDir(scope);
      await damage(join(data, 'pool/meta'), superblocks(SUPERBLOCK_COPIES - 1));
      await expectPattern(await startServer(scope, { data }));
    }));

  test.each([
    ['meta', 'removed', (path: string) => rm(path)],
    ['tracks', 'removed', (path: string) => rm(path)],
    ['tracks', 'cut short', (path: string) => truncate(path, 100)],
    ['tracks', 'of another pool', (path: string) => damage(path, [{ at: 0, length: 4096 }])],
  ] as const)('a pool file that is not what it was: %s %s', (name, _, change) =>
    scoped(async (scope) => {
      const data = await usedDataDir(scope);
      await change(join(data, 'pool', name));
      const before = await fingerprint(data);
      expectRefusal(await refusedStart(data), SERVER_ERROR, join(data, 'pool', name));
      expect(await fingerprint(data)).toEqual(before);
    }),
  );

  test('a damaged metadata database', () =>
    scoped(async (scope) => {
      const data = await usedDataDir(scope);
      const database = join(data, 'flashlun.sqlite');
      const header = [{ at: 0, length: 64 }];
      await damage(database, header);
      const before = await readFile(database);
      expectRefusal(await refusedStart(data), SERVER_ERROR, database);
      expect(before.equals(await readFile(database))).toBe(true);
      await damage(database, header);
      await expectPattern(await startServer(scope, { data }));
    }));

  test('a path that cannot be a data directory', () =>
    scoped(async (scope) => {
      const data = join(await scope.tempDir(), 'file');
      await (await open(data, 'w')).close();
      expectRefusal(await refusedStart(data), SERVER_ERROR, data);
    }));

  test('settings that were fixed at the first start', () =>
    scoped(async (scope) => {
      const first = await startServer(scope, { args: ['--ess-serial', '22399'] });
      const { data } = first;
      await first.stop();
      const args = ['--pool-capacity', '2G'];
      expectRefusal(await refusedStart(data, { args }), USAGE, '--pool-capacity', 'first start');
      await rm(join(data, 'flashlun.sqlite'));
      expectRefusal(await refusedStart(data), USAGE, '--ess-serial', 'lost');
      const again = await startServer(scope, { data, args: ['--ess-serial', '22399'] });
      expect(await again.api.volume('1203')).toMatchObject({ serial: '20322399' });
    }));

  test('an empty administrator password, before anything is made', () =>
    scoped(async (scope) => {
      const data = join(await scope.tempDir(), 'data');
      const env = { FLASHLUN_ADMIN_PASSWORD: '' };
      expectRefusal(await refusedStart(data, { env }), USAGE, 'FLASHLUN_ADMIN_PASSWORD');
      await expect(readdir(data)).rejects.toThrow('ENOENT');
    }));

  test('an array that was emptied stays empty', () =>
    scoped(async (scope) => {
      const first = await startServer(scope);
      for (const id of ['1203', '1204', '1205', '1206', '1303', '1304']) {
        await first.api.call('DELETE', `/v1/volumes/${id}`);
      }
      await first.stop();
      const second = await startServer(scope, { data: first.data });
      expect(await second.api.call('GET', '/v1/volumes')).toEqual({ volumes: [] });
    }));

  test('the password file is only for its owner', () =>
    scoped(async (scope) => {
      const server = await startServer(scope);
      const file = await open(join(server.data, 'admin-password'));
      const { mode } = await file.stat();
      await file.close();
      expect((mode & 0o777).toString(8)).toBe('600');
    }));
});

/** A port of the loopback address that something else listens on. */
async function takenPort(scope: Scope): Promise<number> {
  const listener = createServer();
  await new Promise<void>((resolve) => listener.listen(0, '127.0.0.1', resolve));
  scope.defer('close the listener', () => listener.close());
  const address = listener.address();
  if (address === null || typeof address === 'string') throw new Error('no port');
  return address.port;
}
