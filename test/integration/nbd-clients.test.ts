/**
 * What real clients make of block status, holes, several connections and 4Kn volumes. Each of them
 * over each transport is in client-matrix.test.ts, their reading and writing in detail in
 * real-clients.test.ts.
 */
import { readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { Scope, scoped } from '../helpers/cleanup.js';
import { ok } from '../helpers/exec.js';
import { NbdPeer } from '../helpers/nbd-peer.js';
import { CMD, clientFlags } from '../helpers/nbd-wire.js';
import { Random } from '../helpers/random.js';
import { requires } from '../helpers/requires.js';
import { type Server, startServer } from '../helpers/server.js';
import { wnbdAsk, wnbdAttach } from '../helpers/wnbd.js';

const MIB = 2 ** 20;

const scope = new Scope();
let server: Server;

beforeAll(async () => {
  server = await startServer(scope);
});
afterAll(() => scope.close());

interface Lun {
  readonly id: string;
  readonly serial: string;
  readonly uri: string;
}

/** A LUN of 64 MiB with data at 1 MiB (3 MiB long) and at 40 MiB (4 KiB). */
async function sparseLun(): Promise<Lun> {
  const { id, serial } = await server.api.createVolume('12', 64 * MIB);
  const peer = await NbdPeer.attach({ path: server.unixPath }, serial);
  const random = new Random(9);
  await peer.ask({ type: CMD.write, offset: MIB, data: random.bytes(3 * MIB) });
  await peer.ask({ type: CMD.write, offset: 40 * MIB, data: random.bytes(4096) });
  await peer.ask({ type: CMD.flush });
  peer.close();
  return { id, serial, uri: server.unixUri(serial) };
}

async function emptyLun(lss = '12'): Promise<Lun> {
  const { id, serial } = await server.api.createVolume(lss, 64 * MIB);
  return { id, serial, uri: server.unixUri(serial) };
}

interface MapEntry {
  readonly offset: number;
  readonly length: number;
  readonly type: number;
}

async function nbdMap(uri: string, context = 'base:allocation'): Promise<MapEntry[]> {
  return JSON.parse(await ok('nbdinfo', ['--json', `--map=${context}`, uri])) as MapEntry[];
}

function bytesOf(map: readonly MapEntry[], type: number): number {
  return map.reduce((sum, entry) => sum + (entry.type === type ? entry.length : 0), 0);
}

describe('nbdinfo', () => {
  test('shows what the server can do, and its contexts', async (context) => {
    requires(context, 'nbdinfo');
    const { uri } = await sparseLun();
    const info = JSON.parse(await ok('nbdinfo', ['--json', uri])) as {
      exports: Record<string, unknown>[];
    };
    expect(info.exports[0]).toMatchObject({
      can_cache: true,
      can_df: true,
      can_fast_zero: true,
      can_multi_conn: true,
      contexts: ['base:allocation', 'qemu:allocation-depth'],
      block_size_minimum: 1,
      block_size_preferred: 4096,
      block_size_maximum: 32 * MIB,
    });
  });

  test('--map: the totals are what was written', async (context) => {
    requires(context, 'nbdinfo');
    const { uri } = await sparseLun();
    const map = await nbdMap(uri);
    expect(bytesOf(map, 0)).toBe(3 * MIB + 4096);
    expect(bytesOf(map, 2)).toBe(65_536 - 4096); // The rest of the last track: zero, with space.
    expect(bytesOf(map, 3)).toBe(61 * MIB - 65_536);
    expect(map[1]).toMatchObject({ offset: MIB, length: 3 * MIB, type: 0 });
  });

  test('--map of depth and of changes, through a copy', async (context) => {
    requires(context, 'nbdinfo');
    const source = await sparseLun();
    const target = await emptyLun('13');
    await server.api.establish([`${source.id}:${target.id}`], true);
    const depth = 'qemu:allocation-depth';
    expect(bytesOf(await nbdMap(source.uri, depth), 1)).toBe(3 * MIB + 4096);
    expect(bytesOf(await nbdMap(target.uri, depth), 2)).toBe(3 * MIB + 4096);
    const bitmap = `qemu:dirty-bitmap:fc-${source.id}-${target.id}`;
    expect(await nbdMap(source.uri, bitmap)).toMatchObject([{ length: 64 * MIB, type: 0 }]);
    const peer = await NbdPeer.attach({ path: server.unixPath }, source.serial);
    await peer.ask({ type: CMD.write, offset: 20 * MIB, data: Buffer.alloc(65_536, 1) });
    peer.close();
    expect(await nbdMap(source.uri, bitmap)).toMatchObject([
      { offset: 0, length: 20 * MIB, type: 0 },
      { offset: 20 * MIB, length: 65_536, type: 1 },
      { offset: 20 * MIB + 65_536, length: 44 * MIB - 65_536, type: 0 },
    ]);
  });
});

describe('QEMU', () => {
  test('qemu-img map finds data and holes', async (context) => {
    requires(context, 'qemu-img');
    const { uri } = await sparseLun();
    const map = JSON.parse(await ok('qemu-img', ['map', '--output=json', uri])) as {
      start: number;
      length: number;
      data: boolean;
      zero: boolean;
    }[];
    const bytes = (data: boolean, zero: boolean): number =>
      map.reduce(
        (sum, each) => sum + (each.data === data && each.zero === zero ? each.length : 0),
        0,
      );
    expect(bytes(true, false)).toBe(3 * MIB + 4096);
    expect(bytes(false, true) + bytes(true, true)).toBe(61 * MIB - 4096);
  });

  test('qemu-img convert leaves out the holes', (context) =>
    scoped(async (own) => {
      requires(context, 'qemu-img');
      const { uri } = await sparseLun();
      const image = join(await own.tempDir(), 'image');
      await ok('qemu-img', ['convert', '-f', 'raw', '-O', 'raw', uri, image]);
      await ok('qemu-img', ['compare', '-f', 'raw', '-F', 'raw', image, uri]);
      expect((await stat(image)).blocks * 512).toBeLessThan(5 * MIB);
      // And back: the new LUN uses no more than the old one.
      const back = await emptyLun();
      await ok('qemu-img', ['convert', '-n', '-f', 'raw', '-O', 'raw', image, back.uri]);
      const { usedBytes } = await server.api.call<{ usedBytes: number }>(
        'GET',
        `/v1/volumes/${back.id}`,
      );
      expect(usedBytes).toBeLessThanOrEqual(4 * MIB + 65_536);
      await ok('qemu-img', ['compare', '-f', 'raw', '-F', 'raw', uri, back.uri]);
    }));

  test('x-dirty-bitmap, for incremental backups, shows changes since T0', async (context) => {
    requires(context, 'qemu-img');
    const source = await sparseLun();
    const target = await emptyLun('13');
    await server.api.establish([`${source.id}:${target.id}`], true);
    const peer = await NbdPeer.attach({ path: server.unixPath }, source.serial);
    await peer.ask({ type: CMD.write, offset: 2 * MIB, data: Buffer.alloc(65_536, 1) });
    peer.close();
    const options =
      `driver=nbd,server.type=unix,server.path=${server.unixPath},export=${source.serial},` +
      `x-dirty-bitmap=qemu:dirty-bitmap:fc-${source.id}-${target.id}`;
    const map = JSON.parse(
      await ok('qemu-img', ['map', '--output=json', '--image-opts', options]),
    ) as { start: number; length: number; data: boolean }[];
    // QEMU shows what is dirty as not data.
    expect(map.filter((each) => !each.data)).toMatchObject([{ start: 2 * MIB, length: 65_536 }]);
  });

  test('a 4Kn volume is one for QEMU too', async (context) => {
    requires(context, 'qemu-io');
    const body = { lss: '12', sizeBytes: 16 * MIB, blockBytes: 4096 };
    const { serial } = await server.api.call<{ serial: string }>('POST', '/v1/volumes', body);
    // QEMU reads, merges and writes whole blocks for a write of 512 bytes.
    const commands = ['write -P 0xaa 512 512', 'read -P 0xaa 512 512', 'read -P 0 1024 3072'];
    const args = commands.flatMap((command) => ['-c', command]);
    const output = await ok('qemu-io', ['-f', 'raw', ...args, server.unixUri(serial)]);
    expect(output).not.toMatch(/fail|mismatch/i);
  });
});

describe('nbdcopy with four connections', () => {
  const flags = ['--connections=4', '--requests=64'];

  test('from LUN to LUN keeps bytes and holes', async (context) => {
    requires(context, 'nbdcopy');
    const source = await sparseLun();
    const target = await emptyLun();
    await ok('nbdcopy', [...flags, '--flush', source.uri, target.uri]);
    const { usedBytes } = await server.api.call<{ usedBytes: number }>(
      'GET',
      `/v1/volumes/${target.id}`,
    );
    expect(usedBytes).toBeLessThanOrEqual(4 * MIB);
    const peers = await Promise.all(
      [source, target].map(({ serial }) =>
        NbdPeer.attach(server.tcp, serial, { structured: true }),
      ),
    );
    for (let offset = 0; offset < 64 * MIB; offset += 16 * MIB) {
      const read = { type: CMD.read, offset, length: 16 * MIB };
      const [one, other] = await Promise.all(peers.map((peer) => peer.ask(read)));
      expect(one?.data.equals(other?.data ?? Buffer.alloc(0))).toBe(true);
    }
    for (const peer of peers) peer.close();
  });

  test('to a file, which becomes sparse', (context) =>
    scoped(async (own) => {
      requires(context, 'nbdcopy');
      const { uri, serial } = await sparseLun();
      const file = join(await own.tempDir(), 'file');
      await ok('nbdcopy', [...flags, uri, file]);
      const bytes = await readFile(file);
      expect(bytes.length).toBe(64 * MIB);
      expect((await stat(file)).blocks * 512).toBeLessThan(5 * MIB);
      const peer = await NbdPeer.attach(server.tcp, serial);
      const data = await peer.ask({ type: CMD.read, offset: MIB, length: 3 * MIB });
      expect(bytes.subarray(MIB, 4 * MIB).equals(data.data)).toBe(true);
      peer.close();
    }));
});

test("a 4Kn volume serves wnbd's 512-byte blocks", async () => {
  const body = { lss: '12', sizeBytes: 64 * MIB, blockBytes: 4096 };
  const { serial } = await server.api.call<Lun>('POST', '/v1/volumes', body);
  const raw = await NbdPeer.greeted(server.tcp);
  raw.send(clientFlags());
  await wnbdAttach(raw, serial, 64 * MIB);
  const data = new Random(5).bytes(512);
  await wnbdAsk(raw, { type: CMD.write, offset: 1536, data });
  const block = await wnbdAsk(raw, { type: CMD.read, offset: 0, length: 4096 });
  expect(block.subarray(1536, 2048).equals(data)).toBe(true);
  raw.close();
});
