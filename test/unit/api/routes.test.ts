import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { Scope, scoped } from '../../helpers/cleanup.js';
import { openTestApi, type TestApi } from './open-api.js';

/** One API for the tests of a describe block that change nothing. */
function sharedApi(): () => TestApi {
  const scope = new Scope();
  let api: TestApi | undefined;
  beforeAll(async () => {
    api = await openTestApi(scope);
    await api.array.create({ lss: '14', sizeBytes: 65_536, name: 'tiny' });
  });
  afterAll(() => scope.close());
  return () => api!;
}

const PAIR = { source: '1203', target: '1303' };

describe('log-in', () => {
  test('user and password give a session, which can be ended', () =>
    scoped(async (scope) => {
      const { send } = await openTestApi(scope);
      const payload = { user: 'admin', password: 'secret' };
      const session = await send({ method: 'POST', url: '/v1/session', payload });
      expect(session).toMatchObject({ status: 201, body: { user: 'admin', role: 'admin' } });
      expect(session.headers['cache-control']).toBe('no-store');
      const headers = { authorization: `Bearer ${String(session.body['token'])}` };
      expect((await send({ url: '/v1/array', headers })).status).toBe(200);
      expect((await send({ method: 'DELETE', url: '/v1/session', headers })).status).toBe(204);
      expect((await send({ url: '/v1/array', headers })).status).toBe(401);
    }));

  test('a wrong password is 401 with a line that says what to do', () =>
    scoped(async (scope) => {
      const { send } = await openTestApi(scope);
      const payload = { user: 'admin', password: 'wrong' };
      const answer = await send({ method: 'POST', url: '/v1/session', payload });
      expect(answer.status).toBe(401);
      expect(answer.headers['www-authenticate']).toBe('Bearer');
      expect(answer.body).toEqual({
        code: 'UNAUTHENTICATED',
        message: expect.stringMatching(/^wrong user or password\. .*admin-password/) as string,
      });
    }));

  test('a monitor looks but does not change', () =>
    scoped(async (scope) => {
      const { logIn, copyServices } = await openTestApi(scope);
      const monitor = await logIn('monitor');
      expect((await monitor('GET', '/v1/volumes')).status).toBe(200);
      const answer = await monitor('POST', '/v1/flashcopies', { pairs: [PAIR] });
      expect(answer).toMatchObject({ status: 403, body: { code: 'FORBIDDEN' } });
      expect((await monitor('GET', '/v1/users')).status).toBe(403);
      expect(copyServices.list()).toEqual([]);
      expect((await monitor('DELETE', '/v1/session')).status).toBe(204);
    }));
});

describe('without log-in nothing is told or done', () => {
  const shared = sharedApi();

  test.each([
    ['GET', '/v1/array'],
    ['GET', '/v1/volumes'],
    ['POST', '/v1/volumes'],
    ['DELETE', '/v1/volumes/1203'],
    ['POST', '/v1/flashcopies'],
    ['POST', '/v1/tasks/x/run'],
    ['GET', '/v1/users'],
    ['POST', '/v1/copyservices/registration'],
    ['DELETE', '/v1/session'],
  ] as const)('%s %s', async (method, url) => {
    const answer = await shared().send({ method, url });
    expect(answer).toMatchObject({ status: 401, body: { code: 'UNAUTHENTICATED' } });
    expect(shared().array.volumes()).toHaveLength(5);
  });
});

