import { expect, test } from 'vitest';
import { TaskService } from '../../../src/copyservices/tasks.js';
import { TaskRepository } from '../../../src/metadata/tasks.js';
import type { Scope } from '../../helpers/cleanup.js';
import { scoped } from '../../helpers/cleanup.js';
import { openTestCopyServices } from '../array/pool.js';
import { openTestDatabase, QUIET } from '../metadata/open.js';

const ESTABLISH = {
  name: 'VMWare_W2K_FC',
  type: 'establish',
  pairs: [{ source: '20313698', target: '1303' }],
  options: { noCopy: true },
  description: 'Disk1 of guest 1 to Disk1 of guest 2',
} as const;
const WITHDRAW = { ...ESTABLISH, name: 'VMWare_W2K_WD', type: 'withdraw' } as const;

async function openTasks(scope: Scope) {
  const services = await openTestCopyServices(scope);
  const records = new TaskRepository(await openTestDatabase(scope), 10);
  const { array, copyServices } = services;
  return { ...services, tasks: new TaskService(records, array, copyServices, QUIET) };
}

test('a task is kept with its volumes by id', () =>
  scoped(async (scope) => {
    const { tasks } = await openTasks(scope);
    const made = tasks.create(ESTABLISH);
    expect(made).toMatchObject({
      ...ESTABLISH,
      pairs: [{ source: '1203', target: '1303' }],
      lastRun: null,
    });
    expect(tasks.list()).toEqual([made]);
    tasks.delete(ESTABLISH.name);
    expect(tasks.list()).toEqual([]);
  }));

test('establish and withdraw by task, and their results', () =>
  scoped(async (scope) => {
    const { tasks, copyServices } = await openTasks(scope);
    tasks.create(ESTABLISH);
    tasks.create(WITHDRAW);
    const run = await tasks.run(ESTABLISH.name);
    expect(run).toMatchObject({
      name: ESTABLISH.name,
      status: 'completed',
      message: 'established 1203:1303 (nocopy)',
    });
    expect(copyServices.list()).toHaveLength(1);
    const { name: _name, ...lastRun } = run;
    expect(tasks.get(ESTABLISH.name).lastRun).toEqual(lastRun);
    expect(await tasks.run(WITHDRAW.name)).toMatchObject({ message: 'withdrawn 1203:1303' });
    expect(copyServices.list()).toEqual([]);
  }));

test('withdrawing a relationship that has ended is a success with a notice', () =>
  scoped(async (scope) => {
    const { tasks } = await openTasks(scope);
    tasks.create(WITHDRAW);
    expect(await tasks.run(WITHDRAW.name)).toMatchObject({
      status: 'completed',
      message: 'nothing to withdraw: 1203:1303 had ended already',
    });
  }));

test('a withdraw of several pairs does what is left to do', () =>
  scoped(async (scope) => {
    const { tasks, copyServices } = await openTasks(scope);
    const pairs = [
      { source: '1203', target: '1303' },
      { source: '1204', target: '1304' },
    ];
    tasks.create({ ...WITHDRAW, pairs });
    await copyServices.establish({ pairs: pairs.slice(1), noCopy: true });
    const { message } = await tasks.run(WITHDRAW.name);
    expect(message).toBe('withdrawn 1204:1304; nothing to withdraw: 1203:1303 had ended already');
  }));

test('a refused run is an error, and its result is kept', () =>
  scoped(async (scope) => {
    const { tasks } = await openTasks(scope);
    tasks.create(ESTABLISH);
    await tasks.run(ESTABLISH.name);
    await expect(tasks.run(ESTABLISH.name)).rejects.toMatchObject({ code: 'FC_TARGET_IN_USE' });
    expect(tasks.get(ESTABLISH.name).lastRun).toMatchObject({
      status: 'failed',
      message: expect.stringMatching(/^1203:1303 refused: 1303 is already the target/) as string,
    });
  }));

test.each([
  ['a blank in its name', { name: 'my task' }, 'INVALID_ARGUMENT'],
  ['a leading minus', { name: '-v' }, 'INVALID_ARGUMENT'],
  ['a slash', { name: 'a/b' }, 'INVALID_ARGUMENT'],
  ['a name of 65 characters', { name: 'x'.repeat(65) }, 'INVALID_ARGUMENT'],
  ['a name that exists', { name: 'other' }, 'TASK_EXISTS'],
  ['an unknown volume', { pairs: [{ source: '1203', target: '1999' }] }, 'VOLUME_NOT_FOUND'],
  ['source = target', { pairs: [{ source: '1203', target: '20313698' }] }, 'FC_SAME_VOLUME'],
])('a task with %s is refused', (_what, change, code) =>
  scoped(async (scope) => {
    const { tasks } = await openTasks(scope);
    tasks.create({ ...ESTABLISH, name: 'other' });
    expect(() => tasks.create({ ...ESTABLISH, ...change })).toThrow(
      expect.objectContaining({ code }) as Error,
    );
    expect(tasks.list()).toHaveLength(1);
  }),
);

test.each(['nope', 'vmware_w2k_fc', '\u001b[2J', 'x'.repeat(1000)])(
  'the unknown task %j is refused in one line',
  (name) =>
    scoped(async (scope) => {
      const { tasks } = await openTasks(scope);
      tasks.create(ESTABLISH);
      await expect(tasks.run(name)).rejects.toMatchObject({ code: 'TASK_NOT_FOUND' });
      await expect(tasks.run(name)).rejects.toThrow(/^there is no [\x20-\x7e]{1,200}$/);
    }),
);
