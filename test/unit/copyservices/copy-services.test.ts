/** Copy Services on the real engine. Volumes are empty here; data is test/integration's matter. */
import { expect, test } from 'vitest';
import { scoped } from '../../helpers/cleanup.js';
import { until } from '../../helpers/wait.js';
import { openTestCopyServices } from '../array/pool.js';

const A = { source: '1203', target: '1303' };

test('a nocopy relationship stays until it is withdrawn', () =>
  scoped(async (scope) => {
    const { copyServices } = await openTestCopyServices(scope);
    const before = Date.now();
    const [view] = await copyServices.establish({ pairs: [A], noCopy: true });
    expect(view).toMatchObject({
      id: '1203:1303',
      source: '1203',
      target: '1303',
      sourceSerial: '20313698',
      targetSerial: '30313698',
      copyMode: 'nocopy',
      state: 'nocopy',
      activeCopy: false,
      totalTracks: 16,
      outOfSyncTracks: 0,
      copiedPercent: 100,
    });
    expect(Date.parse(view!.establishedAt)).toBeGreaterThanOrEqual(before - 1);
    expect(copyServices.show(A)).toEqual(view);
    expect(copyServices.list()).toEqual([view]);
    await copyServices.withdraw(A);
    expect(copyServices.list()).toEqual([]);
    expect(copyServices.counters).toEqual({
      established: 1,
      resynced: 0,
      reversed: 0,
      withdrawn: 1,
      refused: 0,
    });
  }));

test('resync keeps the pair and gives it a new T0; reverse turns it round', () =>
  scoped(async (scope) => {
    const { copyServices } = await openTestCopyServices(scope);
    const [first] = await copyServices.establish({ pairs: [A], noCopy: true });
    await until('another millisecond', () => Date.now() > Date.parse(first!.establishedAt), {
      deadlineMs: 10_000,
    });
    const second = await copyServices.resync(A, { noCopy: true });
    expect(second).toMatchObject({ id: '1203:1303', copyMode: 'nocopy' });
    expect(Date.parse(second.establishedAt)).toBeGreaterThan(Date.parse(first!.establishedAt));
    const turned = { fast: true, noCopy: true };
    expect(await copyServices.reverse(A, turned)).toMatchObject({
      id: '1303:1203',
      copyMode: 'nocopy',
    });
    expect(copyServices.list().map(({ id }) => id)).toEqual(['1303:1203']);
    await expect(copyServices.resync(A)).rejects.toMatchObject({ code: 'RELATIONSHIP_NOT_FOUND' });
    expect(copyServices.counters).toMatchObject({ established: 1, resynced: 1, reversed: 1 });
  }));

test('a reverse onto a volume that is a target itself is refused, and nothing changes', () =>
  scoped(async (scope) => {
    const { copyServices } = await openTestCopyServices(scope);
    await copyServices.establish({ pairs: [{ source: '1204', target: '1203' }], noCopy: true });
    await copyServices.establish({ pairs: [A], noCopy: true });
    const before = copyServices.list();
    const refused = copyServices.reverse(A, { fast: true });
    await expect(refused).rejects.toMatchObject({ code: 'FC_TARGET_IN_USE' });
    await expect(refused).rejects.toThrow(
      /^1303:1203 refused: 1203 is already the target of 1204:1203 /,
    );
    expect(copyServices.list()).toEqual(before);
  }));

test('a copy that runs goes on after a resync and a reverse, and ends', () =>
  scoped(async (scope) => {
    const { copyServices } = await openTestCopyServices(scope);
    await copyServices.establish({ pairs: [A], noCopy: false });
    // It may end at any moment: volumes are empty.
    for (const step of [
      () => copyServices.resync(A),
      () => copyServices.reverse(A, { fast: true }),
    ]) {
      await step().catch((error: unknown) => {
        expect(error).toMatchObject({ code: 'RELATIONSHIP_NOT_FOUND' });
      });
    }
    await until('the end of the copy', () => copyServices.list().length === 0, {
      deadlineMs: 10_000,
    });
  }));

