import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { ChangeQueue } from '../../../src/array/change-queue.js';
import { createDemoArray } from '../../../src/array/demo-array.js';
import { type NewVolume, StorageArray } from '../../../src/array/storage-array.js';
import { openEngine } from '../../../src/engine/index.js';
import { Scope, scoped } from '../../helpers/cleanup.js';
import { openTestArray } from './pool.js';

const TRACK = 65_536;
const TIB = 2 ** 40;

test('the demo array is the one of the white paper, and is made once', () =>
  scoped(async (scope) => {
    const { array } = await openTestArray(scope);
    expect(await createDemoArray(array)).toBe(true);
    expect(await createDemoArray(array)).toBe(false);
    expect(array.volumes().map(({ id, serial, sizeBytes }) => [id, serial, sizeBytes])).toEqual([
      ['1203', '20313698', 2 ** 30],
      ['1204', '20413698', 2 ** 30],
      ['1205', '20513698', 2 ** 30],
      ['1206', '20613698', 2 ** 30],
      ['1303', '30313698', 2 ** 30],
      ['1304', '30413698', 2 ** 30],
    ]);
    expect(array.lss()).toEqual([
      { id: '12', volumes: 4 },
      { id: '13', volumes: 2 },
    ]);
    expect(array.machine).toBe('2105.13698');
  }));

test('without an id a volume gets the lowest free number of its LSS', () =>
  scoped(async (scope) => {
    const { array } = await openTestArray(scope);
    await array.create({ id: '1201', sizeBytes: TRACK });
    const made = await Promise.all(
      [1, 2, 3].map(() => array.create({ lss: '12', sizeBytes: TRACK })),
    );
    expect(made.map(({ id }) => id)).toEqual(['1200', '1202', '1203']);
    await array.delete('1200');
    expect((await array.create({ lss: '12', sizeBytes: TRACK })).id).toBe('1200');
  }));

test('a volume is found by id, serial and name, in any case of the hex digits', () =>
  scoped(async (scope) => {
    const { array } = await openTestArray(scope);
    await array.create({ id: '12ab', sizeBytes: 1, name: 'Büro-1' });
    for (const ref of ['12AB', '12ab', '2AB13698', '2ab13698', 'Büro-1']) {
      expect(array.get(ref)).toMatchObject({ id: '12AB', lss: '12', sizeBytes: TRACK });
      expect(array.resolve(ref)).toMatchObject({
        name: ref,
        volumeId: 0x12ab,
        sizeBytes: TRACK,
        readOnly: false,
      });
    }
    for (const ref of ['', '12AC', '2AC13698', '2AB13699', 'büro-1', 'Büro']) {
      expect(array.find(ref)).toBeUndefined();
      expect(array.resolve(ref)).toBeUndefined();
    }
    expect(array.list()).toEqual([
      {
        volumeId: 0x12ab,
        name: '2AB13698',
        description: "ESS 13698 volume 12AB 'Büro-1', 64.0 KiB",
      },
    ]);
  }));

test('a look-up does not list the volumes, and follows what is made and deleted', () =>
  scoped(async (scope) => {
    const { engine, changes } = await openTestArray(scope);
    await engine.createVolume(0x1205, TRACK, 'old');
    let listed = 0;
    const counting = {
      createVolume: engine.createVolume.bind(engine),
      resizeVolume: engine.resizeVolume.bind(engine),
      deleteVolume: engine.deleteVolume.bind(engine),
      volume: engine.volume.bind(engine),
      relationships: engine.relationships.bind(engine),
      recordings: engine.recordings.bind(engine),
      pools: engine.pools.bind(engine),
      volumes: () => {
        listed += 1;
        return engine.volumes();
      },
    };
    const array = new StorageArray(counting, '13698', changes);
    await array.create({ id: '1203', sizeBytes: TRACK, name: 'new' });
    expect([array.find('old')?.id, array.find('new')?.id]).toEqual([0x1205, 0x1203]);
    expect(array.resolve('nosuch')).toBeUndefined();
    expect(array.example()).toBe('20513698');
    await array.delete('old');
    expect(array.resolve('old')).toBeUndefined();
    expect(array.example()).toBe('20313698');
    await array.delete('new');
    expect(array.example()).toBeUndefined();
    await array.create({ lss: '12', sizeBytes: TRACK, name: 'old' });
    expect(array.find('old')?.id).toBe(0x1200);
    expect(listed).toBe(1);
  }));

