/** The NBD clients people use, each against the real server, over TCP and over the unix socket. */
import { open, readFile, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { Scope, scoped } from '../helpers/cleanup.js';
import { exec, ok } from '../helpers/exec.js';
import { Random } from '../helpers/random.js';
import { requires } from '../helpers/requires.js';
import { type Server, startServer } from '../helpers/server.js';

const MIB = 1024 * 1024;
const GIB = 1024 * MIB;
const SERIAL = '20313698';

const scope = new Scope();
let server: Server;

beforeAll(async () => {
  server = await startServer(scope);
});

afterAll(() => scope.close());

/** The same tests over both kinds of socket. */
const TRANSPORTS = [
  { transport: 'TCP', uri: (name: string) => server.tcpUri(name) },
  { transport: 'unix socket', uri: (name: string) => server.unixUri(name) },
] as const;

describe.each(TRANSPORTS)('$transport', ({ uri }) => {
  test('nbdinfo shows size and name, by serial and by volume id', async (context) => {
    requires(context, 'nbdinfo');
    for (const name of [SERIAL, '1203']) {
      expect(await ok('nbdinfo', ['--size', uri(name)])).toBe(`${GIB}\n`);
    }
    const info = JSON.parse(await ok('nbdinfo', ['--json', uri(SERIAL)])) as {
      protocol: string;
      exports: Record<string, unknown>[];
    };
    expect(info.protocol).toBe('newstyle-fixed');
    expect(info.exports[0]).toMatchObject({
      'export-name': SERIAL,
      'export-size': GIB,
      is_read_only: false,
      can_flush: true,
      can_fua: true,
      can_trim: true,
      can_zero: true,
      can_multi_conn: true,
    });
  });

  test('nbdinfo --list names every LUN of the array', async (context) => {
    requires(context, 'nbdinfo');
    const list = JSON.parse(await ok('nbdinfo', ['--list', '--json', uri('')])) as {
      exports: { 'export-name': string }[];
    };
    const names = list.exports.map((entry) => entry['export-name']);
    for (const serial of ['20313698', '20413698', '20513698', '20613698', '30313698', '30413698']) {
      expect(names).toContain(serial);
    }
  });

  test('an unknown export is refused and the next client is served', async (context) => {
    requires(context, 'nbdinfo');
    const refused = await exec('nbdinfo', [uri('no-such-lun')]);
    expect(refused.code).not.toBe(0);
    expect(refused.stderr).toContain('no-such-lun');
    await ok('nbdinfo', ['--size', uri(SERIAL)]);
  });

  test('nbdcopy to a LUN and back gives the same bytes', async (context) => {
    requires(context, 'nbdcopy');
    await scoped(async (own) => {
      const dir = await own.tempDir();
      const volume = await server.api.createVolume('12', 64 * MIB);
      const source = join(dir, 'source');
      const back = join(dir, 'back');
      await writeImage(source, 64 * MIB);
      await ok('nbdcopy', ['--flush', source, uri(volume.serial)]);
      await ok('nbdcopy', [uri(volume.serial), back]);
      await expectSame(source, back);
    });
  });

  test('qemu-img converts an image to a LUN, compares and converts back', async (context) => {
    requires(context, 'qemu-img');
    await scoped(async (own) => {
      const dir = await own.tempDir();
      const volume = await server.api.createVolume('12', 64 * MIB);
      const lun = uri(volume.serial);
      const [source, back] = [join(dir, 'source'), join(dir, 'back')];
      await writeImage(source, 64 * MIB);
      const info = JSON.parse(await ok('qemu-img', ['info', '--output=json', lun])) as {
        'virtual-size': number;
      };
      expect(info['virtual-size']).toBe(64 * MIB);
      await ok('qemu-img', ['convert', '-n', '-f', 'raw', '-O', 'raw', source, lun]);
      await ok('qemu-img', ['compare', '-f', 'raw', '-F', 'raw', source, lun]);
      await ok('qemu-img', ['convert', '-f', 'raw', '-O', 'raw', lun, back]);
      await expectSame(source, back);
    });
  });

  test('qemu-io: patterns at odd offsets, zeroes, discard and flush', async (context) => {
    requires(context, 'qemu-io');
    const volume = await server.api.createVolume('12', 16 * MIB);
    await qemuIo(uri(volume.serial), [
      'write -P 0xaa 0 1M',
      'write -P 0xbb 65024 1024', // Across a track boundary, in whole blocks of 512.
      'write -P 0xcc 1001 3', // Within one 4 KiB block.
      'read -P 0xaa 0 1001',
      'read -P 0xcc 1001 3',
      'read -P 0xaa 1004 64020',
      'read -P 0xbb 65024 1024',
      'write -z 131072 70000', // Ends within a 4 KiB block.
      'read -P 0 131072 70000',
      'read -P 0xaa 201072 512',
      'write -z -u 262144 65536',
      'read -P 0 262144 65536',
      'discard 393216 131072',
      'read -P 0 393216 131072',
      'read -P 0xaa 524288 524288',
      'write -f -P 0xdd 15M 1M', // With FUA, up to the last byte.
      'flush',
      'read -P 0xdd 15M 1M',
      'read -P 0 1M 14M', // Never written.
    ]);
  });

  test('fio verifies random writes with crc32c', async (context) => {
    requires(context, 'fio');
    const volume = await server.api.createVolume('12', 128 * MIB);
    await fio(uri(volume.serial), ['--bs=4k', '--iodepth=32', '--io_size=64m']);
    await fio(uri(volume.serial), [
      '--bsrange=512-256k',
      '--bs_unaligned=1',
      '--iodepth=8',
      '--io_size=64m',
    ]);
  });
});

test('what one connection wrote, another one reads at once', async (context) => {
  requires(context, 'qemu-io');
  const volume = await server.api.createVolume('12', 16 * MIB, 'shared-lun');
  await qemuIo(server.tcpUri(volume.serial), ['write -P 0x11 0 256k']);
  await qemuIo(server.unixUri(volume.id), ['read -P 0x11 0 256k', 'write -P 0x22 64k 64k']);
  await qemuIo(server.tcpUri('shared-lun'), ['read -P 0x11 0 64k', 'read -P 0x22 64k 64k']);
});

test('fio goes on verifying while the LUN is copied again and again', async (context) => {
  requires(context, 'fio');
  const source = await server.api.createVolume('12', 64 * MIB);
  const target = await server.api.createVolume('13', 64 * MIB);
  const pair = `${source.id}:${target.id}`;
  const load = { running: true };
  // At a limited rate, so that there are several copies. Not with --loops: fio 3.33 then takes
  // blocks of an earlier loop for wrong ones, whatever the server.
  const verified = fio(server.unixUri(source.serial), [
    '--bs=4k',
    '--iodepth=16',
    '--rate_iops=4000',
  ]).finally(() => {
    load.running = false;
  });
  const [, copies] = await Promise.all([verified, copyWhile(load, pair)]);
  expect(copies).toBeGreaterThan(1);
});

/** Copies again and again, with and without background copy; how often. */
async function copyWhile(load: { running: boolean }, pair: string): Promise<number> {
  let copies = 0;
  while (load.running) {
    const noCopy = copies % 2 === 1;
    await server.api.establish([pair], noCopy);
    if (noCopy) await server.api.withdraw(pair);
    else await server.api.copied(pair);
    copies += 1;
  }
  return copies;
}

/** An image with data, holes and a ragged pattern. */
async function writeImage(path: string, bytes: number): Promise<void> {
  await writeFile(path, '');
  const file = await open(path, 'r+');
  try {
    await file.truncate(bytes);
    const random = new Random(7);
    for (let offset = 0; offset < bytes; offset += MIB) {
      if (random.between(0, 3) === 0) continue;
      const data = random.bytes(random.between(1, MIB));
      await file.write(data, 0, data.length, offset + random.between(0, MIB - data.length + 1));
    }
  } finally {
    await file.close();
  }
}

async function expectSame(one: string, other: string): Promise<void> {
  expect((await stat(other)).size).toBe((await stat(one)).size);
  const [a, b] = await Promise.all([readFile(one), readFile(other)]);
  if (!a.equals(b)) throw new Error(`${one} and ${other} differ`);
}

/** qemu-io tells of a wrong pattern in its output and its exit code. */
async function qemuIo(uri: string, commands: readonly string[]): Promise<void> {
  const args = commands.flatMap((command) => ['-c', command]);
  const output = await ok('qemu-io', ['-f', 'raw', ...args, uri]);
  expect(output).not.toMatch(/fail|mismatch/i);
}

async function fio(uri: string, more: readonly string[]): Promise<void> {
  await ok('fio', [
    '--name=verify',
    '--ioengine=nbd',
    `--uri=${uri}`,
    '--rw=randrw',
    '--verify=crc32c',
    '--verify_fatal=1',
    '--do_verify=1',
    // Or fio leaves a file in the working folder.
    '--verify_state_save=0',
    '--randrepeat=0',
    ...more,
  ]);
}
