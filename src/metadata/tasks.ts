/** Saved Copy Services tasks and the results of their runs. */

import type { VolumePair } from '../base/ids.js';
import type { MetadataDatabase } from './database.js';

export type TaskType = 'establish' | 'withdraw';
export type TaskStatus = 'completed' | 'failed';

export interface TaskOptions {
  readonly noCopy: boolean;
}

export interface TaskRecord {
  readonly name: string;
  readonly type: TaskType;
  readonly pairs: readonly VolumePair[];
  readonly options: TaskOptions;
  readonly description: string;
  readonly createdMs: number;
}

export interface TaskRunRecord {
  readonly status: TaskStatus;
  readonly message: string;
  readonly startedMs: number;
  readonly finishedMs: number;
}

interface TaskRow extends Omit<TaskRecord, 'pairs' | 'options'> {
  readonly pairs: string;
  readonly options: string;
}

const COLUMNS = 'name, type, pairs, options, description, created_ms AS createdMs';

export class TaskRepository {
  readonly #get;
  readonly #list;
  readonly #count;
  readonly #insert;
  readonly #delete;
  readonly #lastRun;
  readonly #addRun;

  /** `runsKept`: results kept per task; the oldest go. */
  constructor(db: MetadataDatabase, runsKept: number) {
    this.#get = db.prepare<[string], TaskRow>(`SELECT ${COLUMNS} FROM tasks WHERE name = ?`);
    this.#list = db.prepare<[], TaskRow>(`SELECT ${COLUMNS} FROM tasks ORDER BY name`);
    this.#count = db.prepare<[], number>('SELECT count(*) FROM tasks').pluck();
    this.#insert = db.prepare<[string, TaskType, string, string, string, number]>(
      `INSERT INTO tasks (name, type, pairs, options, description, created_ms)
       VALUES (?, ?, ?, ?, ?, ?)`,
    );
    this.#delete = db.prepare<[string]>('DELETE FROM tasks WHERE name = ?');
    this.#lastRun = db.prepare<[string], TaskRunRecord>(
      `SELECT status, message, started_ms AS startedMs, finished_ms AS finishedMs
       FROM task_runs WHERE task_id = (SELECT id FROM tasks WHERE name = ?)
       ORDER BY id DESC LIMIT 1`,
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

  add(task: TaskRecord): void {
    const { name, type, description, createdMs } = task;
    const pairs = JSON.stringify(task.pairs);
    this.#insert.run(name, type, pairs, JSON.stringify(task.options), description, createdMs);
  }

  /** Also deletes its results. Returns whether there was such a task. */
  delete(name: string): boolean {
    return this.#delete.run(name).changes > 0;
  }

  lastRun(name: string): TaskRunRecord | undefined {
    return this.#lastRun.get(name);
  }

  /** Without effect when the task was deleted while it ran. */
  addRun(name: string, run: TaskRunRecord): void {
    this.#addRun(name, run);
  }
}

function runInserter(db: MetadataDatabase, kept: number) {
  const insert = db.prepare<[TaskStatus, string, number, number, string]>(
    `INSERT INTO task_runs (task_id, status, message, started_ms, finished_ms)
     SELECT id, ?, ?, ?, ? FROM tasks WHERE name = ?`,
  );
  const prune = db.prepare<[string, number]>(
    `DELETE FROM task_runs WHERE id IN
       (SELECT task_runs.id FROM task_runs JOIN tasks ON tasks.id = task_id WHERE tasks.name = ?
        ORDER BY task_runs.id DESC LIMIT -1 OFFSET ?)`,
  );
  return db.transaction((name: string, run: TaskRunRecord) => {
    insert.run(run.status, run.message, run.startedMs, run.finishedMs, name);
    prune.run(name, kept);
  });
}

function fromRow(row: TaskRow): TaskRecord {
  return {
    ...row,
    pairs: JSON.parse(row.pairs) as VolumePair[],
    options: JSON.parse(row.options) as TaskOptions,
  };
}