describe('open to all', () => {
  test('probes, heartbeat, metrics and the OpenAPI document', () =>
    scoped(async (scope) => {
      const { send, state } = await openTestApi(scope);
      expect(await send({ url: '/healthz' })).toMatchObject({ status: 200, text: 'ok\n' });
      expect(await send({ url: '/heartbeat' })).toMatchObject({ status: 200, text: 'ok' });
      expect((await send({ url: '/metrics' })).status).toBe(200);
      expect(await send({ url: '/readyz' })).toMatchObject({ status: 200, text: 'ready\n' });
      state.obstacle = 'the server is shutting down';
      expect(await send({ url: '/readyz' })).toMatchObject({
        status: 503,
        text: 'not ready: the server is shutting down\n',
      });
      expect((await send({ url: '/healthz' })).status).toBe(200);
    }));

  test('metrics of another machine need a session', () =>
    scoped(async (scope) => {
      const { send } = await openTestApi(scope);
      const answer = await send({ url: '/metrics', remoteAddress: '10.0.0.9' });
      expect(answer.status).toBe(401);
    }));

  test('the OpenAPI document names every route and how to log in', () =>
    scoped(async (scope) => {
      const { send } = await openTestApi(scope);
      const { body } = await send({ url: '/v1/openapi.json' });
      expect(body['openapi']).toBe('3.1.0');
      expect(Object.keys(body['paths'] as object)).toEqual(
        expect.arrayContaining([
          '/v1/session',
          '/v1/array',
          '/v1/lss',
          '/v1/volumes',
          '/v1/volumes/{ref}',
          '/v1/flashcopies',
          '/v1/flashcopies/{pair}',
          '/v1/tasks',
          '/v1/tasks/{name}',
          '/v1/tasks/{name}/run',
          '/v1/users',
          '/v1/copyservices/registration',
        ]) as string[],
      );
      expect(body['security']).toEqual([{ session: [] }]);
    }));
});

describe('array', () => {
  test('the machine', () =>
    scoped(async (scope) => {
      const { logIn } = await openTestApi(scope);
      const admin = await logIn('admin');
      expect((await admin('GET', '/v1/array')).body).toEqual({
        machine: '2105.13698',
        serial: '13698',
        model: '2105-800',
        version: '1.2.3',
        pool: { capacityBytes: 2 ** 30, usedBytes: expect.any(Number) as number },
        io: {
          cache: 'writeback',
          backend: expect.stringMatching(/^(io_uring|threads)$/) as string,
        },
        nbd: { tcp: '127.0.0.1:10809', unix: null, tls: 'off', tlsCredentials: 'none' },
        lss: ['12', '13'],
      });
      expect((await admin('GET', '/v1/lss')).body).toEqual({
        lss: [
          { id: '12', volumes: 2 },
          { id: '13', volumes: 2 },
        ],
      });
      expect((await admin('GET', '/v1/users')).body).toEqual({
        users: [
          { name: 'admin', role: 'admin' },
          { name: 'monitor', role: 'monitor' },
        ],
      });
    }));

  test('a volume is made, shown by all its names, and deleted', () =>
    scoped(async (scope) => {
      const { logIn } = await openTestApi(scope);
      const admin = await logIn('admin');
      const made = await admin('POST', '/v1/volumes', { lss: '12', sizeBytes: 1, name: 'büro' });
      expect(made).toMatchObject({
        status: 201,
        body: { id: '1200', serial: '20013698', name: 'büro', sizeBytes: 65_536, attached: 0 },
      });
      for (const ref of ['1200', '20013698', encodeURIComponent('büro')]) {
        expect((await admin('GET', `/v1/volumes/${ref}`)).body).toEqual(made.body);
      }
      expect((await admin('DELETE', '/v1/volumes/1200')).status).toBe(204);
      const gone = await admin('GET', '/v1/volumes/1200');
      expect(gone).toMatchObject({ status: 404, body: { code: 'VOLUME_NOT_FOUND' } });
    }));
});

describe('POST /v1/volumes refuses', () => {
  const shared = sharedApi();

  test.each([
    ['size 0', { lss: '12', sizeBytes: 0 }, 400, 'SIZE_INVALID', /size 0 refused/],
    ['65 TiB', { lss: '12', sizeBytes: 65 * 2 ** 40 }, 400, 'SIZE_INVALID', /64.0 TiB/],
    ['a size in words', { lss: '12', sizeBytes: '1G' }, 400, 'INVALID_ARGUMENT', /body\/sizeBytes/],
    ['no size', { lss: '12' }, 400, 'INVALID_ARGUMENT', /sizeBytes/],
    ['an unknown key', { lss: '12', sizeBytes: 1, x: 1 }, 400, 'INVALID_ARGUMENT', /'x'/],
    ['an LSS of CKD', { lss: '01', sizeBytes: 1 }, 400, 'LSS_INVALID', /10 to 1F/],
    ['an id that exists', { id: '1203', sizeBytes: 1 }, 409, 'VOLUME_EXISTS', /it exists already/],
    ['a list', [], 400, 'INVALID_ARGUMENT', /must be object/],
    ['no JSON', '{"lss":', 400, 'INVALID_ARGUMENT', /JSON/],
    ['a prototype', '{"__proto__":{}}', 400, 'INVALID_ARGUMENT', /request refused/],
  ])('%s', async (_what, payload, status, code, message) => {
    const admin = await shared().logIn('admin');
    const text = typeof payload === 'string' ? payload : JSON.stringify(payload);
    const answer = await admin('POST', '/v1/volumes', text, 'application/json');
    expect(answer).toMatchObject({ status, body: { code } });
    expect(answer.body['message']).toMatch(message);
    expect(answer.body['message']).toMatch(/^[^\n]+\.$/);
    expect(shared().array.volumes()).toHaveLength(5);
  });

  test('a body over the limit', async () => {
    const admin = await shared().logIn('admin');
    const answer = await admin('POST', '/v1/volumes', { name: 'x'.repeat(2 ** 20) });
    expect(answer).toMatchObject({ status: 413, body: { code: 'INVALID_ARGUMENT' } });
  });
});

