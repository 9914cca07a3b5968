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
const WITHDRAW = {
  ...ESTABLISH,
  name: 'VMWare_W2K_WD',
  type: 'withdraw',
  options: {},
} as const;

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
    const run = await tasks.run(ESTABLISH.name, 'user admin');
    expect(run).toMatchObject({
      name: ESTABLISH.name,
      status: 'completed',
      message: 'established 1203:1303 (nocopy)',
    });
    expect(copyServices.list()).toHaveLength(1);
    const { name: _name, ...lastRun } = run;
    expect(tasks.get(ESTABLISH.name).lastRun).toEqual(lastRun);
    expect(await tasks.run(WITHDRAW.name, 'user admin')).toMatchObject({
      message: 'withdrawn 1203:1303',
    });
    expect(copyServices.list()).toEqual([]);
  }));

test('withdrawing a relationship that has ended is a success with a notice', () =>
  scoped(async (scope) => {
    const { tasks } = await openTasks(scope);
    tasks.create(WITHDRAW);
    expect(await tasks.run(WITHDRAW.name, 'user admin')).toMatchObject({
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
    const { message } = await tasks.run(WITHDRAW.name, 'user admin');
    expect(message).toBe('withdrawn 1204:1304; nothing to withdraw: 1203:1303 had ended already');
  }));

test('a refused run is an error, and its result is kept', () =>
  scoped(async (scope) => {
    const { tasks } = await openTasks(scope);
    tasks.create(ESTABLISH);
    await tasks.run(ESTABLISH.name, 'user admin');
    await expect(tasks.run(ESTABLISH.name, 'user admin')).rejects.toMatchObject({
      code: 'FC_TARGET_IN_USE',
    });
    expect(tasks.get(ESTABLISH.name).lastRun).toMatchObject({
      status: 'failed',
      message: expect.stringMatching(/^1203:1303 refused: 1303 is already the target/) as string,
    });
  }));

test.each([
  ['no pairs', { pairs: [] }, 'INVALID_ARGUMENT'],
  ['tasks', { tasks: ['other'] }, 'INVALID_ARGUMENT'],
  ['an option of another type', { type: 'withdraw' } as const, 'INVALID_ARGUMENT'],
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
      await expect(tasks.run(name, 'user admin')).rejects.toMatchObject({ code: 'TASK_NOT_FOUND' });
      await expect(tasks.run(name, 'user admin')).rejects.toThrow(
        /^there is no [\x20-\x7e]{1,200}$/,
      );
    }),
);

test('resync and reverse by task, and what is not there is refused before the first pair', () =>
  scoped(async (scope) => {
    const { tasks, copyServices } = await openTasks(scope);
    const pairs = [
      { source: '1203', target: '1303' },
      { source: '1204', target: '1304' },
    ];
    await copyServices.establish({ pairs: pairs.slice(0, 1), noCopy: true });
    const before = copyServices.list();
    tasks.create({ name: 'again', type: 'resync', pairs, options: { noCopy: true } });
    await expect(tasks.run('again', 'user a')).rejects.toMatchObject({
      code: 'RELATIONSHIP_NOT_FOUND',
    });
    expect(copyServices.list()).toEqual(before);
    await copyServices.establish({ pairs: pairs.slice(1), noCopy: true });
    expect(await tasks.run('again', 'user a')).toMatchObject({
      message: 'resynced 1203:1303, 1204:1304',
    });
    const options = { fast: true, noCopy: true };
    const round = { type: 'reverse', pairs: pairs.slice(0, 1), options } as const;
    expect(await tasks.runNow(round, 'user a')).toMatchObject({ message: 'reversed 1203:1303' });
    expect(copyServices.list().map(({ id }) => id)).toEqual(['1204:1304', '1303:1203']);
    await expect(tasks.runNow(round, 'user a')).rejects.toThrow(/no relationship 1203:1303/);
    expect(tasks.list()).toHaveLength(1);
  }));

test('freeze and "consistency created" by tasks, in a group', () =>
  scoped(async (scope) => {
    const { engine, tasks } = await openTasks(scope);
    const options = { freeze: true, persistent: true };
    tasks.create({ ...ESTABLISH, name: 'Freeze', options });
    const created = tasks.create({
      name: 'Created',
      type: 'consistency-created',
      lss: ['12', '1f'],
    });
    expect(created).toMatchObject({ lss: ['12', '1F'], pairs: [], options: {} });
    tasks.create({ name: 'Consistent', type: 'group', tasks: ['Freeze', 'Created'] });
    expect((await tasks.run('Consistent', 'user admin')).message).toMatch(
      /^Freeze: established 1203:1303 .*; Created: LSS 12: 1 sources held for [\d.]+ s; LSS 1F: /,
    );
    expect(engine.volume(0x1203)?.frozenUntilUnixMs).toBe(0);
    for (const bad of [
      { lss: ['99'] },
      { lss: [] },
      { lss: ['12'], options: { freeze: true } },
      { lss: ['12'], pairs: ESTABLISH.pairs },
    ]) {
      expect(() => tasks.create({ name: 'X', type: 'consistency-created', ...bad })).toThrow();
    }
    const record = { ...ESTABLISH, name: 'X', options: { record: true } };
    expect(() => tasks.create(record)).toThrow(/change recording needs/);
    expect(tasks.list()).toHaveLength(3);
  }));

test('a group runs its tasks in order, up to the first that fails', () =>
  scoped(async (scope) => {
    const { tasks, copyServices } = await openTasks(scope);
    tasks.create(ESTABLISH);
    tasks.create(WITHDRAW);
    const members = [WITHDRAW.name, ESTABLISH.name];
    tasks.create({ name: 'G', type: 'group', tasks: members });
    expect((await tasks.run('G', 'user admin')).message).toBe(
      'VMWare_W2K_WD: nothing to withdraw: 1203:1303 had ended already; ' +
        'VMWare_W2K_FC: established 1203:1303 (nocopy)',
    );
    expect((await tasks.run('G', 'user admin')).message).toMatch(/WD: withdrawn.*FC: established/);
    expect(tasks.get(WITHDRAW.name).lastRun).toMatchObject({ startedBy: 'group G' });
    tasks.import([{ name: 'G', type: 'group', tasks: [...members].reverse() }], true);
    await expect(tasks.run('G', 'user admin')).rejects.toThrow(/^task VMWare_W2K_FC of the group/);
    expect(copyServices.list()).toHaveLength(1);
    expect(tasks.history('G').map(({ status }) => status)).toEqual([
      'failed',
      'completed',
      'completed',
    ]);
    expect(() => tasks.delete(ESTABLISH.name)).toThrow(/refused: group G runs it/);
    tasks.addUser((name) => (name === 'G' ? 'schedule nightly' : undefined));
    expect(() => tasks.delete('G')).toThrow(/refused: schedule nightly runs it/);
  }));

test.each([
  ['a member that is not there', { tasks: ['nope'] }, 'TASK_NOT_FOUND'],
  ['itself as a member', { name: 'H', tasks: ['H'] }, 'INVALID_ARGUMENT'],
  ['a group as a member', { tasks: ['G'] }, 'INVALID_ARGUMENT'],
  ['no members', { tasks: [] }, 'INVALID_ARGUMENT'],
  ['pairs', { pairs: ESTABLISH.pairs }, 'INVALID_ARGUMENT'],
  ['too many members', { tasks: Array(257).fill(ESTABLISH.name) as string[] }, 'INVALID_ARGUMENT'],
])('a group with %s is refused', (_what, change, code) =>
  scoped(async (scope) => {
    const { tasks } = await openTasks(scope);
    tasks.create(ESTABLISH);
    tasks.create({ name: 'G', type: 'group', tasks: [ESTABLISH.name] });
    const group = { name: 'H', type: 'group', tasks: [ESTABLISH.name], ...change } as const;
    expect(() => tasks.create(group)).toThrow(expect.objectContaining({ code }) as Error);
    expect(tasks.list()).toHaveLength(2);
  }),
);

test('several tasks are saved, all or none, and members may come with them', () =>
  scoped(async (scope) => {
    const { tasks } = await openTasks(scope);
    tasks.create(WITHDRAW);
    const group = { name: 'G', type: 'group', tasks: [ESTABLISH.name, WITHDRAW.name] } as const;
    const refused = (list: Parameters<typeof tasks.import>[0], code: string, replace = false) => {
      expect(() => tasks.import(list, replace)).toThrow(expect.objectContaining({ code }) as Error);
      expect(tasks.list().map(({ name }) => name)).toEqual([WITHDRAW.name]);
    };
    refused([group, ESTABLISH, WITHDRAW], 'TASK_EXISTS');
    refused([ESTABLISH, ESTABLISH], 'INVALID_ARGUMENT');
    refused([ESTABLISH, { ...group, tasks: ['x'] }], 'TASK_NOT_FOUND');
    refused([ESTABLISH, { ...ESTABLISH, name: 'a b' }], 'INVALID_ARGUMENT', true);
    tasks.import([group, ESTABLISH, { ...WITHDRAW, description: 'new' }], true);
    expect(tasks.list().map(({ name }) => name)).toEqual(['G', ESTABLISH.name, WITHDRAW.name]);
    expect(tasks.get(WITHDRAW.name).description).toBe('new');
    const becomes = { ...group, name: WITHDRAW.name, tasks: [ESTABLISH.name] };
    expect(() => tasks.import([becomes], true)).toThrow(/group G runs it, and a group cannot/);
  }));
