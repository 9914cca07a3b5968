/** Background copy against a pool that is too small for it. */
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { startNbdListeners } from '../../../src/nbd/listener.js';
import { type Scope, scoped } from '../../helpers/cleanup.js';
import { NbdClient } from '../../helpers/nbd-client.js';
import { until } from '../../helpers/wait.js';
import { openTestCopyServices, type TestCopyServices } from '../array/pool.js';
import { QUIET } from '../metadata/open.js';

const MIB = 2 ** 20;
const PAIR = { source: '1203', target: '1303' };

async function openClient(scope: Scope, { engine, array }: TestCopyServices, volume: string) {
  const unixPath = join(await scope.tempDir(), 'nbd.sock');
  const server = await startNbdListeners({ engine, catalog: array, unixPath, log: QUIET });
  scope.defer('close the NBD server', () => server.close());
  return NbdClient.open({ path: unixPath }, volume);
}

test('a full pool: tried again, then given up, with the reason; the target stays whole', () =>
  scoped(async (scope) => {
    // Room for 24 tracks; each volume has 16.
    const services = await openTestCopyServices(scope, 24 * 65_536);
    const { copyServices, backgroundCopy } = services;
    const client = await openClient(scope, services, '1203');
    await client.write(0, Buffer.alloc(MIB, 1));
    await copyServices.establish({ pairs: [PAIR], noCopy: false });
    await until('the end of the tries', () => backgroundCopy.activeCount === 0, {
      deadlineMs: 15_000,
      diagnosis: () => JSON.stringify(copyServices.list()),
    });
    const view = copyServices.show(PAIR);
    expect(view).toMatchObject({ state: 'copying', activeCopy: false });
    expect(view.problem).toMatch(/pool default .* is full/);
    expect(view.outOfSyncTracks).toBeGreaterThan(0);
    expect(view.copiedPercent).toBeLessThan(100);
    expect(backgroundCopy.queuedCount).toBe(0);
    const target = await openClient(scope, services, '1303');
    expect((await target.read(0, MIB)).every((byte) => byte === 1)).toBe(true);
    // It lets go: withdrawn, the volumes can be used for another copy.
    await copyServices.withdraw(PAIR);
    expect(copyServices.list()).toEqual([]);
  }));

test('the copy moves the data, and counts it', () =>
  scoped(async (scope) => {
    const services = await openTestCopyServices(scope);
    const { copyServices, backgroundCopy, engine } = services;
    const client = await openClient(scope, services, '1203');
    await client.write(0, Buffer.alloc(MIB / 2, 7));
    await copyServices.establish({ pairs: [PAIR], noCopy: false });
    await until('the end of the copy', () => copyServices.list().length === 0, {
      deadlineMs: 15_000,
    });
    await until('its tracks are counted', () => backgroundCopy.copiedTracks === 8, {
      deadlineMs: 15_000,
    });
    expect(engine.info().usedTracks).toBe(16);
  }));
