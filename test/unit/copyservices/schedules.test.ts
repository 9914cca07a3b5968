// Schedules on the real engine, with a clock of the test's own.
import { describe, expect, test } from 'vitest';
import { CopyLocks } from '../../../src/copyservices/copy-locks.js';
import { Scheduler } from '../../../src/copyservices/scheduler.js';
import { Schedules } from '../../../src/copyservices/schedules.js';
import { TaskService } from '../../../src/copyservices/tasks.js';
import {
  CopyRepository,
  ScheduleRepository,
  ScheduleRunRepository,
} from '../../../src/metadata/schedules.js';
import { TaskRepository } from '../../../src/metadata/tasks.js';
import type { Scope } from '../../helpers/cleanup.js';
import { scoped } from '../../helpers/cleanup.js';
import { until } from '../../helpers/wait.js';
import { openTestCopyServices } from '../array/pool.js';
import { QUIET } from '../metadata/open.js';

const MINUTE_MS = 60_000;
const HOUR_MS = 60 * MINUTE_MS;
const DAY_MS = 24 * HOUR_MS;

async function open(scope: Scope) {
  const guard: { locks?: CopyLocks } = {};
  const base = await openTestCopyServices(scope, undefined, {
    locks: { check: (ids, what) => guard.locks?.check(ids, what) },
  });
  const { copyServices, db } = base;
  for (const id of ['1305', '1306']) await base.array.create({ id, sizeBytes: 2 ** 20 });
  // Copies are dated by the engine, so this clock begins where the real one is.
  const clock = { ms: Math.ceil(Date.now() / DAY_MS) * DAY_MS };
  const now = () => clock.ms;
  const copies = new CopyRepository(db);
  const locks = new CopyLocks(copies, now);
  guard.locks = locks;
  base.array.mayDelete = (id) => locks.check([id], 'delete');
  const tasks = new TaskService(new TaskRepository(db, 10), base.array, copyServices, QUIET);
  const records = new ScheduleRepository(db);
  const runs = new ScheduleRunRepository(db, 10);
  const parts = { runs, copies, tasks, log: QUIET, now };
  const make = () => {
    const schedules = new Schedules({ ...parts, schedules: records, array: base.array });
    return { schedules, scheduler: new Scheduler({ ...parts, schedules, records, copyServices }) };
  };
  const { schedules, scheduler } = make();
  const create = (change: Partial<Parameters<Schedules['create']>[0]>) =>
    schedules.create({ name: 'S', cron: '0 * * * *', ...change }, 'admin');
  /** Looks at the time, waits for what that began, and returns the last run. */
  const pass = async (ms: number) => {
    clock.ms += ms;
    scheduler.tick();
    await scheduler.pause();
    return schedules.get('S').lastRun;
  };
  const live = () => copyServices.list().map(({ id }) => id);
  const made = { clock, copies, copyServices, tasks, records, runs, schedules, scheduler };
  return { ...base, ...made, make, create, pass, live };
}

const TASK = {
  name: 'T',
  type: 'establish',
  pairs: [{ source: '1203', target: '1303' }],
  options: { noCopy: true },
} as const;
const ROTATION = {
  sources: ['1203'],
  targetSets: [['1303'], ['1304'], ['1305']],
  options: { noCopy: true },
};

