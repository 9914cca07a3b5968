// `flashlun pool check` on the files of a real server: refused while it runs, clean when it has
// stopped or was killed, and each verdict with its exit code.
import { createHash } from 'node:crypto';
import { open, readdir, readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { scoped } from '../helpers/cleanup.js';
import { NbdClient } from '../helpers/nbd-client.js';
import { refusedStart, type Server, startServer } from '../helpers/server.js';

/** Name, content and time of change of every file of the pool. */
async function fingerprint(server: Server): Promise<string[]> {
  const dir = join(server.data, 'pool');
  const names = (await readdir(dir)).sort();
  return Promise.all(
    names.map(async (name) => {
      const file = join(dir, name);
      const digest = createHash('sha256')
        .update(await readFile(file))
        .digest('hex');
      return `${name} ${digest} ${(await stat(file, { bigint: true })).mtimeNs}`;
    }),
  );
}

async function flipBit(server: Server, name: string, offset: number): Promise<void> {
  const file = await open(join(server.data, 'pool', name), 'r+');
  try {
    const byte = Buffer.alloc(1);
    await file.read(byte, 0, 1, offset);
    byte[0] = byte[0]! ^ 1;
    await file.write(byte, 0, 1, offset);
  } finally {
    await file.close();
  }
}

async function write(server: Server): Promise<void> {
  const client = await NbdClient.open({ path: server.unixPath }, '20313698');
  try {
    await client.write(0, Buffer.alloc(65_536, 0xa5));
  } finally {
    client.close();
  }
}

interface Report {
  readonly verdict: string;
  readonly found: Record<string, number>;
  readonly findings: readonly { severity: string; file: string; place: string; text: string }[];
  readonly usedTracks: number;
}

/** The report, once as JSON and once as text; no file may change. */
async function check(server: Server, exitCode: number): Promise<{ report: Report; text: string }> {
  const before = await fingerprint(server);
  const json = await server.flashlun('pool', 'check', '--json');
  const plain = await server.flashlun('pool', 'check', join(server.data, 'pool'));
  expect({ code: json.code, stderr: json.stderr }).toEqual({ code: exitCode, stderr: '' });
  expect({ code: plain.code, stderr: plain.stderr }).toEqual({ code: exitCode, stderr: '' });
  expect(await fingerprint(server)).toEqual(before);
  const report = JSON.parse(json.stdout) as Report;
  expect(plain.stdout.trimEnd().split('\n').at(-1)).toMatch(new RegExp(`^${report.verdict}: `));
  return { report, text: plain.stdout };
}

test('a running server has the pool; afterwards it is clean', () =>
  scoped(async (scope) => {
    const server = await startServer(scope);
    await write(server);
    const refused = await server.flashlun('pool', 'check');
    expect(refused).toMatchObject({ code: 4, stdout: '' });
    expect(refused.stderr).toMatch(/^flashlun: .*stop the server first\n$/);
    await server.kill9();
    const killed = await check(server, 0);
    expect(killed.report).toMatchObject({ verdict: 'clean', findings: [], usedTracks: 1 });
    expect(killed.text).toMatch(/closed in order +no/);
    const again = await startServer(scope, { data: server.data });
    await again.stop();
    const stopped = await check(server, 0);
    expect(stopped.text).toMatch(/closed in order +yes/);
    expect(stopped.text).toMatch(/volumes +\d+, and 0 relationships/);
  }));

test('recoverable and damaged, and the server keeps what they promise', () =>
  scoped(async (scope) => {
    const server = await startServer(scope);
    await write(server);
    await server.stop();
    await flipBit(server, 'meta', 4096 + 100);
    const { report, text } = await check(server, 7);
    expect(report).toMatchObject({ verdict: 'recoverable', found: { harmless: 1, loss: 0 } });
    expect(text).toMatch(/harmless +meta +superblock copy 1 +does not match its checksum/);
    const again = await startServer(scope, { data: server.data });
    await again.stop();
    await check(server, 0);
    await flipBit(server, 'tracks', 20);
    const damaged = await check(server, 4);
    expect(damaged.report.findings[0]).toMatchObject({ severity: 'loss', file: 'tracks' });
    expect((await refusedStart(server.data)).code).toBe(4);
  }));

test('no pool there', () =>
  scoped(async (scope) => {
    const server = await startServer(scope);
    const { code, stdout, stderr } = await server.flashlun('pool', 'check', '/nonexistent');
    expect({ code, stdout }).toEqual({ code: 6, stdout: '' });
    expect(stderr).toMatch(/^flashlun: \/nonexistent: there is no such directory\n$/);
  }));
