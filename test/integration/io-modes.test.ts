/** Cache modes and I/O backends of the real server: the same bytes with each, under fio verify. */
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { scoped } from '../helpers/cleanup.js';
import { ok } from '../helpers/exec.js';
import { requires } from '../helpers/requires.js';
import { refusedStart, type Server, startServer } from '../helpers/server.js';

const MIB = 1024 * 1024;

const MODES = [
  { cache: 'none', io: 'uring', backend: 'io_uring' },
  { cache: 'none', io: 'threads', backend: 'threads' },
  { cache: 'writeback', io: 'uring', backend: 'io_uring' },
  { cache: 'writeback', io: 'threads', backend: 'threads' },
] as const;

interface ArrayView {
  readonly io: { readonly cache: string; readonly backend: string };
}

async function fio(server: Server, name: string, more: readonly string[]): Promise<void> {
  await ok('fio', [
    '--name=verify',
    '--ioengine=nbd',
    `--uri=${server.unixUri(name)}`,
    '--rw=randrw',
    '--verify=crc32c',
    '--verify_fatal=1',
    '--do_verify=1',
    // Or fio leaves a file in the working folder.
    '--verify_state_save=0',
    '--randrepeat=0',
    '--io_size=24m',
    ...more,
  ]);
}

test.for(MODES)('fio verifies with --cache $cache --io $io', async (mode, context) => {
  requires(context, 'fio', 'nbdcopy');
  await scoped(async (scope) => {
    const data = join(await scope.tempDir(), 'data');
    const args = ['--cache', mode.cache, '--io', mode.io, '--no-demo'];
    let server = await startServer(scope, { data, args });
    expect((await server.api.call<ArrayView>('GET', '/v1/array')).io).toEqual({
      cache: mode.cache,
      backend: mode.backend,
    });
    const source = await server.api.createVolume('12', 64 * MIB);
    const target = await server.api.createVolume('13', 64 * MIB);
    await fio(server, source.id, ['--bs=4k', '--iodepth=32']);
    await fio(server, source.id, ['--bs=4k', '--iodepth=1', '--io_size=4m']);
    // Neither aligned nor small.
    await fio(server, source.id, ['--bsrange=512-256k', '--bs_unaligned=1', '--iodepth=8']);
    // Through FlashCopy, into tracks that are shared.
    await server.api.establish([`${source.id}:${target.id}`], true);
    await fio(server, target.id, ['--bs=4k', '--iodepth=16']);
    await fio(server, source.id, ['--bsrange=4k-64k', '--iodepth=16']);
    const images = [join(data, '../before.img'), join(data, '../after.img')] as const;
    await ok('nbdcopy', [server.unixUri(target.id), images[0]]);
    await server.stop();
    // The other cache mode reads what this one wrote.
    const other = mode.cache === 'none' ? 'writeback' : 'none';
    server = await startServer(scope, { data, args: ['--cache', other] });
    await ok('nbdcopy', [server.unixUri(target.id), images[1]]);
    await ok('cmp', [...images]);
  });
});

test('a cache mode or a backend that does not exist is refused', async () => {
  await scoped(async (scope) => {
    const data = join(await scope.tempDir(), 'data');
    for (const args of [
      ['--cache', 'fast'],
      ['--io', 'fast'],
    ]) {
      const { code, stderr } = await refusedStart(data, { args });
      expect(code).toBe(2);
      expect(stderr).toContain(`${args[0]} (FLASHLUN_`);
    }
  });
});