test('sizes are rounded up to whole tracks', () =>
  scoped(async (scope) => {
    const { array } = await openTestArray(scope);
    const sizes = [1, TRACK, TRACK + 1, 64 * TIB];
    const made = await Promise.all(
      sizes.map((sizeBytes) => array.create({ lss: '10', sizeBytes })),
    );
    const stored = made.map(({ sizeBytes }) => sizeBytes);
    expect(stored).toEqual([TRACK, TRACK, 2 * TRACK, 64 * TIB]);
  }));

test('a volume grows, to whole tracks, and never shrinks', () =>
  scoped(async (scope) => {
    const { array } = await openTestArray(scope);
    await array.create({ id: '1203', sizeBytes: 4 * TRACK, name: 'db' });
    expect(await array.resize('db', 6 * TRACK + 1)).toMatchObject({ sizeBytes: 7 * TRACK });
    expect(await array.resize('1203', 7 * TRACK)).toMatchObject({ sizeBytes: 7 * TRACK });
    expect(array.resolve('db')?.sizeBytes).toBe(7 * TRACK);
    await expect(array.resize('db', 6 * TRACK)).rejects.toMatchObject({ code: 'SIZE_INVALID' });
    await expect(array.resize('db', 6 * TRACK)).rejects.toThrow(
      /^resize of 1203 to 384.0 KiB refused: it has 448.0 KiB, and volumes only grow\. /,
    );
    await expect(array.resize('db', 65 * TIB)).rejects.toMatchObject({ code: 'SIZE_INVALID' });
    await expect(array.resize('1204', TRACK)).rejects.toMatchObject({ code: 'VOLUME_NOT_FOUND' });
  }));

test('the block size is kept, and the bitmaps of an export are its relationships', () =>
  scoped(async (scope) => {
    const dir = join(await scope.tempDir(), 'pool');
    const changes = new ChangeQueue();
    for (const reopened of [false, true]) {
      const engine = await openEngine({ dir });
      const array = new StorageArray(engine, '13698', changes);
      if (!reopened) {
        for (const id of ['1203', '1303']) await array.create({ id, sizeBytes: TRACK });
        await array.create({ id: '1204', sizeBytes: TRACK, blockBytes: 4096 });
        await engine.establish([{ sourceId: 0x1203, targetId: 0x1303, noCopy: true }]);
      }
      expect(array.get('1204').blockBytes).toBe(4096);
      expect(array.resolve('1204')?.blockBytes).toBe(4096);
      expect(array.get('1203').blockBytes).toBe(512);
      expect(array.bitmaps(0x1203).map(({ name }) => name)).toEqual(['fc-1203-1303']);
      expect(array.bitmaps(0x1204)).toEqual([]);
      await engine.close();
    }
  }));

