/** Pools: made, enlarged, watched; and volumes that take their space from them. */
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { nextLevel, Pools } from '../../../src/array/pools.js';
import type { PoolState } from '../../../src/engine/types.js';
import { scoped } from '../../helpers/cleanup.js';
import { QUIET } from '../metadata/open.js';
import { openTestArray } from './pool.js';

const MIB = 2 ** 20;

test('a pool is made on a new file, holds volumes, and is enlarged', () =>
  scoped(async (scope) => {
    const { array, pools, poolDir } = await openTestArray(scope);
    expect(pools.list().map(({ name, level }) => [name, level])).toEqual([['default', 'ok']]);
    const path = join(poolDir, '..', 'fast');
    const made = await pools.create({ name: 'fast', path, sizeBytes: 64 * MIB });
    expect(made).toMatchObject({
      ...{ name: 'fast', path, capacityBytes: 64 * MIB, usedBytes: 0 },
      metadataMirror: { state: 'none' },
    });
    const thick = await array.create({ lss: '12', sizeBytes: MIB, pool: 'fast', thick: true });
    expect(thick).toMatchObject({ pool: 'fast', thick: true });
    expect(await array.create({ lss: '12', sizeBytes: MIB })).toMatchObject({
      pool: 'default',
      thick: false,
    });
    expect(pools.get('fast')).toMatchObject({ thickBytes: MIB, availableBytes: 63 * MIB });
    expect((await pools.grow('fast', 128 * MIB)).capacityBytes).toBe(128 * MIB);
  }));

test('what cannot be is refused with a line that says why', () =>
  scoped(async (scope) => {
    const { array, pools, poolDir } = await openTestArray(scope);
    const path = join(poolDir, '..', 'fast');
    const refused = [
      [() => pools.create({ name: 'default', path, sizeBytes: MIB }), 'ALREADY_EXISTS'],
      [() => pools.create({ name: 'a b', path, sizeBytes: MIB }), 'INVALID_ARGUMENT'],
      [() => pools.create({ name: 'a', path: 'fast', sizeBytes: MIB }), 'INVALID_ARGUMENT'],
      [() => pools.create({ name: 'a', path }), 'INVALID_ARGUMENT'],
      [() => pools.create({ name: 'a', path, sizeBytes: 1 }), 'SIZE_INVALID'],
      [() => pools.grow('nosuch', MIB), 'NOT_FOUND'],
      [() => pools.grow('default', MIB), 'INVALID_ARGUMENT'],
      [() => array.create({ lss: '12', sizeBytes: MIB, pool: 'nosuch' }), 'NOT_FOUND'],
      [() => array.create({ lss: '12', sizeBytes: 2 ** 31, thick: true }), 'NO_SPACE'],
    ] as const;
    for (const [call, code] of refused) await expect(call()).rejects.toMatchObject({ code });
    expect(pools.list()).toHaveLength(1);
    expect(array.volumes()).toEqual([]);
  }));

test('a thick volume that the disk cannot hold allocates nothing of it', () =>
  scoped(async (scope) => {
    const { array, pools } = await openTestArray(scope, 2 ** 48);
    await expect(
      array.create({ lss: '12', sizeBytes: 2 ** 46, thick: true }),
    ).rejects.toMatchObject({ code: 'NO_SPACE' });
    expect(pools.get('default').allocatedBytes).toBeLessThan(2 ** 30);
  }));

test('a level is left only when the figure is clearly below it', () => {
  const at = { warning: 80, critical: 95 };
  const levels = [79, 80, 78, 76, 95, 93, 91, 77, 60].reduce<string[]>((seen, percent) => {
    const before = (seen.at(-1) ?? 'ok') as 'ok' | 'warning' | 'critical';
    return [...seen, nextLevel(before, percent, at)];
  }, []);
  expect(levels).toEqual([
    'ok',
    'warning',
    'warning',
    'ok',
    'critical',
    'critical',
    'warning',
    'warning',
    'ok',
  ]);
});

test('pools and file systems that fill up are told of, once, and when they have space again', () =>
  scoped(async (scope) => {
    const { engine, changes } = await openTestArray(scope);
    const [empty] = engine.pools();
    let state: PoolState = { ...empty!, capacityTracks: 1000, readyTracks: 500 };
    let free = 50;
    let mirror = {};
    const told: string[] = [];
    const tell = (level: string) => (_facts: unknown, message: string) => {
      told.push(`${level}: ${message}`);
    };
    const log = Object.assign(Object.create(QUIET) as typeof QUIET, {
      warn: tell('warn'),
      info: tell('info'),
    });
    const pools = new Pools({
      engine: { ...engine, pools: () => [state], info: () => ({ ...engine.info(), ...mirror }) },
      changes,
      log,
      freeSpace: () => Promise.resolve({ free, total: 100 }),
    });
    const look = async (change: Partial<PoolState>, freePercent = 50) => {
      state = { ...state, ...change };
      free = freePercent;
      told.length = 0;
      await pools.check();
      return [pools.get('default').level, ...told];
    };
    expect(await look({ availableTracks: 500 })).toEqual(['ok']);
    const [level, line] = await look({ availableTracks: 190 });
    expect(level).toBe('warning');
    expect(line).toMatch(/^warn: pool default is 81 % full, 11\.9 MiB left: .*pool grow default/);
    expect(await look({ availableTracks: 180 })).toEqual(['warning']);
    expect(await look({ availableTracks: 40 })).toEqual([
      'critical',
      expect.stringContaining('96 %') as string,
    ]);
    expect(await look({ availableTracks: 900 })).toEqual([
      'ok',
      'info: pool default has space again',
    ]);
    expect(await look({}, 2)).toEqual([
      'critical',
      expect.stringContaining('is 98 % full and pool default') as string,
    ]);
    expect(await look({ readyTracks: 1000 }, 2)).toHaveLength(2);
    expect(await look({ growthError: 'no space' })).toEqual([
      'critical',
      'warn: pool default cannot grow: no space',
    ]);
    mirror = { mirrorPath: '/b/meta', mirrorProblem: 'the mirror copy failed' };
    expect(await look({})).toEqual([
      'critical',
      'warn: metadata has one copy only: the mirror copy failed',
    ]);
    expect(await look({})).toEqual(['critical']);
    expect(pools.get('default').metadataMirror).toEqual({
      state: 'degraded',
      path: '/b/meta',
      problem: 'the mirror copy failed',
    });
  }));