test('a relationship with background copy ends by itself', () =>
  scoped(async (scope) => {
    const { copyServices, backgroundCopy } = await openTestCopyServices(scope);
    const views = await copyServices.establish({ pairs: [A], noCopy: false });
    expect(views).toMatchObject([{ id: '1203:1303', copyMode: 'copy', state: 'copying' }]);
    await until('the end of the copy', () => copyServices.list().length === 0, {
      deadlineMs: 10_000,
    });
    await until('the end of its job', () => backgroundCopy.activeCount === 0, {
      deadlineMs: 10_000,
    });
    expect(() => copyServices.show(A)).toThrow(/no relationship 1203:1303. It may have ended/);
  }));

test('several targets of one source, and a cascade', () =>
  scoped(async (scope) => {
    const { copyServices } = await openTestCopyServices(scope);
    await copyServices.establish({
      pairs: [A, { source: '20313698', target: '1304' }],
      noCopy: true,
    });
    await copyServices.establish({ pairs: [{ source: '1303', target: '1204' }], noCopy: true });
    expect(copyServices.list().map(({ id }) => id)).toEqual([
      '1203:1303',
      '1203:1304',
      '1303:1204',
    ]);
    expect(copyServices.list('1303').map(({ id }) => id)).toEqual(['1203:1303', '1303:1204']);
    expect(copyServices.list('20413698').map(({ id }) => id)).toEqual(['1303:1204']);
  }));

test('one refused pair refuses all, and all reasons are told', () =>
  scoped(async (scope) => {
    const { copyServices } = await openTestCopyServices(scope);
    await copyServices.establish({ pairs: [A], noCopy: true });
    const before = copyServices.list();
    const refused = copyServices.establish({
      pairs: [
        { source: '1204', target: '1304' },
        { source: '1204', target: '1303' },
        { source: '1204', target: '1204' },
      ],
      noCopy: true,
    });
    await expect(refused).rejects.toMatchObject({
      code: 'FC_TARGET_IN_USE',
      details: { refusals: [{ pair: '1204:1303' }, { pair: '1204:1204' }] },
    });
    await expect(refused).rejects.toThrow(/\(1 more refused as well\.\)$/);
    expect(copyServices.list()).toEqual(before);
    expect(copyServices.counters.refused).toBe(1);
  }));

test.each([
  ['no pair', [], 'INVALID_ARGUMENT'],
  ['too many pairs', Array.from({ length: 1025 }, () => A), 'INVALID_ARGUMENT'],
  ['an unknown source', [{ source: '1999', target: '1303' }], 'VOLUME_NOT_FOUND'],
  ['an unknown target', [{ source: '1203', target: '30513698' }], 'VOLUME_NOT_FOUND'],
])('establish with %s is refused', (_what, pairs, code) =>
  scoped(async (scope) => {
    const { copyServices } = await openTestCopyServices(scope);
    await expect(copyServices.establish({ pairs, noCopy: true })).rejects.toMatchObject({ code });
  }),
);

test('of two establishes at the same time for one target one is refused by the rule', () =>
  scoped(async (scope) => {
    const { copyServices } = await openTestCopyServices(scope);
    const results = await Promise.allSettled([
      copyServices.establish({ pairs: [A], noCopy: true }),
      copyServices.establish({ pairs: [{ source: '1204', target: '1303' }], noCopy: true }),
    ]);
    expect(results.map(({ status }) => status)).toEqual(['fulfilled', 'rejected']);
    expect(results[1]).toMatchObject({ reason: { code: 'FC_TARGET_IN_USE' } });
  }));

test('withdrawing what is not there says what is', () =>
  scoped(async (scope) => {
    const { copyServices } = await openTestCopyServices(scope);
    await copyServices.establish({ pairs: [A], noCopy: true });
    const withdrawing = copyServices.withdraw({ source: '1204', target: '1303' });
    await expect(withdrawing).rejects.toMatchObject({ code: 'RELATIONSHIP_NOT_FOUND' });
    await expect(withdrawing).rejects.toThrow(/1303 is the target of 1203:1303/);
  }));

test('after close() nothing is copied, and nothing hangs', () =>
  scoped(async (scope) => {
    const { copyServices, backgroundCopy } = await openTestCopyServices(scope);
    await backgroundCopy.close();
    await copyServices.establish({ pairs: [A], noCopy: false });
    expect(backgroundCopy.activeCount).toBe(0);
    expect(copyServices.list()).toHaveLength(1);
  }));