describe('times', () => {
  test('a task runs when it is due, once, and its result is kept', () =>
    scoped(async (scope) => {
      const { create, live, pass, schedules, tasks } = await open(scope);
      tasks.create(TASK);
      const made = create({ task: 'T' });
      expect(made).toMatchObject({ enabled: true, lastRun: null, timeZone: 'UTC', rotation: null });
      expect(await pass(59 * MINUTE_MS)).toBeNull();
      expect(await pass(MINUTE_MS)).toMatchObject({ status: 'completed', dueAt: made.nextRunAt });
      expect(live()).toEqual(['1203:1303']);
      await pass(0);
      expect(schedules.history('S')).toHaveLength(1);
      expect(tasks.get('T').lastRun).toMatchObject({ startedBy: 'schedule S' });
      expect(await pass(HOUR_MS)).toMatchObject({
        status: 'failed',
        message: expect.stringMatching(/already the target/) as string,
      });
    }));

  test('times missed are made up for by one run, or skipped', () =>
    scoped(async (scope) => {
      const { create, pass, schedules, tasks } = await open(scope);
      tasks.create({ ...TASK, type: 'withdraw', options: {} });
      create({ task: 'T' });
      expect((await pass(5 * HOUR_MS + 10 * MINUTE_MS))?.message).toMatch(
        /\(5 earlier times missed\)/,
      );
      expect(await pass(50 * MINUTE_MS)).toMatchObject({ status: 'completed' });
      expect(schedules.history('S')).toHaveLength(2);
      schedules.delete('S', 'admin');
      create({ task: 'T', missed: 'skip' });
      expect(await pass(3 * HOUR_MS + 10 * MINUTE_MS)).toMatchObject({
        status: 'skipped',
        message: '3 earlier times missed',
      });
      expect(await pass(50 * MINUTE_MS)).toMatchObject({ status: 'completed' });
    }));

  test('a clock put back a little runs nothing twice; put back far, it goes on', () =>
    scoped(async (scope) => {
      const { create, pass, schedules, tasks } = await open(scope);
      tasks.create({ ...TASK, type: 'withdraw', options: {} });
      create({ task: 'T', cron: '*/10 * * * *' });
      await pass(10 * MINUTE_MS);
      await pass(-15 * MINUTE_MS);
      await pass(15 * MINUTE_MS);
      expect(schedules.history('S')).toHaveLength(1);
      await pass(-DAY_MS);
      expect(schedules.history('S')).toHaveLength(1);
      await pass(10 * MINUTE_MS);
      expect(schedules.history('S')).toHaveLength(2);
    }));

  test('switched off it does not run, and does not make up for it', () =>
    scoped(async (scope) => {
      const { create, pass, schedules, tasks } = await open(scope);
      tasks.create({ ...TASK, type: 'withdraw', options: {} });
      expect(create({ task: 'T', enabled: false }).nextRunAt).toBeNull();
      expect(await pass(5 * HOUR_MS)).toBeNull();
      schedules.setEnabled('S', true, 'admin');
      expect(await pass(MINUTE_MS)).toBeNull();
      expect(await pass(HOUR_MS)).toMatchObject({ status: 'completed' });
    }));

  test('the timer finds what is due by itself', () =>
    scoped(async (scope) => {
      const { clock, create, records, schedules, scheduler, tasks } = await open(scope);
      tasks.create({ ...TASK, type: 'withdraw', options: {} });
      create({ task: 'T' });
      clock.ms += HOUR_MS;
      scheduler.start();
      scope.defer('stop the scheduler', () => scheduler.pause());
      await until('the run', () => schedules.get('S').lastRun?.status === 'completed', {
        deadlineMs: 5_000,
      });
      expect(records.get('S')?.doneUntilMs).toBe(clock.ms);
    }));
});

describe('rotation', () => {
  test('targets are used in turn, and the newest copies kept', () =>
    scoped(async (scope) => {
      const { create, live, pass } = await open(scope);
      create({ rotation: { ...ROTATION, keep: 2 } });
      expect((await pass(HOUR_MS))?.message).toBe('established 1203:1303 (set 1 of 3)');
      await pass(HOUR_MS);
      expect((await pass(HOUR_MS))?.message).toBe(
        'established 1203:1305 (set 3 of 3); gave up 1203:1303',
      );
      expect(live()).toEqual(['1203:1304', '1203:1305']);
      expect((await pass(HOUR_MS))?.message).toMatch(/^established 1203:1303 \(set 1 of 3\)/);
      expect(live()).toEqual(['1203:1303', '1203:1305']);
    }));

  test('all sources are copied at one T0; a refused run changes nothing', () =>
    scoped(async (scope) => {
      const { copyServices, create, live, pass, schedules } = await open(scope);
      const targetSets = [
        ['1303', '1304'],
        ['1305', '1306'],
      ];
      create({ rotation: { ...ROTATION, sources: ['1203', '1204'], targetSets } });
      await pass(HOUR_MS);
      const [first, second] = copyServices.list();
      expect(first?.establishedAt).toBe(second?.establishedAt);
      const other = { source: '1204', target: '1306' };
      await copyServices.withdraw({ source: '1204', target: '1304' });
      await copyServices.establish({ pairs: [other], noCopy: true });
      const before = live();
      expect(await pass(HOUR_MS)).toMatchObject({ status: 'failed' });
      expect(live()).toEqual(before);
      expect(schedules.get('S').copies).toHaveLength(1);
    }));

  test('a locked copy is kept, against everybody, until its time is over', () =>
    scoped(async (scope) => {
      const { array, copyServices, create, live, pass, schedules } = await open(scope);
      create({ rotation: { ...ROTATION, targetSets: [['1303'], ['1304']], lockSeconds: 9000 } });
      await pass(HOUR_MS);
      await pass(HOUR_MS);
      expect(await pass(HOUR_MS / 4)).toMatchObject({ status: 'completed' });
      const pair = { source: '1203', target: '1303' };
      const locked = expect.objectContaining({ code: 'COPY_LOCKED' }) as Error;
      await expect(copyServices.withdraw(pair)).rejects.toThrow(locked);
      await expect(copyServices.resync(pair)).rejects.toThrow(locked);
      await expect(copyServices.reverse(pair, { fast: true })).rejects.toThrow(locked);
      expect(() => schedules.delete('S', 'admin')).toThrow(locked);
      expect(() => array.mayDelete(0x1303)).toThrow(/1303 holds a copy of schedule S/);
      expect(live()).toEqual(['1203:1303', '1203:1304']);
      // 1303 is locked for 2.5 hours from the first hour on.
      expect((await pass((HOUR_MS * 3) / 4))?.message).toMatch(/copies in all 2 target sets/);
      expect((await pass(HOUR_MS))?.message).toBe('established 1203:1303 (set 1 of 2)');
      await pass(-HOUR_MS / 2);
      await pass(5 * HOUR_MS);
      expect(schedules.get('S').copies.map(({ pairs: [first] }) => first?.target)).toEqual([
        '1304',
        '1303',
      ]);
    }));

  test('a server that was killed finds out what it had made', () =>
    scoped(async (scope) => {
      const { clock, copies, copyServices, create, make, runs, schedules } = await open(scope);
      create({ rotation: { ...ROTATION, lockSeconds: 60 } });
      const begun = Date.now() - 1;
      const pairs = [{ source: '1203', target: '1303' }];
      runs.begin('S', clock.ms, clock.ms);
      copies.begin({ schedule: 'S', pairs, setIndex: 0 }, begun);
      copies.begin(
        { schedule: 'S', pairs: [{ source: '1203', target: '1304' }], setIndex: 1 },
        begun,
      );
      await copyServices.establish({ pairs, noCopy: true });
      const { scheduler } = make();
      scheduler.start();
      await scheduler.pause();
      const view = schedules.get('S');
      expect(view.lastRun).toMatchObject({ status: 'interrupted' });
      expect(view.copies).toMatchObject([{ pairs, lockedUntil: expect.any(String) as string }]);
    }));
});