describe('flashcopies', () => {
  test('establish, list, show and withdraw', () =>
    scoped(async (scope) => {
      const { logIn } = await openTestApi(scope);
      const admin = await logIn('admin');
      const made = await admin('POST', '/v1/flashcopies', {
        pairs: [PAIR, { source: '1203', target: '30413698' }],
        options: { noCopy: true },
      });
      expect(made).toMatchObject({
        status: 201,
        body: { flashcopies: [{ id: '1203:1303', state: 'nocopy' }, { id: '1203:1304' }] },
      });
      const [first] = made.body['flashcopies'] as object[];
      const list = await admin('GET', '/v1/flashcopies?volume=1303');
      expect(list.body).toEqual({ flashcopies: [first] });
      expect((await admin('GET', '/v1/flashcopies/20313698%3A1303')).body).toEqual(first);
      expect((await admin('DELETE', '/v1/flashcopies/1203:1303')).status).toBe(204);
      const again = await admin('DELETE', '/v1/flashcopies/1203:1303');
      expect(again).toMatchObject({ status: 404, body: { code: 'RELATIONSHIP_NOT_FOUND' } });
    }));

  test('a target in a relationship is refused, with the relationship in the details', () =>
    scoped(async (scope) => {
      const { logIn } = await openTestApi(scope);
      const admin = await logIn('admin');
      const request = { pairs: [PAIR], options: { noCopy: true } };
      await admin('POST', '/v1/flashcopies', request);
      expect(await admin('POST', '/v1/flashcopies', request)).toMatchObject({
        status: 409,
        body: {
          code: 'FC_TARGET_IN_USE',
          details: { refusals: [{ pair: '1203:1303', code: 'FC_TARGET_IN_USE' }] },
        },
      });
    }));
});

describe('POST /v1/flashcopies refuses', () => {
  const shared = sharedApi();

  test.each([
    ['source = target', { pairs: [{ source: '1203', target: '1203' }] }, 409, 'FC_SAME_VOLUME'],
    ['a smaller target', { pairs: [{ source: '1203', target: 'tiny' }] }, 409, 'FC_SIZE_MISMATCH'],
    ['a target twice', { pairs: [PAIR, PAIR] }, 409, 'FC_TARGET_REPEATED'],
    ['an unknown volume', { pairs: [{ source: '1', target: '2' }] }, 404, 'VOLUME_NOT_FOUND'],
    ['no pairs', { pairs: [] }, 400, 'INVALID_ARGUMENT'],
    ['an unknown option', { pairs: [PAIR], options: { fast: true } }, 400, 'INVALID_ARGUMENT'],
  ])('%s', async (_what, payload, status, code) => {
    const admin = await shared().logIn('admin');
    const answer = await admin('POST', '/v1/flashcopies', payload);
    expect(answer).toMatchObject({ status, body: { code } });
    expect(shared().copyServices.list()).toEqual([]);
  });
});

