// The routes of `flashlun verify`.
import { expect, test } from 'vitest';
import { scoped } from '../../helpers/cleanup.js';
import { until } from '../../helpers/wait.js';
import { openTestApi } from './open-api.js';

test('a scrub is started, looked at and stopped; a monitor may only look', () =>
  scoped(async (scope) => {
    const { logIn } = await openTestApi(scope);
    const admin = await logIn('admin');
    const monitor = await logIn('monitor');
    const url = '/v1/volumes/1203/verify';
    expect(await monitor('GET', url)).toMatchObject({ status: 404, body: { code: 'NOT_FOUND' } });
    expect((await monitor('POST', url)).status).toBe(403);
    expect(await admin('POST', url)).toMatchObject({
      status: 202,
      body: { volume: '1203', totalTracks: 16, mismatches: [], ioErrors: [] },
    });
    const look = async () => {
      const { body } = await monitor('GET', url);
      return body['state'] === 'running' ? undefined : body;
    };
    const ended = await until('the end of the scrub', look, { deadlineMs: 20_000 });
    expect(ended).toMatchObject({ state: 'done', nextTrack: 16, verified: 0, mismatchCount: 0 });
    // Stopping what has ended changes nothing.
    expect(await admin('DELETE', url)).toMatchObject({ status: 200, body: { state: 'done' } });
    expect((await admin('POST', '/v1/volumes/1fff/verify')).status).toBe(404);
  }));
