/** Saved Copy Services tasks and the results of their runs. */

import type { VolumePair } from '../base/ids.js';
import type { TaskOptions, TaskType } from '../base/task-types.js';
import type { MetadataDatabase } from './database.js';

export type TaskStatus = 'completed' | 'failed';

export interface TaskRecord {
  readonly name: string;
  readonly type: TaskType;
  readonly pairs: readonly VolumePair[];
  /** Of a group: what it runs, in this order. */
  readonly tasks: readonly string[];
  /** Of a "consistency created". */
  readonly lss: readonly string[];
  readonly options: TaskOptions;
  readonly description: string;
  readonly createdMs: number;
}

export interface TaskRunRecord {
  readonly status: TaskStatus;
  readonly message: string;
  readonly startedMs: number;
  readonly finishedMs: number;
  /** `user admin`, `schedule nightly`, `group G`. */
  readonly startedBy: string;
}

interface TaskRow extends Omit<TaskRecord, 'pairs' | 'tasks' | 'lss' | 'options'> {
  readonly pairs: string;
  readonly tasks: string;
  readonly lss: string;
  readonly options: string;
}

const COLUMNS =
  'name, type, pairs, members AS tasks, lss, options, description, created_ms AS createdMs';
const RUN_COLUMNS =
  'status, message, started_ms AS startedMs, finished_ms AS finishedMs, started_by AS startedBy';

export class TaskRepository {
  readonly #get;
  readonly #list;
  readonly #count;
  readonly #put;
  readonly #delete;
  readonly #runs;
  readonly #addRun;

  /** `runsKept`: results kept per task; the oldest go. */
  constructor(db: MetadataDatabase, runsKept: number) {
    this.#get = db.prepare<[string], TaskRow>(`SELECT ${COLUMNS} FROM tasks WHERE name = ?`);
    this.#list = db.prepare<[], TaskRow>(`SELECT ${COLUMNS} FROM tasks ORDER BY name`);
    this.#count = db.prepare<[], number>('SELECT count(*) FROM tasks').pluck();
    this.#put = taskWriter(db);
    this.#delete = db.prepare<[string]>('DELETE FROM tasks WHERE name = ?');
    this.#runs = db.prepare<[string, number], TaskRunRecord>(
      `SELECT ${RUN_COLUMNS}
       FROM task_runs WHERE task_id = (SELECT id FROM tasks WHERE name = ?)
       ORDER BY id DESC LIMIT ?`,
    );
    this.#addRun = runInserter(db, runsKept);
  }

  get(name: string): TaskRecord | undefined {
    const row = this.#get.get(name);
    return row === undefined ? undefined : fromRow(row);
  }

  list(): TaskRecord[] {
    return this.#list.all().map(fromRow);
  }

  count(): number {
    return this.#count.get() ?? 0;
  }

  /** Adds tasks, all or none. Those of a name that exists take its place and keep its results. */
  put(tasks: readonly TaskRecord[]): void {
    this.#put(tasks);
  }

  /** Also deletes its results. Returns whether there was such a task. */
  delete(name: string): boolean {
    return this.#delete.run(name).changes > 0;
  }

  lastRun(name: string): TaskRunRecord | undefined {
    return this.#runs.get(name, 1);
  }

  /** The newest first. */
  runs(name: string, most: number): TaskRunRecord[] {
    return this.#runs.all(name, most);
  }

  /** Without effect when the task was deleted while it ran. */
  addRun(name: string, run: TaskRunRecord): void {
    this.#addRun(name, run);
  }
}

function taskWriter(db: MetadataDatabase) {
  const put = db.prepare<[string, TaskType, string, string, string, string, string, number]>(
    `INSERT INTO tasks (name, type, pairs, members, lss, options, description, created_ms)
     VALUES (?, ?, ?, ?, ?, ?, ?, ?)
     ON CONFLICT (name) DO UPDATE SET type = excluded.type, pairs = excluded.pairs,
       members = excluded.members, lss = excluded.lss,
       options = excluded.options, description = excluded.description`,
  );
  return db.transaction((tasks: readonly TaskRecord[]) => {
    for (const task of tasks) {
      const { name, type, description, createdMs } = task;
      const members = JSON.stringify(task.tasks);
      const [pairs, lss] = [JSON.stringify(task.pairs), JSON.stringify(task.lss)];
      const options = JSON.stringify(task.options);
      put.run(name, type, pairs, members, lss, options, description, createdMs);
    }
  });
}

function runInserter(db: MetadataDatabase, kept: number) {
  const insert = db.prepare<[TaskStatus, string, number, number, string, string]>(
    `INSERT INTO task_runs (task_id, status, message, started_ms, finished_ms, started_by)
     SELECT id, ?, ?, ?, ?, ? FROM tasks WHERE name = ?`,
  );
  const prune = db.prepare<[string, number]>(
    `DELETE FROM task_runs WHERE id IN
       (SELECT task_runs.id FROM task_runs JOIN tasks ON tasks.id = task_id WHERE tasks.name = ?
        ORDER BY task_runs.id DESC LIMIT -1 OFFSET ?)`,
  );
  return db.transaction((name: string, run: TaskRunRecord) => {
    const { status, message, startedMs, finishedMs, startedBy } = run;
    insert.run(status, message, startedMs, finishedMs, startedBy, name);
    prune.run(name, kept);
  });
}

function fromRow(row: TaskRow): TaskRecord {
  return {
    ...row,
    pairs: JSON.parse(row.pairs) as VolumePair[],
    tasks: JSON.parse(row.tasks) as string[],
    lss: JSON.parse(row.lss) as string[],
    options: JSON.parse(row.options) as TaskOptions,
  };
}