describe('tasks and registration', () => {
  test('a task is saved, run and deleted', () =>
    scoped(async (scope) => {
      const { logIn } = await openTestApi(scope);
      const admin = await logIn('admin');
      const task = { name: 'T1', type: 'establish', pairs: [PAIR], options: { noCopy: true } };
      expect(await admin('POST', '/v1/tasks', task)).toMatchObject({
        status: 201,
        body: { ...task, description: '', lastRun: null },
      });
      expect(await admin('POST', '/v1/tasks/T1/run')).toMatchObject({
        status: 200,
        body: { name: 'T1', status: 'completed', message: 'established 1203:1303 (nocopy)' },
      });
      expect(await admin('POST', '/v1/tasks/T1/run')).toMatchObject({
        status: 409,
        body: { code: 'FC_TARGET_IN_USE' },
      });
      expect((await admin('GET', '/v1/tasks')).body).toMatchObject({
        tasks: [{ name: 'T1', lastRun: { status: 'failed' } }],
      });
      expect((await admin('DELETE', '/v1/tasks/T1')).status).toBe(204);
      expect(await admin('GET', '/v1/tasks/T1')).toMatchObject({
        status: 404,
        body: { code: 'TASK_NOT_FOUND' },
      });
    }));

  test('an empty JSON body is no body', () =>
    scoped(async (scope) => {
      const { logIn } = await openTestApi(scope);
      const admin = await logIn('admin');
      await admin('POST', '/v1/tasks', { name: 'T1', type: 'withdraw', pairs: [PAIR] });
      const run = await admin('POST', '/v1/tasks/T1/run', '', 'application/json');
      expect(run.status).toBe(200);
    }));

  test('one registration string, one reply string', () =>
    scoped(async (scope) => {
      const { logIn } = await openTestApi(scope);
      const admin = await logIn('admin');
      const register = (payload: string, type: string) =>
        admin('POST', '/v1/copyservices/registration', payload, type);
      const request = '102,3,7ffb00bf007f,rich-w2k-os-1,192.168.10.2,false,false';
      const reply = await register(request, 'text/plain');
      expect(reply.text).toBe('102,513,fffb00bf007f,339454995,0');
      expect(reply.headers['content-type']).toMatch(/^text\/plain/);
      // What curl --data says its data is.
      const next = await register(request, 'application/x-www-form-urlencoded');
      expect(next.text).toBe('102,513,fffb00bf007f,339454996,0');
      expect(await register('hello', 'text/plain')).toMatchObject({ status: 400 });
    }));
});

describe('what is not there', () => {
  const shared = sharedApi();

  test.each(['/', '/v1', '/v1/nope', '/v1/volumes/a/b', '/../etc/passwd', `/${'x'.repeat(5000)}`])(
    'GET %s is 404 with a short line',
    async (url) => {
      const admin = await shared().logIn('admin');
      const answer = await admin('GET', url);
      expect(answer).toMatchObject({ status: 404, body: { code: 'NOT_FOUND' } });
      expect(answer.text.length).toBeLessThan(300);
    },
  );

  test('a path that cannot be decoded is refused in the same form', async () => {
    const admin = await shared().logIn('admin');
    const answer = await admin('GET', '/v1/volumes/%zz');
    expect(answer).toMatchObject({ status: 400, body: { code: 'INVALID_ARGUMENT' } });
  });
});

describe('pools', () => {
  test('are made, shown, enlarged, and hold thick volumes', () =>
    scoped(async (scope) => {
      const { logIn, poolDir } = await openTestApi(scope);
      const admin = await logIn('admin');
      const path = `${poolDir}-fast`;
      const body = { name: 'fast', path, sizeBytes: 2 ** 24 };
      expect((await (await logIn('monitor'))('POST', '/v1/pools', body)).status).toBe(403);
      const made = await admin('POST', '/v1/pools', body);
      expect(made).toMatchObject({ status: 201, body: { name: 'fast', path, level: 'ok' } });
      const again = await admin('POST', '/v1/pools', body);
      expect(again).toMatchObject({ status: 409, body: { code: 'ALREADY_EXISTS' } });
      const volume = { lss: '14', sizeBytes: 2 ** 20, pool: 'fast', thick: true };
      const created = await admin('POST', '/v1/volumes', volume);
      expect(created).toMatchObject({ status: 201, body: { pool: 'fast', thick: true } });
      const grown = await admin('POST', '/v1/pools/fast/grow', { sizeBytes: 2 ** 25 });
      expect(grown).toMatchObject({ status: 200, body: { capacityBytes: 2 ** 25 } });
      expect((await admin('GET', '/v1/pools/fast')).body).toMatchObject({ thickBytes: 2 ** 20 });
      expect((await admin('GET', '/v1/pools/nosuch')).status).toBe(404);
      expect((await admin('GET', '/v1/pools')).body['pools']).toHaveLength(2);
    }));
});
