// Schedules as people use them, at a real minute, through SIGKILL, and what they refuse.
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { Scope, scoped } from '../helpers/cleanup.js';
import { type Server, startServer } from '../helpers/server.js';
import { until } from '../helpers/wait.js';

interface ScheduleView {
  readonly nextRunAt: string;
  readonly lastRun: { readonly status: string; readonly dueAt: string } | null;
  readonly copies: { readonly pairs: { source: string; target: string }[] }[];
}

const scope = new Scope();
let server: Server;

beforeAll(async () => {
  server = await startServer(scope);
});

afterAll(() => scope.close());

/** Words of a command line; what stands in quotes is one. */
function words(line: string): string[] {
  return [...line.matchAll(/'([^']*)'|(\S+)/g)].map(([, quoted, plain]) => quoted ?? plain ?? '');
}

async function flashlun(line: string): Promise<string> {
  const { code, stdout, stderr } = await server.flashlun(...words(line));
  expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
  return stdout;
}

async function refused(line: string, exitCode: number): Promise<string> {
  const { code, stdout, stderr } = await server.flashlun(...words(line));
  expect(stderr).toMatch(/^flashlun: [^\n]+\n$/);
  expect({ line, code, stdout }).toEqual({ line, code: exitCode, stdout: '' });
  return stderr;
}

async function pairs(): Promise<string[]> {
  return (await server.api.flashcopies()).map(({ id }) => id);
}

