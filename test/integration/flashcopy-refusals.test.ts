/** Bad input of every verb of FlashCopy, through the API and the command line: nothing changes. */
import { expect, test } from 'vitest';
import { type Scope, scoped } from '../helpers/cleanup.js';
import { exec } from '../helpers/exec.js';
import { FLASHLUN, type Server, startServer } from '../helpers/server.js';

const SIZE = 2 ** 20;
const AB = { source: '1200', target: '1300' };

/** A server with 1200 and 1201 in LSS 12, 1300 and 1301 in LSS 13. */
async function arrayOf(scope: Scope): Promise<Server> {
  const server = await startServer(scope, { args: ['--no-demo'] });
  for (const lss of ['12', '12', '13', '13']) await server.api.createVolume(lss, SIZE);
  return server;
}

/** Body or path that is wrong, for each verb; nothing may change. */
const BAD: readonly (readonly [string, string, object | undefined, number, string])[] = [
  ['POST', '', { pairs: [] }, 400, 'INVALID_ARGUMENT'],
  ['POST', '', { pairs: [AB], options: { record: true } }, 400, 'INVALID_ARGUMENT'],
  ['POST', '', { pairs: [AB], options: { freezeSeconds: 3 } }, 400, 'INVALID_ARGUMENT'],
  [
    'POST',
    '',
    { pairs: [AB], options: { freeze: true, freezeSeconds: 0 } },
    400,
    'INVALID_ARGUMENT',
  ],
  ['POST', '', { pairs: [AB], options: { priority: 10 } }, 400, 'INVALID_ARGUMENT'],
  ['POST', '', { pairs: [AB], options: { copyBytesPerSecond: 1 } }, 400, 'INVALID_ARGUMENT'],
  ['POST', '', { pairs: [AB], options: { targetOnline: 'maybe' } }, 400, 'INVALID_ARGUMENT'],
  ['POST', '', { pairs: [AB], options: { undoSeconds: 1e9 } }, 400, 'INVALID_ARGUMENT'],
  ['POST', '', { pairs: [AB], options: { unknown: true } }, 400, 'INVALID_ARGUMENT'],
  ['POST', '', { pairs: [{ source: '1200', target: '1999' }] }, 404, 'VOLUME_NOT_FOUND'],
  ['POST', '/resync', { pairs: [AB] }, 404, 'RELATIONSHIP_NOT_FOUND'],
  ['POST', '/1200:1201/resync', { options: { record: true } }, 400, 'INVALID_ARGUMENT'],
  ['POST', '/nonsense/resync', undefined, 400, 'INVALID_ARGUMENT'],
  ...['reverse', 'copy', 'pause', 'resume', 'set-revertible', 'commit', 'revert'].map(
    (name) => ['POST', `/1200:1300/${name}`, undefined, 404, 'RELATIONSHIP_NOT_FOUND'] as const,
  ),
  ['PATCH', '/1200:1201', { priority: -1 }, 400, 'INVALID_ARGUMENT'],
  ['PATCH', '/1200:1300', { priority: 1 }, 404, 'RELATIONSHIP_NOT_FOUND'],
  ['DELETE', '/1200:1300', undefined, 404, 'RELATIONSHIP_NOT_FOUND'],
];

test('bad input of every verb is one clear line, and changes nothing', () =>
  scoped(async (scope) => {
    const server = await arrayOf(scope);
    await server.api.establish(['1200:1201'], true);
    const before = await server.api.flashcopies();
    for (const [method, path, body, status, code] of BAD) {
      const reply = await server.api.request(method, `/v1/flashcopies${path}`, body);
      const what = `${method} ${path} ${JSON.stringify(body)}`;
      expect([what, reply.status, (reply.body as { code: string }).code]).toEqual([
        what,
        status,
        code,
      ]);
      expect((reply.body as { message: string }).message).toMatch(/^[^\n]+$/);
    }
    for (const [method, path, body, code] of [
      ['POST', '/v1/consistency-groups/unfreeze', { lss: ['99'] }, 'LSS_INVALID'],
      ['POST', '/v1/consistency-groups/unfreeze', { lss: [] }, 'INVALID_ARGUMENT'],
      ['PATCH', '/v1/lss/12', { freezeTimeout: 0 }, 'INVALID_ARGUMENT'],
      ['PATCH', '/v1/lss/12', { freezeTimeout: 1e6 }, 'INVALID_ARGUMENT'],
      ['PATCH', '/v1/copyservices', { copyBytesPerSecond: 5 }, 'INVALID_ARGUMENT'],
    ] as const) {
      const reply = await server.api.request(method, path, body);
      expect(reply.body).toMatchObject({ code });
    }
    expect(await server.api.flashcopies()).toEqual(before);
  }));

test('the command line: every verb with bad input ends with one line and the right code', () =>
  scoped(async (scope) => {
    const server = await arrayOf(scope);
    const cases: readonly (readonly [string[], number])[] = [
      [['establish', '1200'], 2],
      [['establish', '1200:1300', '--priority', 'high'], 2],
      [['establish', '1200:1300', '--copy-rate', '0'], 2],
      [['establish', '1200:1300', '--target-online', 'maybe'], 2],
      [['establish', '1200:1300', '--record'], 2],
      [['establish', '1200:1300', '--undo', 'x'], 2],
      [['establish', '1200:1200'], 6],
      [['resync', '1200:1300'], 6],
      [['reverse', '1200:1300', '--fast'], 6],
      [['pause', '1200:1300'], 6],
      [['set', '1200:1300'], 2],
      [['set', '--priority', '3'], 2],
      [['unfreeze', '99'], 6],
      [['undo', '1300'], 6],
    ];
    for (const [args, code] of cases) {
      const run = await exec(FLASHLUN, ['--data', server.data, 'flashcopy', ...args]);
      expect([args.join(' '), run.code, run.stdout]).toEqual([args.join(' '), code, '']);
      expect(run.stderr).toMatch(/^flashlun: [^\n]+\n$/);
    }
    expect(await server.api.flashcopies()).toEqual([]);
  }));
