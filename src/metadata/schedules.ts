/** Schedules, their runs, and the copies that rotations keep. */

import type { VolumePair } from '../base/ids.js';
import type { TaskOptions } from '../base/task-types.js';
import type { MetadataDatabase } from './database.js';

export type MissedPolicy = 'once' | 'skip';

/** Copies one set of sources onto several sets of targets in turn. */
export interface Rotation {
  /** Volume ids. */
  readonly sources: readonly string[];
  /** Each as many as there are sources. */
  readonly targetSets: readonly (readonly string[])[];
  readonly options: TaskOptions;
  /** Copies kept: at most as many as there are sets. */
  readonly keep: number;
  /** For so long a copy can neither be replaced nor withdrawn; 0: not locked. */
  readonly lockSeconds: number;
}

export interface ScheduleRecord {
  readonly name: string;
  readonly cron: string;
  readonly timeZone: string;
  readonly enabled: boolean;
  readonly missed: MissedPolicy;
  /** Exactly one of the two. */
  readonly task: string | undefined;
  readonly rotation: Rotation | undefined;
  readonly createdMs: number;
  /** Times up to here have been dealt with. */
  readonly doneUntilMs: number;
}

export type ScheduleRunStatus = 'running' | 'completed' | 'failed' | 'skipped' | 'interrupted';

export interface ScheduleRunRecord {
  readonly id: number;
  /** The time it was due; undefined when somebody asked for it. */
  readonly dueMs: number | null;
  readonly startedMs: number;
  readonly finishedMs: number | null;
  readonly status: ScheduleRunStatus;
  readonly message: string;
}

/** A copy that a rotation made. */
export interface CopyRecord {
  readonly id: number;
  readonly schedule: string;
  readonly pairs: readonly VolumePair[];
  /** Which of the target sets. */
  readonly setIndex: number;
  /** When it was begun, and from when it is known to be there its T0. */
  readonly t0Ms: number;
  readonly lockedUntilMs: number;
  /** False from before the establish until after it. */
  readonly confirmed: boolean;
}

interface ScheduleRow {
  readonly name: string;
  readonly cron: string;
  readonly timeZone: string;
  readonly enabled: number;
  readonly missed: MissedPolicy;
  readonly task: string | null;
  readonly rotation: string | null;
  readonly createdMs: number;
  readonly doneUntilMs: number;
}

const COLUMNS = `name, cron, time_zone AS timeZone, enabled, missed, task, rotation,
  created_ms AS createdMs, done_until_ms AS doneUntilMs`;

export class ScheduleRepository {
  readonly #get;
  readonly #list;
  readonly #insert;
  readonly #delete;
  readonly #setEnabled;
  readonly #setDone;

  constructor(db: MetadataDatabase) {
    this.#get = db.prepare<[string], ScheduleRow>(
      `SELECT ${COLUMNS} FROM schedules WHERE name = ?`,
    );
    this.#list = db.prepare<[], ScheduleRow>(`SELECT ${COLUMNS} FROM schedules ORDER BY name`);
    this.#insert = db.prepare<Record<keyof ScheduleRow, string | number | null>>(
      `INSERT INTO schedules (name, cron, time_zone, enabled, missed, task, rotation, created_ms,
         done_until_ms)
       VALUES (@name, @cron, @timeZone, @enabled, @missed, @task, @rotation, @createdMs,
         @doneUntilMs)`,
    );
    this.#delete = db.prepare<[string]>('DELETE FROM schedules WHERE name = ?');
    this.#setEnabled = db.prepare<[number, number, string]>(
      'UPDATE schedules SET enabled = ?, done_until_ms = ? WHERE name = ?',
    );
    this.#setDone = db.prepare<[number, string]>(
      'UPDATE schedules SET done_until_ms = ? WHERE name = ?',
    );
  }

  get(name: string): ScheduleRecord | undefined {
    const row = this.#get.get(name);
    return row === undefined ? undefined : fromRow(row);
  }

  list(): ScheduleRecord[] {
    return this.#list.all().map(fromRow);
  }

  add(schedule: ScheduleRecord): void {
    const { enabled, rotation, task } = schedule;
    this.#insert.run({
      ...schedule,
      enabled: Number(enabled),
      task: task ?? null,
      rotation: rotation === undefined ? null : JSON.stringify(rotation),
    });
  }

  /** Also deletes its runs and what is known of its copies. */
  delete(name: string): void {
    this.#delete.run(name);
  }

  setEnabled(name: string, enabled: boolean, doneUntilMs: number): void {
    this.#setEnabled.run(Number(enabled), doneUntilMs, name);
  }

  /** Durable when it returns. */
  setDone(name: string, doneUntilMs: number): void {
    this.#setDone.run(doneUntilMs, name);
  }
}