test('a task at certain times: create, list, run, disable, enable, history, delete', async () => {
  await flashlun('task create End withdraw 1203:1303');
  expect(
    await flashlun(
      "schedule create nightly --cron '30 2 * * *' --timezone Europe/Berlin --task End",
    ),
  ).toMatch(/^Created schedule nightly \(next \d{4}-/);
  expect(await flashlun('schedule list')).toMatch(
    /^nightly +30 2 \* \* \* +Europe\/Berlin +task End +\d{4}-\S+ \S+ +-$/m,
  );
  expect(await flashlun('schedule run nightly')).toMatch(/^Schedule nightly completed: nothing to/);
  expect(await flashlun('schedule disable nightly')).toBe('Schedule nightly is disabled.\n');
  expect(await flashlun('schedule show nightly')).toMatch(/^next run +switched off$/m);
  expect(await flashlun('schedule enable nightly')).toBe('Schedule nightly is enabled.\n');
  expect(await flashlun('schedule history nightly')).toMatch(/^by hand +\S+ \S+ +completed/m);
  expect(await flashlun('task history End')).toMatch(/schedule nightly/);
  expect(await refused('task delete End', 6)).toMatch(/schedule nightly runs it/);
  expect(await flashlun('schedule delete nightly')).toBe('Deleted schedule nightly.\n');
  await flashlun('task delete End');
});

test('a rotation with locks: copies in turn, kept against everybody', async () => {
  await flashlun(
    "schedule create db --cron '0 0 1 1 *' --source 1203 1204 --targets 1303,1304 1205,1206" +
      ' --lock-for 1h --nocopy',
  );
  expect(await flashlun('schedule run db')).toMatch(
    /established 1203:1303, 1204:1304 \(set 1 of 2/,
  );
  await flashlun('schedule run db');
  expect(await pairs()).toEqual(['1203:1205', '1203:1303', '1204:1206', '1204:1304']);
  expect(await refused('schedule run db', 6)).toMatch(/in all 2 target sets are locked/);
  for (const line of [
    'flashcopy withdraw 1203:1303',
    'flashcopy resync 1204:1206',
    'flashcopy reverse 1203:1205 --fast',
    'schedule delete db',
  ]) {
    expect(await refused(line, 6)).toMatch(/locked until/);
  }
  expect(await flashlun('schedule show db')).toMatch(
    /^copies +1203:1205 1204:1206 \(.*locked until/m,
  );
  expect(await pairs()).toHaveLength(4);
});

describe('bad input: one line, nothing changed', () => {
  const create = "schedule create S --cron '@daily'";

  test.each<[string, number, RegExp]>([
    ['schedule create S --task T', 2, /--cron/],
    [create, 2, /say what to run/],
    [`${create} --task T --keep 2`, 2, /goes without/],
    [`${create} --source 1203`, 2, /say what to run/],
    [`${create} --task Nope`, 6, /no task 'Nope'/],
    [`${create} --source 1203 --targets 1999`, 6, /1999/],
    [`${create} --source 1203 --targets 1303,1304`, 2, /needs 1 volumes/],
    [`${create} --source 1203 --targets 1203`, 2, /twice/],
    [`${create} --source 1203 --targets 1303 --keep 2`, 2, /keep 1 to 1/],
    [`${create} --source 1203 --targets 1303 --keep x`, 2, /not a number/],
    [`${create} --source 1203 --targets 1303 --lock-for 1w`, 2, /not a time/],
    [`${create} --source 1203 --targets 1303 --missed never`, 2, /once/],
    [`${create} --source 1203 --targets 1303 --timezone Mars`, 2, /time zone/],
    ["schedule create S --cron '61 * * * *' --task T", 2, /no minute/],
    ["schedule create S --cron 'a\u001bb' --task T", 2, /five fields/],
    [`schedule create ${'x'.repeat(300)} --cron @daily --task T`, 2, /256/],
    ['schedule run Nope', 6, /no schedule 'Nope'/],
    ['schedule show Nope', 6, /no schedule 'Nope'/],
    ['schedule enable Nope', 6, /no schedule 'Nope'/],
    ['schedule history Nope', 6, /no schedule 'Nope'/],
    ['schedule delete Nope', 6, /no schedule 'Nope'/],
  ])('%s', async (line, code, message) => {
    const before = await server.api.call('GET', '/v1/schedules');
    expect(await refused(line, code)).toMatch(message);
    expect(await server.api.call('GET', '/v1/schedules')).toEqual(before);
  });

  test.each<[string, string, unknown, number]>([
    ['POST', '/v1/schedules', {}, 400],
    ['POST', '/v1/schedules', { name: 'S', cron: 5, task: 'T' }, 400],
    ['POST', '/v1/schedules', { name: 'S', cron: '@daily', task: 'T', extra: 1 }, 400],
    ['POST', '/v1/schedules', { name: 'S', cron: '@daily', rotation: { sources: [] } }, 400],
    ['PATCH', '/v1/schedules/Nope', { enabled: 'yes' }, 400],
    ['PATCH', '/v1/schedules/Nope', { enabled: true }, 404],
    ['POST', '/v1/schedules/Nope/run', undefined, 404],
    ['GET', '/v1/schedules/Nope/runs', undefined, 404],
    ['POST', '/v1/tasks', { name: 'T', type: 'nonsense', pairs: [] }, 400],
    ['POST', '/v1/tasks', { name: 'T', type: 'group', tasks: ['Nope'] }, 404],
    ['POST', '/v1/tasks/run', { type: 'establish' }, 400],
    ['POST', '/v1/tasks/run', { type: 'group', tasks: ['Nope'] }, 404],
    ['POST', '/v1/tasks/import', { tasks: [] }, 400],
    ['GET', '/v1/tasks/Nope/runs', undefined, 404],
    ['POST', '/v1/copyservices/prime', { clientId: 1, disks: [] }, 400],
    ['POST', '/v1/copyservices/prime', { clientId: 'x', disks: [] }, 400],
  ])('%s %s %j', async (method, path, body, status) => {
    const state = () =>
      Promise.all(
        ['/v1/schedules', '/v1/tasks', '/v1/hosts', '/v1/flashcopies'].map((each) =>
          server.api.call('GET', each),
        ),
      );
    const before = await state();
    const reply = await server.api.request(method, path, body);
    expect(reply).toMatchObject({
      status,
      body: { message: expect.stringMatching(/^[^\n]+$/) as string },
    });
    expect(await state()).toEqual(before);
  });
});

test('a real minute comes, and SIGKILL after it repeats nothing', () =>
  scoped(async (own) => {
    const first = await startServer(own);
    const rotation = { sources: ['1203'], targetSets: [['1303']], options: { noCopy: true } };
    await first.api.call('POST', '/v1/schedules', { name: 'S', cron: '* * * * *', rotation });
    const view = (of: Server) => of.api.call<ScheduleView>('GET', '/v1/schedules/S');
    const ran = await until(
      'the first run',
      async () => {
        const found = await view(first);
        return found.lastRun?.status === 'completed' && found;
      },
      { deadlineMs: 75_000, pollMs: 200, diagnosis: () => first.log },
    );
    await first.kill9();
    const second = await startServer(own, { data: first.data });
    const after = await view(second);
    expect(after.copies).toMatchObject([{ pairs: [{ source: '1203', target: '1303' }] }]);
    const { runs } = await second.api.call<{ runs: { dueAt: string }[] }>(
      'GET',
      '/v1/schedules/S/runs',
    );
    const due = runs.map(({ dueAt }) => dueAt);
    expect(due).toContain(ran.lastRun?.dueAt);
    expect(new Set(due).size).toBe(due.length);
  }));
