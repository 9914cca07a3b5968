import { expect, test } from 'vitest';
import { CounterRepository, SettingRepository } from '../../../src/metadata/counters.js';
import { hashPassword, verifyPassword } from '../../../src/metadata/passwords.js';
import { type TaskRecord, TaskRepository } from '../../../src/metadata/tasks.js';
import { SessionRepository, UserRepository } from '../../../src/metadata/users.js';
import { scoped } from '../../helpers/cleanup.js';
import { openTestDatabase } from './open.js';

const TASK: TaskRecord = {
  name: 'VMWare_W2K_FC',
  type: 'establish',
  tasks: [],
  lss: [],
  pairs: [{ source: '1203', target: '1303' }],
  options: { noCopy: true },
  description: 'Disk1 of both guests',
  createdMs: 1,
};

function run(message: string) {
  return {
    status: 'completed',
    message,
    startedMs: 1,
    finishedMs: 2,
    startedBy: 'user admin',
  } as const;
}

test('a counter begins where it is told and never repeats', () =>
  scoped(async (scope) => {
    const counters = new CounterRepository(await openTestDatabase(scope));
    expect([1, 2, 3].map(() => counters.next('id', 10))).toEqual([10, 11, 12]);
    expect(counters.next('other', 1)).toBe(1);
  }));

test('a setting keeps its first value', () =>
  scoped(async (scope) => {
    const settings = new SettingRepository(await openTestDatabase(scope));
    expect(settings.get('serial')).toBeUndefined();
    expect(settings.keepFirst('serial', 'FCA01')).toBe('FCA01');
    expect(settings.keepFirst('serial', '13698')).toBe('FCA01');
  }));

test('a task comes back as it was saved, with its last result', () =>
  scoped(async (scope) => {
    const tasks = new TaskRepository(await openTestDatabase(scope), 2);
    tasks.put([TASK]);
    expect(tasks.get(TASK.name)).toEqual(TASK);
    expect(tasks.list()).toEqual([TASK]);
    expect(tasks.count()).toBe(1);
    expect(tasks.lastRun(TASK.name)).toBeUndefined();
    for (const message of ['a', 'b', 'c']) tasks.addRun(TASK.name, run(message));
    expect(tasks.lastRun(TASK.name)).toEqual(run('c'));
  }));

test('only the newest results of a task are kept', () =>
  scoped(async (scope) => {
    const db = await openTestDatabase(scope);
    const tasks = new TaskRepository(db, 2);
    tasks.put([TASK]);
    tasks.put([{ ...TASK, name: 'other' }]);
    tasks.addRun('other', run('x'));
    for (const message of ['a', 'b', 'c']) tasks.addRun(TASK.name, run(message));
    const kept = db.prepare('SELECT message FROM task_runs ORDER BY id').pluck().all();
    expect(kept).toEqual(['x', 'b', 'c']);
  }));

test('a task of a name that exists takes its place and keeps its results; all or none', () =>
  scoped(async (scope) => {
    const tasks = new TaskRepository(await openTestDatabase(scope), 2);
    tasks.put([TASK]);
    tasks.addRun(TASK.name, run('a'));
    const group = { ...TASK, type: 'group', pairs: [], tasks: ['x', 'y'], options: {} } as const;
    tasks.put([group]);
    expect(tasks.get(TASK.name)).toEqual(group);
    expect(tasks.runs(TASK.name, 5)).toEqual([run('a')]);
    const broken = { ...TASK, name: 'broken', description: null as unknown as string };
    expect(() => tasks.put([{ ...TASK, name: 'new' }, broken])).toThrow(/NOT NULL/);
    expect(tasks.count()).toBe(1);
  }));

test('deleting a task deletes its results; a result of a deleted task is dropped', () =>
  scoped(async (scope) => {
    const db = await openTestDatabase(scope);
    const tasks = new TaskRepository(db, 2);
    tasks.put([TASK]);
    tasks.addRun(TASK.name, run('a'));
    expect(tasks.delete(TASK.name)).toBe(true);
    expect(tasks.delete(TASK.name)).toBe(false);
    tasks.addRun(TASK.name, run('b'));
    expect(db.prepare('SELECT count(*) FROM task_runs').pluck().get()).toBe(0);
  }));

test('sessions expire, end, and the oldest makes room', () =>
  scoped(async (scope) => {
    const db = await openTestDatabase(scope);
    const users = new UserRepository(db);
    users.add({ name: 'admin', password: 'x', role: 'admin' }, 0);
    const sessions = new SessionRepository(db, 2);
    const token = (name: string) => Buffer.from(name);
    sessions.add(token('a'), 'admin', 0, 100);
    sessions.add(token('b'), 'admin', 0, 200);
    expect(sessions.find(token('a'), 99)).toMatchObject({ userName: 'admin', role: 'admin' });
    expect(sessions.find(token('a'), 100)).toBeUndefined();
    sessions.add(token('c'), 'admin', 50, 200);
    expect(sessions.find(token('a'), 50)).toBeUndefined();
    expect(sessions.find(token('b'), 50)).toBeDefined();
    sessions.end(token('b'));
    expect(sessions.find(token('b'), 50)).toBeUndefined();
    sessions.endAllOf('admin');
    expect(sessions.find(token('c'), 50)).toBeUndefined();
  }));

test('a session needs a user', () =>
  scoped(async (scope) => {
    const sessions = new SessionRepository(await openTestDatabase(scope), 2);
    expect(() => {
      sessions.add(Buffer.from('a'), 'nobody', 0, 1);
    }).toThrow(/FOREIGN KEY/);
  }));

test('passwords verify, whatever cost they were stored with', async () => {
  const phc = await hashPassword('pässwörd', { ln: 10, r: 8, p: 1 });
  expect(phc).toMatch(/^\$scrypt\$ln=10,r=8,p=1\$[^$=]+\$[^$=]+$/);
  expect(await verifyPassword('pässwörd', phc)).toBe(true);
  expect(await verifyPassword('password', phc)).toBe(false);
  expect(await hashPassword('pässwörd', { ln: 10, r: 8, p: 1 })).not.toBe(phc);
});

test('the standard cost is 2^17', async () => {
  const phc = await hashPassword('secret');
  expect(phc).toMatch(/^\$scrypt\$ln=17,r=8,p=1\$/);
  expect(await verifyPassword('secret', phc)).toBe(true);
});

test.each(['', 'plain', '$argon2id$v=19$x$y', '$scrypt$ln=31,r=8,p=1$AAAA$AAAA'])(
  'a stored %j never verifies',
  async (phc) => {
    expect(await verifyPassword('', phc)).toBe(false);
  },
);