describe('refusals', () => {
  test.each<[string, object, string]>([
    ['a blank in its name', { name: 'a b' }, 'INVALID_ARGUMENT'],
    ['a name that is there', { name: 'there' }, 'ALREADY_EXISTS'],
    ['no such times', { cron: '61 * * * *' }, 'INVALID_ARGUMENT'],
    ['no such zone', { timeZone: 'x' }, 'INVALID_ARGUMENT'],
    ['no such task', { task: 'U' }, 'TASK_NOT_FOUND'],
    ['nothing to run', { task: undefined }, 'INVALID_ARGUMENT'],
    ['both', { rotation: ROTATION }, 'INVALID_ARGUMENT'],
    ['no sources', { task: undefined, rotation: { ...ROTATION, sources: [] } }, 'INVALID_ARGUMENT'],
    [
      'no such volume',
      { task: undefined, rotation: { ...ROTATION, sources: ['1999'] } },
      'VOLUME_NOT_FOUND',
    ],
    [
      'a set of another size',
      { task: undefined, rotation: { ...ROTATION, targetSets: [['1303', '1304']] } },
      'INVALID_ARGUMENT',
    ],
    [
      'a volume twice',
      { task: undefined, rotation: { ...ROTATION, targetSets: [['1303'], ['20313698']] } },
      'INVALID_ARGUMENT',
    ],
    [
      'more to keep than sets',
      { task: undefined, rotation: { ...ROTATION, keep: 4 } },
      'INVALID_ARGUMENT',
    ],
    [
      'a lock of no length',
      { task: undefined, rotation: { ...ROTATION, lockSeconds: -1 } },
      'INVALID_ARGUMENT',
    ],
  ])('%s', (_what, change, code) =>
    scoped(async (scope) => {
      const { create, schedules, tasks } = await open(scope);
      tasks.create(TASK);
      create({ name: 'there', task: 'T' });
      const refused = expect.objectContaining({ code }) as Error;
      expect(() => create({ task: 'T', ...change })).toThrow(refused);
      expect(schedules.list()).toHaveLength(1);
    }),
  );

  test('a task of a schedule is not deleted; what is not there is said so', () =>
    scoped(async (scope) => {
      const { create, schedules, scheduler, tasks } = await open(scope);
      tasks.create(TASK);
      create({ task: 'T' });
      expect(() => tasks.delete('T')).toThrow(/schedule S runs it/);
      const missing = expect.objectContaining({ code: 'SCHEDULE_NOT_FOUND' }) as Error;
      expect(() => schedules.get('nope')).toThrow(missing);
      expect(() => schedules.delete('nope', 'admin')).toThrow(missing);
      await expect(scheduler.runNow('nope')).rejects.toThrow(missing);
      expect(await scheduler.runNow('S')).toMatchObject({ status: 'completed', dueAt: null });
      await expect(scheduler.runNow('S')).rejects.toMatchObject({ code: 'FC_TARGET_IN_USE' });
      schedules.delete('S', 'admin');
      tasks.delete('T');
    }));
});