const REFUSED: readonly (readonly [string, NewVolume, string, RegExp])[] = [
  ['size 0', { lss: '12', sizeBytes: 0 }, 'SIZE_INVALID', /64.0 KiB to 64.0 TiB/],
  ['a negative size', { lss: '12', sizeBytes: -1 }, 'SIZE_INVALID', /size -1 refused/],
  ['half a byte', { lss: '12', sizeBytes: 0.5 }, 'SIZE_INVALID', /size 0.5 refused/],
  ['a size over the limit', { lss: '12', sizeBytes: 64 * TIB + 1 }, 'SIZE_INVALID', /refused/],
  [
    'blocks of another size',
    { lss: '12', sizeBytes: 1, blockBytes: 2048 },
    'INVALID_ARGUMENT',
    /block size 2048 refused/,
  ],
  ['a CKD LSS', { lss: '0F', sizeBytes: 1 }, 'LSS_INVALID', /'0F'/],
  ['an LSS of three digits', { lss: '120', sizeBytes: 1 }, 'LSS_INVALID', /'120'/],
  [
    'an id of another LSS',
    { lss: '13', id: '1204', sizeBytes: 1 },
    'LSS_INVALID',
    /LSS 12, not 13/,
  ],
  ['an id out of range', { id: '2000', sizeBytes: 1 }, 'INVALID_ARGUMENT', /1000 to 1FFF/],
  ['neither LSS nor id', { sizeBytes: 1 }, 'INVALID_ARGUMENT', /LSS .* or a volume id/],
  ['an id that exists', { id: '1203', sizeBytes: 1 }, 'VOLUME_EXISTS', /1203 refused: it exists/],
  ['a name that exists', { lss: '12', sizeBytes: 1, name: 'db' }, 'ALREADY_EXISTS', /volume 1203/],
  ['a name like an id', { lss: '12', sizeBytes: 1, name: '1FFF' }, 'INVALID_ARGUMENT', /reads as/],
  ['a name like a serial', { lss: '12', sizeBytes: 1, name: '2ff13698' }, 'INVALID_ARGUMENT', /as/],
  ['a name with a blank', { lss: '12', sizeBytes: 1, name: 'a b' }, 'INVALID_ARGUMENT', /letters/],
  ['a name with a slash', { lss: '12', sizeBytes: 1, name: 'a/b' }, 'INVALID_ARGUMENT', /letters/],
  ['a name with a colon', { lss: '12', sizeBytes: 1, name: 'a:b' }, 'INVALID_ARGUMENT', /letters/],
  ['a line break', { lss: '12', sizeBytes: 1, name: 'a\nb' }, 'INVALID_ARGUMENT', /'a\?b' refused/],
  ['a name too long', { lss: '12', sizeBytes: 1, name: 'ü'.repeat(33) }, 'INVALID_ARGUMENT', /64/],
];

describe('refused', () => {
  // One array for all: a refusal changes nothing, so it is the same for each of them.
  const scope = new Scope();
  let array: StorageArray;
  beforeAll(async () => {
    ({ array } = await openTestArray(scope));
    await array.create({ id: '1203', sizeBytes: 1, name: 'db' });
  });
  afterAll(() => scope.close());

  test.each(REFUSED)('create with %s changes nothing', async (_what, volume, code, text) => {
    const before = array.volumes();
    const creating = array.create(volume);
    await expect(creating).rejects.toMatchObject({ code });
    await expect(creating).rejects.toThrow(text);
    await expect(creating).rejects.not.toThrow(/\n/);
    expect(array.volumes()).toEqual(before);
  });
});

test('a full LSS is refused, the next one is not', () =>
  scoped(async (scope) => {
    const { array } = await openTestArray(scope);
    for (let number = 0; number < 256; number += 1) {
      await array.create({ lss: '1F', sizeBytes: TRACK });
    }
    expect(array.volumes().at(-1)?.id).toBe('1FFF');
    await expect(array.create({ lss: '1F', sizeBytes: TRACK })).rejects.toMatchObject({
      code: 'LSS_FULL',
    });
    expect((await array.create({ lss: '1E', sizeBytes: TRACK })).id).toBe('1E00');
  }));

test('a volume in a relationship is not deleted', () =>
  scoped(async (scope) => {
    const { array, engine } = await openTestArray(scope);
    await array.create({ id: '1203', sizeBytes: TRACK });
    await array.create({ id: '1303', sizeBytes: TRACK });
    const [id] = await engine.establish([{ sourceId: 0x1203, targetId: 0x1303, noCopy: true }]);
    await expect(array.delete('1203')).rejects.toThrow(
      /^delete of 1203 refused: it is the source of 1203:1303 \(nocopy, since .*\)\. Withdraw/,
    );
    await expect(array.delete('1303')).rejects.toThrow(/it is the target of 1203:1303/);
    await engine.withdraw(id!);
    await array.delete('1303');
    expect(array.volumes().map((volume) => volume.id)).toEqual(['1203']);
  }));

test('an unknown volume is named, in one short line', () =>
  scoped(async (scope) => {
    const { array } = await openTestArray(scope);
    await expect(array.delete('1999')).rejects.toThrow(/no volume '1999' on ESS 13698/);
    expect(() => array.get('x'.repeat(500))).toThrow(/'x{37}\.\.\.'/);
  }));
