import { readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import Database from 'better-sqlite3';
import { expect, test } from 'vitest';
import { openDatabase } from '../../../src/metadata/database.js';
import { MIGRATIONS, type Migration } from '../../../src/metadata/migrations.js';
import { TaskRepository } from '../../../src/metadata/tasks.js';
import { scoped } from '../../helpers/cleanup.js';
import { openTestDatabase, QUIET } from './open.js';

const FIRST: Migration = { version: 1, name: 'one', sql: 'CREATE TABLE a (x INTEGER) STRICT' };
const SECOND: Migration = { version: 2, name: 'two', sql: 'ALTER TABLE a ADD COLUMN y INTEGER' };
const BROKEN: Migration = { version: 3, name: 'three', sql: 'DROP TABLE a; SELECT nonsense' };

test('versions are consecutive', () => {
  expect(MIGRATIONS.map(({ version }) => version)).toEqual(
    MIGRATIONS.map((_m, index) => index + 1),
  );
});

test('a new database is durable, checked and private', () =>
  scoped(async (scope) => {
    const db = await openTestDatabase(scope);
    expect(db.pragma('journal_mode', { simple: true })).toBe('wal');
    expect(db.pragma('synchronous', { simple: true })).toBe(2);
    expect(db.pragma('foreign_keys', { simple: true })).toBe(1);
    expect(db.pragma('user_version', { simple: true })).toBe(MIGRATIONS.length);
    expect(statSync(db.name).mode & 0o777).toBe(0o600);
  }));

test('a migration keeps the data, and a copy of the file from before it', () =>
  scoped(async (scope) => {
    const file = join(await scope.tempDir(), 'db');
    const old = await openDatabase(file, QUIET, [FIRST]);
    old.exec('INSERT INTO a VALUES (7)');
    old.close();
    const db = await openDatabase(file, QUIET, [FIRST, SECOND]);
    expect(db.prepare('SELECT x, y FROM a').get()).toEqual({ x: 7, y: null });
    db.close();
    const copy = new Database(`${file}.before-v2`, { readonly: true });
    expect(copy.pragma('user_version', { simple: true })).toBe(1);
    expect(copy.prepare('SELECT x FROM a').get()).toEqual({ x: 7 });
    copy.close();
    expect(statSync(`${file}.before-v2`).mode & 0o777).toBe(0o600);
  }));

test('a migration that fails changes nothing', () =>
  scoped(async (scope) => {
    const file = join(await scope.tempDir(), 'db');
    (await openDatabase(file, QUIET, [FIRST])).close();
    const opening = openDatabase(file, QUIET, [FIRST, SECOND, BROKEN]);
    await expect(opening).rejects.toMatchObject({ code: 'METADATA_UNUSABLE' });
    const db = await openDatabase(file, QUIET, [FIRST]);
    expect(db.prepare('SELECT count(*) AS n FROM a').get()).toEqual({ n: 0 });
    db.close();
  }));

test('a newer version is refused', () =>
  scoped(async (scope) => {
    const file = join(await scope.tempDir(), 'db');
    (await openDatabase(file, QUIET, [FIRST, SECOND])).close();
    const opening = openDatabase(file, QUIET, [FIRST]);
    await expect(opening).rejects.toThrow(/version 2.*versions up to 1/);
  }));

test('a file that is no database is refused and left as it is', () =>
  scoped(async (scope) => {
    const file = join(await scope.tempDir(), 'db');
    const junk = 'not a database'.repeat(1000);
    writeFileSync(file, junk);
    await expect(openDatabase(file, QUIET)).rejects.toMatchObject({ code: 'METADATA_UNUSABLE' });
    expect(readFileSync(file, 'utf8')).toBe(junk);
  }));

const TASK_TYPES_AT = MIGRATIONS.findIndex(({ name }) => name.startsWith('tasks of all types'));

test('tasks of the version before task types are kept with their results', () =>
  scoped(async (scope) => {
    const file = join(await scope.tempDir(), 'db');
    const old = await openDatabase(file, QUIET, MIGRATIONS.slice(0, TASK_TYPES_AT));
    old.exec(`INSERT INTO tasks VALUES (7, 'T', 'withdraw', '[]', '{}', '', 5);
      INSERT INTO task_runs VALUES (9, 7, 'failed', 'why', 1, 2)`);
    old.close();
    const db = await openDatabase(file, QUIET);
    scope.defer('close', () => db.close());
    const tasks = new TaskRepository(db, 10);
    expect(tasks.get('T')).toMatchObject({ type: 'withdraw', tasks: [], createdMs: 5 });
    expect(tasks.lastRun('T')).toMatchObject({ status: 'failed', message: 'why', startedBy: '' });
    expect(db.pragma('foreign_key_check')).toEqual([]);
    tasks.delete('T');
    expect(db.prepare('SELECT count(*) FROM task_runs').pluck().get()).toBe(0);
  }));