function fromRow({ enabled, rotation, task, ...row }: ScheduleRow): ScheduleRecord {
  return {
    ...row,
    enabled: enabled !== 0,
    task: task ?? undefined,
    rotation: rotation === null ? undefined : (JSON.parse(rotation) as Rotation),
  };
}

export class ScheduleRunRepository {
  readonly #insert;
  readonly #finish;
  readonly #list;
  readonly #interrupt;
  readonly #prune;
  readonly #kept: number;

  /** `kept`: runs kept of a schedule; the oldest go. */
  constructor(db: MetadataDatabase, kept: number) {
    this.#kept = kept;
    this.#insert = db.prepare<[string, number | null, number, ScheduleRunStatus, string]>(
      `INSERT INTO schedule_runs (schedule, due_ms, started_ms, status, message)
       VALUES (?, ?, ?, ?, ?)`,
    );
    this.#finish = db.prepare<[ScheduleRunStatus, string, number, number]>(
      'UPDATE schedule_runs SET status = ?, message = ?, finished_ms = ? WHERE id = ?',
    );
    this.#list = db.prepare<[string, number], ScheduleRunRecord>(
      `SELECT id, due_ms AS dueMs, started_ms AS startedMs, finished_ms AS finishedMs, status,
         message
       FROM schedule_runs WHERE schedule = ? ORDER BY id DESC LIMIT ?`,
    );
    this.#interrupt = db.prepare<[string]>(
      `UPDATE schedule_runs SET status = 'interrupted', message = ? WHERE status = 'running'`,
    );
    this.#prune = db.prepare<[string, number]>(
      `DELETE FROM schedule_runs WHERE id IN
         (SELECT id FROM schedule_runs WHERE schedule = ? ORDER BY id DESC LIMIT -1 OFFSET ?)`,
    );
  }

  /** Returns the run's id. */
  begin(schedule: string, dueMs: number | null, startedMs: number): number {
    const { lastInsertRowid } = this.#insert.run(schedule, dueMs, startedMs, 'running', '');
    this.#prune.run(schedule, this.#kept);
    return Number(lastInsertRowid);
  }

  /** Without effect when the schedule was deleted while it ran. */
  finish(id: number, status: ScheduleRunStatus, message: string, finishedMs: number): void {
    this.#finish.run(status, message, finishedMs, id);
  }

  /** The newest first. */
  list(schedule: string, most: number): ScheduleRunRecord[] {
    return this.#list.all(schedule, most);
  }

  /** Runs of a process that ended before they did. Returns how many. */
  interrupt(message: string): number {
    return this.#interrupt.run(message).changes;
  }
}

interface CopyRow extends Omit<CopyRecord, 'pairs' | 'confirmed'> {
  readonly pairs: string;
  readonly confirmed: number;
}

export class CopyRepository {
  readonly #insert;
  readonly #confirm;
  readonly #delete;
  readonly #list;

  constructor(db: MetadataDatabase) {
    this.#insert = db.prepare<[string, string, number, number]>(
      `INSERT INTO scheduled_copies (schedule, pairs, set_index, t0_ms, locked_until_ms, confirmed)
       VALUES (?, ?, ?, ?, 0, 0)`,
    );
    this.#confirm = db.prepare<[number, number, number]>(
      'UPDATE scheduled_copies SET t0_ms = ?, locked_until_ms = ?, confirmed = 1 WHERE id = ?',
    );
    this.#delete = db.prepare<[number]>('DELETE FROM scheduled_copies WHERE id = ?');
    this.#list = db.prepare<[], CopyRow>(
      `SELECT id, schedule, pairs, set_index AS setIndex, t0_ms AS t0Ms,
         locked_until_ms AS lockedUntilMs, confirmed
       FROM scheduled_copies ORDER BY t0_ms DESC, id DESC`,
    );
  }

  /** The newest first. */
  list(): CopyRecord[] {
    return this.#list.all().map(({ confirmed, pairs, ...row }) => ({
      ...row,
      pairs: JSON.parse(pairs) as VolumePair[],
      confirmed: confirmed !== 0,
    }));
  }

  /** A copy that is about to be made; returns its id. */
  begin(copy: Pick<CopyRecord, 'schedule' | 'pairs' | 'setIndex'>, startedMs: number): number {
    const pairs = JSON.stringify(copy.pairs);
    return Number(this.#insert.run(copy.schedule, pairs, copy.setIndex, startedMs).lastInsertRowid);
  }

  confirm(id: number, t0Ms: number, lockedUntilMs: number): void {
    this.#confirm.run(t0Ms, lockedUntilMs, id);
  }

  delete(id: number): void {
    this.#delete.run(id);
  }
}
